"""The page of a search: its best trial, history, importance of fields, values, and a table of all trials."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from atrous.commands._html_page import PER_CENT, duration, percent, template
from atrous.commands._tune_charts import history_chart, parallel_coordinates
from atrous.errors import counted
from atrous.tuning.results import FEWEST
from atrous.tuning.search_space import value_in_words
from atrous.version import __version__


def render_study(found: Mapping[str, Any]) -> str:
    """Returns the HTML page of a search.

    Args:
        found: the results of a study, as `atrous.tuning.results.results` returns them.
    """
    from markupsafe import Markup

    trials, fields = found["trials"], list(found["space"])
    scored = [one for one in trials if one["miou"] is not None]
    order = {"complete": 0, "pruned": 1, "unfinished": 2, "failed": 3}
    rows = sorted(trials, key=lambda one: (order[one["state"]], -(one["miou"] or 0), one["number"]))
    largest = max(found["importance"].values(), default=0) or 1
    return template("tune.html.j2").render(
        name=found["study"],
        best=found["best"],
        split=found["split"],
        facts=_facts(found),
        remarks=_remarks(found),
        confirmed=[
            {**one, "name": "the recipe" if one["trial"] == 0 else f"trial {one['trial']}, the best of the search"}
            for one in found["confirmed"]
        ],
        history=Markup(history_chart(trials)) if scored else "",
        parallel=Markup(parallel_coordinates(trials, found["space"])) if scored else "",
        importance=[(name, share, share / largest) for name, share in found["importance"].items()],
        fewest=FEWEST,
        fields=fields,
        rows=[
            {
                **one,
                "cells": [value_in_words(one["values"][name]) if name in one["values"] else "–" for name in fields],
                "time": duration(one["seconds"]) or "–",
                "own": one["number"] == 0,
            }
            for one in rows
        ],
        axes=[(name, _axis(found["space"][name])) for name in fields],
        command=f"atrous train {shlex.quote(found['out'] + '/best.yaml')}",
        version=__version__,
    )


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    """Returns the facts below the head of the page."""
    trials = found["trials"]
    states = [one["state"] for one in trials]
    first = trials[0]["miou"] if trials else None
    return {
        "Recipe": found["recipe"],
        "Trials": str(len(trials)),
        "States": ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "–",
        "Epochs per trial": str(found["epochs"]),
        "Score of the recipe (trial 0)": percent(first, PER_CENT),
        "Time of all trials": duration(sum(one["seconds"] for one in trials)) or "–",
    }


def _remarks(found: Mapping[str, Any]) -> list[str]:
    """Returns sentences on the best trial and on how far its score can be trusted."""
    best, complete = found["best"], sum(one["state"] == "complete" for one in found["trials"])
    if best is None:
        return ["No trial is complete yet."]
    said = [f"Trial {best['number']} has the best score of {counted(complete, 'complete trial')}."]
    if best["number"] == 0:
        said.append("These are the recipe's own values: the search found no better ones.")
    if not found["confirmed"]:
        said.append("The best of many scores is too high; atrous tune --confirm 3 measures it again with fresh seeds.")
    elif best["number"] != 0 and len(found["confirmed"]) == 2:
        recipe, winner = found["confirmed"]
        gain, apart = 100 * (winner["mean"] - recipe["mean"]), winner["low"] > recipe["high"]
        said.append(
            f"With fresh seeds, it is {abs(gain):.1f} points {'better' if gain > 0 else 'worse'} than the recipe on "
            f"average, and the ranges of the seeds {'do not overlap' if apart else 'overlap'}."
        )
    return said


def _axis(axis: Mapping[str, Any]) -> str:
    """Returns the range or the choices of a field as text."""
    if "choices" in axis:
        return ", ".join(map(value_in_words, axis["choices"]))
    how = ", logarithmic" if axis.get("log") else ""
    step = f", in steps of {value_in_words(axis['step'])}" if "step" in axis else ""
    return f"{value_in_words(axis['low'])} to {value_in_words(axis['high'])}{how}{step}"
