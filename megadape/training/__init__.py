"""Engines, loop, optimizer, schedule, metrics."""
