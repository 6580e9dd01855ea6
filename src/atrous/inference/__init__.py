"""Inference: segmenters, engines, tiles and jobs."""
