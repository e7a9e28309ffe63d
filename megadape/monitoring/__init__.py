"""Runs as somebody who watches sees them, from their folders alone: a table, a view that follows one, a page of curves.

Nothing is written into a run folder, nothing of a run is imported (torch least of all), and a folder in which something
is damaged is shown as far as it can be read.
"""
