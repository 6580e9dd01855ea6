"""Loss functions for training."""
