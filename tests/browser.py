"""A real browser for the tests of pages, and what these tests share."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def chromium(downloads: Path) -> Iterator[Any]:
    """Chromium without a window, whose attribute `downloads` is the folder of its downloads; skips if absent."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver_file = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver_file is None:
        pytest.skip("no chromium and chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_file))
    driver.set_window_size(1280, 860)
    driver.downloads = downloads
    yield driver
    driver.quit()


def keep_screenshot(browser: Any, suffix: str = "") -> None:
    """Where ATROUS_SCREENSHOTS names a folder, outside of the repository, each test leaves what it saw."""
    folder = os.environ.get("ATROUS_SCREENSHOTS")
    if folder:
        name = os.environ["PYTEST_CURRENT_TEST"].rpartition("::")[2].split(" ")[0]
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}{suffix}.png"))


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Waits until a condition holds, and returns its value."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return result
