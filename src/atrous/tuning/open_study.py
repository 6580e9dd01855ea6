"""Opens the study of a folder in its database, or creates it; a study with another recipe or space is refused."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from atrous.errors import AtrousError, missing_extra, shown
from atrous.json_yaml import parse_json, read_json
from atrous.learning.recipe import Recipe, recipe_record
from atrous.overwrite_checks import save_json
from atrous.paths import is_url, shown_place
from atrous.tuning.search_space import SearchSpace, differences, value_in_words
from atrous.tuning.study import Study, alone

#: File in the folder of a study that names the study.
STUDY_FILE = "study.json"
#: Key of the study's own record in the database.
KEY = "atrous"
#: Fields of a recipe that may change from call to call, because the trials do not depend on them.
FREE = ("name", "watch", "data.workers", "data.check", "train.device")
#: Number of finished trials before the first is pruned, as Optuna's MedianPruner.
BEFORE_PRUNING = 5

Pruning = Literal["median", "none"]


def open_study(space: SearchSpace, out: Path, storage: str | None = None, pruning: Pruning = "median") -> Study:
    """Opens the study of a folder, or creates it with the recipe's own values as its first trial.

    Args:
        space: the search space with the recipe; both must be those of an existing study.
        out: folder of the study, created if missing.
        storage: URL of a database for SQLAlchemy, such as sqlite:///runs/tune.db; None for study.db in the folder.
        pruning: how trials are stopped early; median stops a trial whose best score so far is below the median of the
            other trials at the same epoch.

    Raises:
        AtrousError: the extra tune is not installed, the database cannot be opened, the folder or the database belongs
            to another study, or the recipe or the space differs from that of the study; the message lists the
            differences.
    """
    try:
        import optuna
    except ImportError as error:
        raise missing_extra("optuna", "tune") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = f"sqlite:///{out / 'study.db'}" if storage is None else storage
    if not is_url(url):
        raise AtrousError(f"storage must be the URL of a database, such as sqlite:///runs/tune.db, got {shown(url)}.")
    warmup = max(1, space.recipe.train.epochs // 4)
    pruner: Any = optuna.pruners.NopPruner()
    if pruning == "median":
        pruner = optuna.pruners.MedianPruner(BEFORE_PRUNING, warmup)
    # every trial is given its values, so the sampler of this object draws none
    how = {"pruner": pruner, "sampler": optuna.samplers.RandomSampler(seed=0)}
    out.mkdir(parents=True, exist_ok=True)
    with alone(out):
        opened = _storage(url)
        name, own = _name_of(out)
        names = optuna.study.get_all_study_names(opened)
        found = optuna.load_study(study_name=name, storage=opened, **how) if name in names else None
        recorded = {} if found is None else found.user_attrs.get(KEY, {})
        _check_owner(out, shown_place(url), name, own, found, recorded)
        told, begun = _differences(recorded, _compared(space)), Study(found, space, out, url).trials() if found else []
        if told and begun:
            raise _another(name, told)
        identity = recorded.get("id") or uuid.uuid4().hex
        if told:  # no trial is begun, so that the recipe and the space may still change
            optuna.delete_study(study_name=name, storage=opened)
            found, recorded = None, {}
        if found is None:
            found = optuna.create_study(study_name=name, storage=opened, direction="maximize", **how)
        if not recorded:
            found.enqueue_trial(space.stored(space.own_values()), skip_if_exists=True)
            recorded = {"id": identity, "out": str(out.resolve()), **_compared(space)}
            found.set_user_attr(KEY, recorded)
        if own is None:
            save_json({"study": name, "id": recorded["id"], "storage": shown_place(url)}, out / STUDY_FILE)
    return Study(found, space, out, shown_place(url))


def _storage(url: str) -> Any:
    """Opens a database."""
    import optuna
    from sqlalchemy.engine import make_url

    sqlite = url.startswith("sqlite")
    try:
        if sqlite and (database := make_url(url).database):
            Path(database).parent.mkdir(parents=True, exist_ok=True)
        # processes that write at the same time wait for each other
        return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}} if sqlite else None)
    except Exception as error:  # of SQLAlchemy, of the driver, or of the file system
        words = shown_place(str(error).partition("\n")[0])
        raise AtrousError(
            f"the storage {shown_place(url)} cannot be opened: {words} Give the URL of a database, such as "
            "sqlite:///runs/tune.db."
        ) from error


def _name_of(out: Path) -> tuple[str, dict[str, Any] | None]:
    """Returns the name of a folder's study, and the content of its study.json, None without this file."""
    path = out / STUDY_FILE
    if not path.is_file():
        return out.resolve().name, None
    try:
        own = read_json(path)
        return str(own["study"]), {"id": str(own["id"]), "storage": str(own["storage"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AtrousError(f"{path} is damaged ({error!r}): remove the folder, or give another --out.") from error


def _check_owner(
    out: Path, storage: str, name: str, own: dict[str, Any] | None, found: Any, recorded: Mapping[str, Any]
) -> None:
    """Checks that the folder and the study in the database belong together."""
    if own is not None and own["id"] != recorded.get("id"):
        raise AtrousError(
            f"{out} contains the trials of a study in another storage, {own['storage']}: give this storage with "
            "--storage, or another folder with --out."
        )
    if own is None and recorded and recorded["out"] != str(out.resolve()):
        raise AtrousError(
            f"the storage {storage} already has a study '{name}', whose trials are in {recorded['out']}: continue it "
            "with this folder as --out, or give --out a folder of another name."
        )
    if found is not None and not recorded and any(one.state.name != "WAITING" for one in found.trials):
        raise AtrousError(
            f"the storage {storage} has a study '{name}' of another program: give --out a folder of another name."
        )


def _compared(space: SearchSpace) -> dict[str, Any]:
    """Returns the values that must not change during a study, as JSON stores them."""
    record = recipe_record(space.recipe)
    for name in FREE:
        part, _, last = name.rpartition(".")
        del (record[part] if part else record)[last]
    if record["data"]["root"] and not is_url(record["data"]["root"]):
        record["data"]["root"] = str(Path(record["data"]["root"]).resolve())
    return parse_json(json.dumps({"recipe": record, "space": space.record()}), "the recipe and the space", finite=False)


def _differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns how the recipe and the space differ from those of the study; [] for a new study."""
    lines = list[str]()
    if not recorded:
        return lines
    for part, words in (("recipe", ""), ("space", "search space, ")):
        before_all = _with_defaults(recorded[part], recipe_record(Recipe())) if part == "recipe" else recorded[part]
        for field_name, before, given in differences(before_all, now[part]):
            lines.append(f"{words}{field_name}: {_or_nothing(before)} in the study, {_or_nothing(given)} now")
    return lines


def _another(name: str, lines: list[str]) -> AtrousError:
    """Returns the error for another recipe or space."""
    more = f"; and {len(lines) - 6} more" if len(lines) > 6 else ""
    return AtrousError(
        f"the study '{name}' was begun with another recipe or search space. {'; '.join(lines[:6])}{more}. Give the "
        "same values to continue it, or another --out for a new study."
    )


def _with_defaults(record: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the defaults of fields that the recipe of an earlier version lacks, but none of the fields in `FREE`."""
    filled = dict(record)
    for name, value in defaults.items():
        if name not in FREE and name not in filled:
            filled[name] = value
        elif isinstance(value, Mapping) and value and name in filled:
            inside = {key: one for key, one in value.items() if f"{name}.{key}" not in FREE}
            filled[name] = {**inside, **filled[name]}
    return parse_json(json.dumps(filled), "the recipe of the study", finite=False)


def _or_nothing(value: Any) -> str:
    return "nothing" if value is None else value_in_words(value)
