"""The fully connected CRF of DeepLabV1 and V2, and the filter it is made of."""

import atrous.forks  # noqa: F401 (from here on, forked children compute with one thread)
from atrous.crf.lattice import Lattice, permutohedral_filter
from atrous.crf.mean_field import PRESETS, DenseCRF

__all__ = ["PRESETS", "DenseCRF", "Lattice", "permutohedral_filter"]
