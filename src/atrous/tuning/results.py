"""The results of a study as plain values, for its page, its JSON file and the console."""

from __future__ import annotations

import warnings
from typing import Any

from atrous.run_folder import is_finite
from atrous.tuning.confirmation import fresh_scores
from atrous.tuning.search_space import SearchSpace
from atrous.tuning.study import Study

#: State of Optuna → state in the results. An unfinished trial is running in a process, or waits to be continued.
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "unfinished"}

#: Fewest complete trials for importances: PED-ANOVA compares the best tenth of the trials with all of them.
FEWEST = 10


def results(study: Study) -> dict[str, Any]:
    """Returns the results of a study.

    Returns:
        "study", "recipe" (its name), "epochs", "space", "storage" and "out"; "trials", one dict for each; "best", the
        dict of the best trial or None; "importance", the share of each field in the differences of the scores (0–1),
        {} with too few trials; and "confirmed", the scores with fresh seeds.
    """
    trials = [_trial(study, one) for one in study.trials()]
    best = study.best()
    return {
        "study": study.optuna.study_name,
        "recipe": study.space.recipe.name,
        "epochs": study.space.recipe.train.epochs,
        "split": study.space.recipe.data.val,
        "space": study.space.record(),
        "storage": study.storage,
        "out": str(study.out),
        "trials": trials,
        "best": None if best is None else trials[best.number],
        "importance": importance(study),
        "confirmed": [
            {
                "trial": one.trial,
                "scores": [{"seed": seed, "miou": score} for seed, score in one.scores.items()],
                "mean": one.mean,
                "low": min(one.scores.values()),
                "high": max(one.scores.values()),
            }
            for one in fresh_scores(study)
        ],
    }


def best_recipe(study: Study) -> Any:
    """Returns the recipe of the best trial; None if no trial is complete."""
    best = study.best()
    return None if best is None else study.space.recipe_with(study.values(best))


def importance(study: Study) -> dict[str, float]:
    """Returns the share of each field in the differences of the scores, descending; {} with too few trials.

    It is Optuna's PED-ANOVA (arXiv:2304.10255), over complete trials. With few trials it is a rough estimate.
    """
    import optuna

    space: SearchSpace = study.space
    complete = [one for one in study.trials() if one.state.name == "COMPLETE"]
    if len(complete) < FEWEST or len({one.value for one in complete}) < 2:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = optuna.importance.get_param_importances(study.optuna, params=list(space.axes))
    except (RuntimeError, ValueError):  # no field has two values
        return {}
    return {name: share for name, share in found.items() if is_finite(share)}


def _trial(study: Study, frozen: Any) -> dict[str, Any]:
    """Returns one trial as plain values; the score of a pruned trial is that of its last epoch."""
    curve = [[epoch, score] for epoch, score in sorted(frozen.intermediate_values.items())]
    ended = frozen.state.name in ("COMPLETE", "PRUNED")
    return {
        "number": frozen.number,
        "state": STATES[frozen.state.name],
        "miou": frozen.value if ended and is_finite(frozen.value) else None,
        "values": study.values(frozen),
        "reason": frozen.user_attrs.get("reason", ""),
        "seconds": frozen.user_attrs.get("seconds", 0.0),
        "epochs": curve[-1][0] if curve else 0,
        "curve": curve,
        "run": str(study.folder(frozen.number)),
    }
