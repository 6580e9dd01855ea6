"""Lets the tests of this folder import `protobuf` and parity's `seeded`; pytest's importlib mode alone would not."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "parity"))
