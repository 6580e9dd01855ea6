"""Which way imports point, and what importing costs; see docs/architecture.md."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import atrous

SOURCE = Path(atrous.__file__).parent

#: What each package or file may import from this package, besides itself. "atrous" is the package's own root.
LOW = {
    *(
        "checked_arguments",
        "errors",
        "option_fields",
        "input_spec",
        "json_yaml",
        "fork_safety",
        "atomic_write",
        "logger",
        "software_tag",
    ),
    *("overwrite_checks", "memory_errors", "paths", "version", "file_lock"),
}
ALLOWED = {
    "errors": set(),
    "memory_errors": set(),
    "version": set(),
    "paths": {"errors"},
    "checked_arguments": {"errors", "memory_errors", "paths"},
    "option_fields": {"checked_arguments", "errors"},
    "json_yaml": {"errors"},
    "input_spec": {"checked_arguments", "errors"},
    "fork_safety": {"errors"},
    "atomic_write": {"errors"},
    "software_tag": set(),
    "file_lock": set(),
    "logger": set(),
    "overwrite_checks": {"errors", "input_spec", "json_yaml", "atomic_write", "software_tag"},
    "console": LOW,
    "fonts": {"logger"},
    "charts": LOW | {"fonts"},
    "device": LOW,
    "crf": LOW,
    "models": LOW | {"data"},
    "data": LOW,
    "model_state_dict": LOW | {"models"},
    "roundtrip_check": LOW | {"models", "model_state_dict"},
    "model_file": LOW | {"crf", "models", "model_state_dict", "roundtrip_check"},
    "adapter_file": LOW | {"models", "model_file"},
    "run_folder": LOW | {"model_file"},
    "weights": LOW | {"models", "data", "model_file", "console", "device"},
    "learning": LOW
    | {"crf", "models", "data", "model_file", "adapter_file", "console", "device", "run_folder", "charts"}
    | {"build_model", "inference"},
    "tuning": LOW | {"console", "run_folder", "learning"},
    "inference": LOW | {"fonts", "crf", "models", "data", "model_file", "adapter_file", "console", "device"},
    "cluster": LOW | {"data", "model_file", "inference", "console", "learning"},
    "explaining": LOW | {"crf", "models"},
    "serving": LOW | {"crf", "models", "data", "inference"},
    "build_model": LOW | {"models", "data", "model_file", "weights", "console"},
    "recipes": set(),
    "command_discovery": {"errors", "option_fields"},
    "help_text": {"command_discovery", "option_fields", "learning"},
    "__main__": {"cli"},
}
PACKAGES = {path.stem for path in SOURCE.iterdir() if path.is_dir() or path.suffix == ".py"} - {
    "__init__",
    "__pycache__",
}
ALLOWED["commands"] = PACKAGES - {"cli", "__main__"} | {"atrous"}
ALLOWED["cli"] = PACKAGES - {"__main__"} | {"atrous"}

FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, also inside its functions and for type checkers."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its package"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_packages(path: Path) -> set[str]:
    parts = [name.split(".") for name in imported_modules(path) if name.split(".")[0] == "atrous"]
    return {part[1] if len(part) > 1 and part[1] in PACKAGES else "atrous" for part in parts}


def test_every_package_has_a_place_in_the_order():
    assert ALLOWED.keys() == PACKAGES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    package = package_of(path)
    assert imported_packages(path) - {package} <= ALLOWED[package]


def imported_files(path: Path) -> set[Path]:
    """The files of this package that a file imports, also inside its functions and for type checkers."""
    files = set()
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] != "atrous":
            continue
        while parts:  # the longest part of the name that is a module; the rest is a name in it
            place = SOURCE.joinpath(*parts[1:])
            found = [one for one in (place.with_suffix(".py"), place / "__init__.py") if one.is_file()]
            if found:
                files.add(found[0])
                break
            parts.pop()
    return files - {path}


def test_no_files_import_each_other_in_a_circle():
    """Each file can be read after those that it imports."""
    waiting = {path: imported_files(path) for path in [*FILES, SOURCE / "__init__.py"]}
    while ready := {path for path, needed in waiting.items() if not needed & waiting.keys()}:
        waiting = {path: needed for path, needed in waiting.items() if path not in ready}
    circle = {
        str(path.relative_to(SOURCE)): [str(one.relative_to(SOURCE)) for one in needed & waiting.keys()]
        for path, needed in waiting.items()
    }
    assert not circle


def test_what_is_imported_by_name_exists():
    """Also inside functions that few calls reach, and for type checkers."""
    for path in [*FILES, SOURCE / "__init__.py"]:
        for name in imported_modules(path):
            if name.split(".")[0] != "atrous":
                continue
            parent, _, last = name.rpartition(".")
            place = SOURCE.joinpath(*parent.split(".")[1:])
            here = [one for one in (place.with_suffix(".py"), place / "__init__.py") if one.is_file()]
            module = SOURCE.joinpath(*name.split(".")[1:])
            if module.with_suffix(".py").is_file() or module.is_dir() or name == "atrous":
                continue
            assert here, f"{path} imports {name}, and there is no {parent}"
            text = here[0].read_text(encoding="utf-8")
            assert re.search(rf"\b{re.escape(last)}\b", text), f"{path} imports {last}, which {here[0]} does not have"


def test_device_needs_torch_only():
    outside = {name.split(".")[0] for name in imported_modules(SOURCE / "device.py")}
    assert outside - {"atrous"} - sys.stdlib_module_names == {"torch"}


def test_only_the_model_file_and_checkpoint_write_and_read_weights():
    """Nothing unpickles, but the adapters of foreign checkpoints."""
    for path in FILES:
        names = set(imported_modules(path))
        assert not any(name.split(".")[0] in ("pickle", "joblib", "dill", "shelve") for name in names), path
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        for call in calls:
            safe = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False"}.get(ast.unparse(call.func))
            if safe is not None:
                assert package_of(path) == "weights", path
                assert safe in ast.unparse(call), path


def test_no_function_hides_a_module_beside_it():
    """`from atrous.data.doctor import examine` must never mean two things, depending on what was imported before."""
    for path in [*FILES, SOURCE / "__init__.py"]:
        modules = {other.stem for other in path.parent.iterdir() if other.is_dir() or other.suffix == ".py"}
        own = {path.stem}  # `train` in commands/train.py is the verb
        tree = ast.parse(path.read_text(encoding="utf-8")).body
        names = {node.name for node in tree if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert not names & (modules - own), path
        if path.stem == "__init__":  # what a package exports sits right beside its modules
            exported = {alias.asname or alias.name for n in tree if isinstance(n, ast.ImportFrom) for alias in n.names}
            assert not exported & (modules - own), path
    assert not set(atrous.__all__) & PACKAGES


def test_every_command_is_a_function_of_its_files_name():
    for path in sorted((SOURCE / "commands").rglob("[a-z]*.py")):
        functions = [
            node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)
        ]
        assert path.stem in functions


def modules_after(code: str) -> set[str]:
    """Top-level packages loaded once `code` has run in a fresh process."""
    code += "\nimport sys; print('MODULES', *{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


def test_import_atrous_is_light():
    assert not modules_after("import atrous") & {"torch", "numpy", "PIL", "cv2", "timm"}


def test_help_is_light():
    loaded = modules_after("from atrous.cli import main; assert main(['--help']) == 0")
    assert not loaded & {"torch", "jsonargparse", "numpy", "PIL", "cv2", "rich"}


def test_public_names_all_exist():
    for name in atrous.__all__:
        assert getattr(atrous, name) is not None
    with pytest.raises(AttributeError, match="'atrous' has no attribute 'Segmentor'"):
        _ = atrous.Segmentor


#: Folders of which the architecture page describes what every file is, not each file.
DESCRIBED_AS_ONE = {"layouts", "splits", "doctor", "formats", "sources", "weights"}


def test_the_architecture_page_names_the_files_that_exist():
    page = (SOURCE.parents[1] / "docs/architecture.md").read_text(encoding="utf-8")
    section = page.partition("## The packages")[2].partition("## The path of one picture")[0]
    named = set(re.findall(r"`(_?[a-z][a-z0-9_]*)`", section))
    stems = {path.stem for path in FILES} - {"__init__"}
    suffixes = {"_cpu", "_torch", "_vector", "_plain"}  # of `permutohedral` and `row_sums`
    assert named - stems - suffixes <= {"atrous", "create_model"}
    listed = {
        path.stem for path in FILES if path.parent.name not in DESCRIBED_AS_ONE and path.parent.name != "commands"
    }
    unnamed = {stem for stem in listed if not re.search(rf"\b{stem}\b", section)}
    whole = {"__init__", "__main__", "permutohedral_cpu", "permutohedral_torch", "row_sums_vector", "row_sums_plain"}
    assert not unnamed - whole


def test_the_diagram_shows_the_imports_of_today():
    script = SOURCE.parents[1] / "docs/figures/architecture.py"
    spec = importlib.util.spec_from_file_location("architecture_figure", script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text(encoding="utf-8") == module.diagram()
