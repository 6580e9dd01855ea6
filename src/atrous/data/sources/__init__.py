"""What pictures are read from and masks are written to, one file per kind."""
