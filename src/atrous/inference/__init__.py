"""What prediction is made of."""
