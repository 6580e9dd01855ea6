"""The layouts that a dataset's folder may have, one file each."""
