"""Explaining a model's answer for a picture: uncertainty, Grad-CAM, contributions of parts, receptive field."""
