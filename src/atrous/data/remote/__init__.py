"""Pictures and masks at URLs."""
