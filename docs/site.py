"""Pages of the site that live elsewhere in the repository: the README, the notebook and the zoo's card."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
#: Files that the site has under another name.
PAGES = {"examples/quickstart.ipynb": "tutorial.md", "zoo/camvid.md": "camvid.md"}


def on_files(files: Any, config: Any) -> Any:
    """Adds the home, the tutorial and the zoo's card."""
    made = {
        "index.md": _home((ROOT / "README.md").read_text(encoding="utf-8")),
        "tutorial.md": _inside(
            _text_of(json.loads((ROOT / "examples/quickstart.ipynb").read_text(encoding="utf-8"))), "examples"
        ),
        "camvid.md": _inside((ROOT / "zoo/camvid.md").read_text(encoding="utf-8"), "zoo"),
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links from docs/ to the rest of the repository lead to the page that shows the file, or are words alone."""
    path = ROOT / "docs" / page.file.src_uri
    return _inside(markdown, path.parent.relative_to(ROOT).as_posix()) if path.exists() else markdown


def _home(readme: str) -> str:
    """The README as it stands, but for the last line of links, which the navigation has."""
    return _inside(readme.partition("\n## More\n")[0], "")


def _inside(markdown: str, folder: str) -> str:
    """Markdown of a file in some folder of the repository, for the site: links start at its own folder in docs/."""
    start = folder.removeprefix("docs").lstrip("/") if folder.startswith("docs") else ""

    def link(match: re.Match[str]) -> str:
        mark, words, target, anchor = match.groups(default="")
        if re.match(r"[a-z]+:", target) or not target:
            return match[0]
        path = (ROOT / folder / target).resolve().relative_to(ROOT).as_posix()
        inside = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        return f"{mark}[{words}]({posixpath.relpath(inside, start or '.')}{anchor})" if inside else words

    return re.sub(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)", link, markdown)


def _text_of(notebook: dict[str, Any]) -> str:
    """A notebook's words and code."""
    cells = ((cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"])
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells) + "\n"
