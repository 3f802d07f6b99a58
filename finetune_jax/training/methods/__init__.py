"""What each fine-tuning method trains, and its forward pass."""
