"""Volumes of CT and MRI: their files, their grids in the patient, and their slices."""
