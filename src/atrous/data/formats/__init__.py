"""Readers of picture file formats, one module per format."""
