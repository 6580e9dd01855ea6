"""Determines the split and the group of each picture."""
