"""Pretrained weights: where they come from, and how PyTorch names them."""
