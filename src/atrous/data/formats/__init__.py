"""Formats of picture files, one file each."""
