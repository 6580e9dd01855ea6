"""Finds the recipes that are shipped with the package."""

from __future__ import annotations

from pathlib import Path

from atrous.errors import AtrousError, nearest
from atrous.logger import warn

RECIPES = Path(__file__).parents[1] / "recipes"
_ENDINGS = (".yaml", ".yml")


class RecipeWarning(UserWarning):
    """Warns that a file is used instead of the shipped recipe of the same name."""


def shipped_recipes() -> dict[str, str]:
    """Returns the shipped recipes by name, each with its summary, which is the first line of its file."""
    found = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        with path.open(encoding="utf-8") as lines:
            found[path.stem] = next(lines).strip("# \n")
    return found


def find_recipe(given: str | Path) -> Path:
    """Finds the file of a recipe.

    A file takes precedence over a shipped recipe of the same name. The suffix `.yaml` may be left out.

    Args:
        given: path of a file, or name of a shipped recipe.

    Warns:
        RecipeWarning: a file in the current folder is used instead of the shipped recipe of the same name.

    Raises:
        AtrousError: there is neither a file nor a shipped recipe; the message lists the nearest name and all shipped
            recipes.
    """
    path = Path(given)
    name = path.stem if path.suffix in _ENDINGS else path.name
    shipped = shipped_recipes()
    for file in (path, *(path.with_name(path.name + ending) for ending in _ENDINGS if path.name)):
        if file.exists() and not file.is_dir():
            if name in shipped and path.name == str(given):
                warn(f"the file {file} of this folder is used instead of the shipped recipe {name}.", RecipeWarning)
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
    raise AtrousError(f"no recipe at {given}.{hint} Give a file, or a shipped recipe by name: {', '.join(shipped)}.")
