"""Explains a model's prediction for a picture: uncertainty, Grad-CAM, contributions of parts, receptive field."""
