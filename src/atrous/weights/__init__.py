"""Adapters for checkpoints of other libraries; foreign names of weights are used in this package only."""
