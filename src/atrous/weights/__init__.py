"""Adapters for checkpoints of other libraries; only this package uses the weight names of other libraries."""
