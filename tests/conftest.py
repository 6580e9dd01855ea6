"""Fixtures: the shared data where it is present, tiny datasets made on the spot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Where a change is judged, the same examples every time; at home, new ones every time.
hypothesis.settings.register_profile("judged", derandomize=True, deadline=None)
hypothesis.settings.register_profile("home", deadline=None)
hypothesis.settings.load_profile("judged" if os.environ.get("CI") else "home")

SHARED = Path(os.environ.get("ATROUS_SHARED", Path(__file__).parents[2] / "shared"))
WITHOUT = f"no shared data at {SHARED} (set ATROUS_SHARED)"


@pytest.fixture
def shared() -> Path:
    """The folder of real data that developers have; skips where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(WITHOUT)
    return SHARED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many tests the missing data cost, also where several processes ran them."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if WITHOUT in str(report.longrepr)]
    terminalreporter.write_line(f"{len(skipped)} tests skipped for want of the shared data")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted networks are kept with the tests' other files, not with the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield
