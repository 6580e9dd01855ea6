"""The split and the group of each picture."""
