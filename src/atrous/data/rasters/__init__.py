"""Rasters on Earth: the ground that their pixels cover."""
