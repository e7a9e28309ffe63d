"""The ranks of a run."""
