"""What runs an update: plain torch, the reference, and DeepSpeed."""
