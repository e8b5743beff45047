"""From a chain to graphs: torch operations of one leaf are traced and lowered."""
