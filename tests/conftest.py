"""Fixtures: the shared data where it is present, tiny datasets made on the spot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("ATROUS_SHARED", Path(__file__).parents[2] / "shared"))
_absent = pytest.StashKey[int]()


@pytest.fixture
def shared(request: pytest.FixtureRequest) -> Path:
    """The folder of real data that developers have; skips where it is absent."""
    if not (SHARED / "data").is_dir():
        request.config.stash[_absent] = request.config.stash.get(_absent, 0) + 1
        pytest.skip(f"no shared data at {SHARED} (set ATROUS_SHARED)")
    return SHARED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.write_line(f"{config.stash.get(_absent, 0)} tests skipped for want of the shared data")
