"""What is copied into an exported folder. These files import torch, transformers and each other, and never megadape."""
