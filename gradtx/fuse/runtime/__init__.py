"""Launch plans over lists of leaves: what runs, in which order, and what runs instead."""
