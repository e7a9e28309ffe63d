"""What keeps an eye on a run: when to stop, what hangs, what looks wrong, how it ended."""
