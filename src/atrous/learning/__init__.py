"""What training is made of."""
