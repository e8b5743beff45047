"""A small byte-level language-model task shared by the examples."""
