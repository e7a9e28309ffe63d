"""Layers as stages: who has which, in what order they work, and how DeepSpeed or torch drive them."""
