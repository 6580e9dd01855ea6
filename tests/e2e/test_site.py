"""The documentation's site builds without a warning, and every page of docs/ is in it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def _pages():
    """The pages of docs/, with their folder."""
    docs = ROOT / "docs"
    return [path.relative_to(docs).with_suffix("").as_posix() for path in docs.rglob("*.md")]


def test_every_page_is_there_and_in_the_navigation(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    for page in [*_pages(), "tutorial", "camvid"]:
        assert (site / page / "index.html").exists(), page
        assert f'href="{page}/"' in home, page


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        assert not re.search(
            r'(?:<script|<img|<link rel="stylesheet)[^>]+(?:src|href)="https?:', page.read_text(encoding="utf-8")
        ), page


def test_all_links_of_the_site_lead_somewhere(site):
    for page in site.rglob("index.html"):
        for target in re.findall(r'<a [^>]*href="([^"#:]+)(?:#[^"]*)?"', page.read_text(encoding="utf-8")):
            found = (page.parent / target).resolve()
            assert found.exists(), f"{page.relative_to(site)}: {target}"


def test_the_api_has_the_docstrings(site):
    page = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("atrous.inference.segmenter.Segmenter", "atrous.commands.train.train", "atrous.models.info.Info"):
        assert f'id="{name}"' in page
    assert "output_stride" in page and "Raises" in page
