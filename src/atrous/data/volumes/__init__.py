"""Volumes of CT and MRI: their files, the positions of their voxels in the patient, and their slices."""
