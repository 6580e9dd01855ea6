"""Lets the tests of this folder import `protobuf`, which lies beside them; pytest's importlib mode alone would not."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
