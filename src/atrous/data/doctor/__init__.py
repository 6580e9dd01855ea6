"""The checks of `atrous doctor`: every file is scanned once, and the collected facts are judged."""
