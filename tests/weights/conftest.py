"""Lets the tests here import `protobuf`, which lies beside them, and parity's `seeded`; pytest's importlib mode alone would not."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "parity"))
