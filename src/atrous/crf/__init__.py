"""The fully connected CRF of DeepLabV1 and V2, and the permutohedral filter that it uses."""

import atrous.fork_safety  # noqa: F401 (child processes forked after this import compute with one thread)
from atrous.crf.mean_field import PRESETS, DenseCRF
from atrous.crf.permutohedral import Lattice, permutohedral_filter

__all__ = ["PRESETS", "DenseCRF", "Lattice", "permutohedral_filter"]
