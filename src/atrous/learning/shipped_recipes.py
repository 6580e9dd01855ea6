"""The recipes that ship with the package, found by name."""

from __future__ import annotations

from pathlib import Path

from atrous.errors import AtrousError, nearest
from atrous.logger import warn

RECIPES = Path(__file__).parents[1] / "recipes"
_ENDINGS = (".yaml", ".yml")


class RecipeWarning(UserWarning):
    """A recipe is not the one that its name may suggest."""


def shipped_recipes() -> dict[str, str]:
    """The recipes that ship, by name, each with its sentence: the first line of its file."""
    found = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        with path.open(encoding="utf-8") as lines:
            found[path.stem] = next(lines).strip("# \n")
    return found


def find_recipe(given: str | Path) -> Path:
    """The file of a recipe.

    A file wins over a recipe of that name that ships, and both may be named without `.yaml`.

    Args:
        given: path of a file, or the name of a recipe that ships.

    Warns:
        RecipeWarning: a file in the current folder is taken instead of a recipe of that name that ships.

    Raises:
        AtrousError: there is neither; the nearest name and those that ship are listed.
    """
    path = Path(given)
    name = path.stem if path.suffix in _ENDINGS else path.name
    shipped = shipped_recipes()
    for file in (path, *(path.with_name(path.name + ending) for ending in _ENDINGS if path.name)):
        if file.exists() and not file.is_dir():
            if name in shipped and path.name == str(given):
                warn(f"the recipe is the file {file} of this folder, not {name} that ships.", RecipeWarning)
            return file
    if name in shipped and path.name == str(given):
        return RECIPES / f"{name}.yaml"
    if path.is_dir():
        inside = path / "config.yaml"
        hint = f" The run's recipe is {inside}." if inside.is_file() else ""
        raise AtrousError(f"{path} cannot be read as a recipe: it is a folder.{hint}")
    beside = {file.stem: str(file) for ending in _ENDINGS for file in path.parent.glob(f"*{ending}")}
    near = nearest(name, {**shipped, **beside})
    hint = f" Did you mean '{beside.get(near, near)}'?" if near else ""
    raise AtrousError(f"no recipe at {given}.{hint} Those that ship are found by name: {', '.join(shipped)}.")
