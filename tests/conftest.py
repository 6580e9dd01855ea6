"""Fixtures: the shared data where it is present, tiny datasets made on the spot."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tests.browser import chromium

# Where a change is judged, the same examples every time; at home, new ones every time.
hypothesis.settings.register_profile("judged", derandomize=True, deadline=None)
hypothesis.settings.register_profile("home", deadline=None)
hypothesis.settings.load_profile("judged" if os.environ.get("CI") else "home")

SHARED = Path(os.environ.get("ATROUS_SHARED", Path(__file__).parents[2] / "shared"))
WITHOUT = f"no shared data at {SHARED} (set ATROUS_SHARED)"


def makes_links() -> bool:
    """Whether symbolic links can be made, which Windows allows few users."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            Path(folder, "link").symlink_to("nowhere")
        except (OSError, NotImplementedError):
            return False
    return True


#: What a test may need of the system (`pytest.mark.needs`): whether it is there, and why a test is skipped without it.
NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "fork": (lambda: hasattr(os, "fork"), "this system does not fork"),
    "kill": (lambda: hasattr(signal, "SIGKILL"), "this system has no signal that kills"),
    "signals": (lambda: os.name == "posix", "a signal to a process ends it here, and is not answered"),
    "modes": (lambda: hasattr(os, "geteuid"), "files have no modes here"),
    "links": (makes_links, "this user may not make symbolic links here"),
    "devices": (lambda: Path("/dev/stdout").exists() and Path("/dev/null").exists(), "devices are no files here"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests that need what the system does not have."""
    absent = {name: reason for name, (present, reason) in NEEDS.items() if not present()}
    for item in items:
        for name in [name for mark in item.iter_markers("needs") for name in mark.args]:
            assert name in NEEDS, f"{item.nodeid} needs {name}, which is not in the table"
            if name in absent:
                item.add_marker(pytest.mark.skip(reason=absent[name]))


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    """A browser without a window."""
    yield from chromium(tmp_path_factory.mktemp("downloads"))


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


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The content of a small model file."""
    import atrous

    path = tmp_path_factory.mktemp("model") / "good.safetensors"
    model = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_035", num_classes=3, aspp_channels=8)
    atrous.save(model, path)
    return path.read_bytes()


@pytest.fixture
def good(tmp_path: Path, written: bytes) -> Path:
    """A small model file, which a test may overwrite."""
    path = tmp_path / "good.safetensors"
    path.write_bytes(written)
    return path
