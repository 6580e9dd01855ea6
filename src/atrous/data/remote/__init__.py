"""Reads pictures from URLs, and writes masks to URLs."""
