"""megadape: GPTs with data-adaptive positional encoding."""
