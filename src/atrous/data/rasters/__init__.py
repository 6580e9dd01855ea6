"""Scenes of remote sensing: rasters with coordinates, their bands and their labels."""
