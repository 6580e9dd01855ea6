"""Builds the source archive and the wheel, and uses the wheel alone, in a fresh environment outside the repository.

    python .ci/release_check.py      # the same as: make release-check

The environment is made with the Python that runs this, from constraints.txt, and removed in the end. Only dist/ stays.
"""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START = time.monotonic()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

#: Twelve pictures of boxes with their masks, and a list of each split.
DATASET = """
import numpy, pathlib
from PIL import Image
random, root = numpy.random.default_rng(0), pathlib.Path("data")
for folder in ("images", "masks", "splits"):
    (root / folder).mkdir(parents=True)
names = {"train": range(8), "val": range(8, 10), "test": range(10, 12)}
for split, numbers in names.items():
    (root / "splits" / f"{split}.txt").write_text("\\n".join(f"p{number}" for number in numbers))
    for number in numbers:
        mask = numpy.zeros((64, 80), numpy.uint8)
        y, x = random.integers(5, 40, 2)
        mask[y : y + 20, x : x + 20] = 1
        picture = mask[..., None] * 120 + random.integers(0, 80, (64, 80, 3))
        Image.fromarray(picture.astype("uint8")).save(root / "images" / f"p{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"p{number}.png")
names = "- {name: ground, color: [90, 60, 30]}\\n- {name: box, color: [220, 40, 40]}"
(root / "classes.yaml").write_text(f"classes:\\n{names}\\n")
"""

RUN = "runs/quickstart/best.safetensors"
#: What a user does first; each must end with 0.
COMMANDS = (
    "demo --epochs 1 --out demo",
    "doctor data",
    "train quickstart --data.root data --train.epochs 2 --train.batch_size 4 --augment.crop 48,64",
    f"evaluate {RUN} data --split test --json scores.json",
    f"predict {RUN} data/images --overlay",
    f"explain {RUN} data/images/p10.png",
    "report runs/quickstart",
)
MADE = (
    "demo/report.html",
    "runs/quickstart/report.html",
    "scores.json",
    "predictions/p11.overlay.png",
    "explained/explanation.html",
)


def main() -> None:
    """Checks everything."""
    before = status()
    with tempfile.TemporaryDirectory(prefix="atrous-release-") as place:
        outside = Path(place)
        wheel, archive = built(outside / "tools")
        check_contents(wheel, archive)
        python = installed(outside / "environment", wheel)
        home = outside / "empty"
        home.mkdir()
        check_words(python, home)
        check_use(python, home)
    left = status() - before
    must(not left, f"left in the repository: {sorted(left)}")
    say("The wheel alone suffices.")


def built(tools: Path) -> tuple[Path, Path]:
    """The wheel, made of the source archive, and the archive."""
    dist = ROOT / "dist"
    for old in dist.glob("atrous-*"):
        old.unlink()
    python = environment(tools)
    pip(python, "build")
    run([python, "-m", "build", "--outdir", dist, ROOT], ROOT)
    wheel, archive = next(dist.glob("*.whl")), next(dist.glob("*.tar.gz"))
    try:
        pip(python, "twine")
    except SystemExit:
        say("twine cannot be installed here: `twine check` is left out")
    else:
        run([python, "-m", "twine", "check", "--strict", wheel, archive], ROOT)
    return wheel, archive


def check_contents(wheel: Path, archive: Path) -> None:
    """Every file of the package is in both, nothing else in the wheel; its metadata are pyproject.toml's."""
    sources = package_files()
    with tarfile.open(archive) as tar:
        in_archive = {name.partition("/")[2] for name in tar.getnames()}
    must(sources <= in_archive, f"not in the source archive: {sorted(sources - in_archive)}")
    with zipfile.ZipFile(wheel) as package:
        names = set(package.namelist())
        about = f"atrous-{PROJECT['version']}.dist-info"
        metadata = email.message_from_bytes(package.read(f"{about}/METADATA"))
        scripts = package.read(f"{about}/entry_points.txt").decode()
    own = {path.removeprefix("src/") for path in sources}
    inside = {name for name in names if not name.startswith(about)}
    must(own == inside, f"not in the wheel: {sorted(own - inside)}; in the wheel only: {sorted(inside - own)}")
    must(f"{about}/licenses/LICENSE" in names, "the licence is not in the wheel")
    must("atrous = atrous.cli:main" in scripts, "no command `atrous`")
    for field, value in (
        ("Name", "atrous"),
        ("Version", PROJECT["version"]),
        ("Requires-Python", PROJECT["requires-python"]),
    ):
        must(metadata[field] == value, f"{field} is {metadata[field]}, not {value}")
    must(len(str(metadata.get_payload())) > 1000, "the README is not the description")


def installed(place: Path, wheel: Path) -> str:
    """The Python of a fresh environment with the wheel and what the demo needs."""
    python = environment(place)
    pip(python, "-c", str(ROOT / "constraints.txt"), f"{wheel}[demo]")
    return python


def check_words(python: str, home: Path) -> None:
    """The version, help of every verb, completion, and what is not there."""
    said = atrous(python, home, "--version")
    must(said.split() == ["atrous", PROJECT["version"]], f"`atrous --version` says {said}")
    verbs = sorted(path.stem for path in (ROOT / "src/atrous/commands").glob("[a-z]*.py"))
    overview = atrous(python, home, "--help")
    for verb in verbs:
        must(verb in overview, f"`atrous --help` does not name {verb}")
        must(f"usage: atrous {verb}" in atrous(python, home, f"{verb} --help"), f"`atrous {verb} --help` says nothing")
    must("complete" in atrous(python, home, "completion bash"), "no completion for bash")
    must(
        "repository" in atrous(python, home, "evaluate zoo/camvid.safetensors data", fails=True),
        "the refusal does not name the repository",
    )
    must("Did you mean 'quickstart'" in atrous(python, home, "train quikstart", fails=True), "no nearest recipe")
    must(not list(home.iterdir()), "help wrote files")


def check_use(python: str, home: Path) -> None:
    """What a user does first, from data to a report."""
    run([python, "-c", DATASET], home)
    for command in COMMANDS:
        atrous(python, home, command)
    for name in MADE:
        must((home / name).stat().st_size > 0, f"{name} is not there")


def environment(place: Path) -> str:
    """The Python of a new virtual environment."""
    run([sys.executable, "-m", "venv", place], ROOT)
    return str(place / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def pip(python: str, *words: str) -> None:
    """Installs packages."""
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words], ROOT)


def atrous(python: str, home: Path, words: str, fails: bool = False) -> str:
    """What a command of the installed wheel prints."""
    return run([Path(python).with_name("atrous"), *words.split()], home, fails=fails)


def run(words: list, folder: Path, fails: bool = False) -> str:
    """What a program prints, in a folder, with nothing of the repository in its environment."""
    say("$ " + " ".join(str(word) for word in words if "\n" not in str(word)))
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=kept if folder == ROOT else {**kept, "XDG_CACHE_HOME": str(folder.parent / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    must((done.returncode != 0) == fails, f"{words} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def package_files() -> set[str]:
    """The files of src/atrous that git knows; where there is no git repository, all that Python did not make."""
    listed = git("ls-files", "--cached", "--others", "--exclude-standard", "src/atrous")
    if listed is None:
        found = {path for path in (ROOT / "src" / "atrous").rglob("*") if "__pycache__" not in path.parts}
        listed = [path.relative_to(ROOT).as_posix() for path in found]
    return {path for path in listed if (ROOT / path).is_file()}


def status() -> set[str]:
    """Files of the repository that git does not know or that differ; none where there is no git repository."""
    return set(git("status", "--porcelain") or ())


def git(*words: str) -> list[str] | None:
    """The lines that git prints about the repository; None where there is no git, or no repository that it trusts."""
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, encoding="utf-8")
    return done.stdout.splitlines() if done.returncode == 0 else None


def say(text: str) -> None:
    """Prints a line at once, with the seconds since the start."""
    print(f"{time.monotonic() - START:4.0f} s  {text}", flush=True)


def must(right: bool, otherwise: str) -> None:
    """Ends the check where something is not as it must be."""
    if not right:
        raise SystemExit(f"release-check: {otherwise}")


if __name__ == "__main__":
    main()
