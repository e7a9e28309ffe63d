"""Studies: several runs side by side, and their report."""
