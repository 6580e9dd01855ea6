"""Inference: segmenters, engines, tiles and prediction jobs."""
