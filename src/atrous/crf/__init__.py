"""The fully connected CRF of DeepLabV1 and V2, and the filter it is made of."""

import atrous.fork_safety  # noqa: F401 (from here on, forked children compute with one thread)
from atrous.crf.mean_field import PRESETS, DenseCRF
from atrous.crf.permutohedral import Lattice, permutohedral_filter

__all__ = ["PRESETS", "DenseCRF", "Lattice", "permutohedral_filter"]
