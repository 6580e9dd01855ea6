"""What `atrous doctor` is made of: every file is scanned once, and the facts are judged."""
