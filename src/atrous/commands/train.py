"""`atrous train`: train a model from a recipe and save the best weights.

Examples:
    atrous train quickstart --data.root data/
    atrous train mine.yaml --data.root data/ --train.epochs 60 --out runs/mine
    atrous train --resume runs/mine
"""

from __future__ import annotations

import os
import shlex
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.markup import escape

from atrous.checked_arguments import checked
from atrous.commands.evaluate import evaluate
from atrous.commands.report import report
from atrous.console import console, notes_once
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError
from atrous.file_lock import wait_until_unlocked
from atrous.inference.value_range import PictureWarning
from atrous.learning.checkpoint import checkpoint_of, saved_info
from atrous.learning.distributed import current_group, process_group
from atrous.learning.fit import fit
from atrous.learning.recipe import Recipe, read_recipe, recipe_text
from atrous.learning.teacher import with_checksum
from atrous.learning.transfer_weights import with_network_of
from atrous.learning.validation import ADAPTER
from atrous.logger import suppressed
from atrous.run_folder import (
    check_new_run,
    check_resumed_run,
    locked,
    new_run,
    remove_if_empty,
    restore_config,
)

#: Longest time in seconds to wait for the lock of a run; a network disk may keep the lock of a lost machine.
LOCK_WAIT = 180.0


@checked
def train(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    resume_existing: bool = False,
    init: Path | None = None,
    on: str | None = None,
    processes: int = 1,
    min_processes: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Train a segmentation model on a folder of pictures and masks.

    Args:
        recipe: recipe with the data, the model and all settings; every field can also be given on the command line.
        out: folder of the run; by default runs/NAME with the name of the recipe, or runs/NAME-2 … if that folder
            exists.
        resume: folder of a run to continue.
        resume_existing: continue the run in the folder of --out if it has been started with the same recipe, and else
            start it; for schedulers that repeat a command.
        init: model file to start from. The new model has the same architecture and gets all weights that fit. Its
            output layer gets only the weights of classes with the same name.
        on: cluster to run on: ray for the Ray cluster of RAY_ADDRESS, or else of this machine. All nodes must reach the
            inputs and outputs under the same paths or URLs.
        processes: number of processes on the cluster of --on, ≥ 1; each uses one GPU, or an equal part of the cores if
            the cluster has no GPUs.
        min_processes: smallest number of processes, from 1 to the value of --processes. While nodes are missing, the
            training runs with at least this number, and uses more later. By default it waits for all processes.
        overwrite: in a folder without a run, also replace files that have the names of a run's files; inputs are never
            replaced.

    Returns:
        The run's folder, with best.safetensors, metrics.jsonl, evaluation.json and report.html; with train.learn lora,
        also with adapter.safetensors.

    Raises:
        AtrousError: the data is unusable (the message lists every problem), the recipe is not valid, the loss is not
            finite, or the run would replace files in its folder.
    """
    if resume_existing and out is None:
        raise AtrousError("--resume-existing needs the folder of the run: give it as --out RUN.")
    given = [name for name, value in (("out", out), ("init", init)) if resume is not None and value is not None]
    if given:
        raise AtrousError(f"a resumed run keeps its own folder and weights: leave out --{given[0]}.")
    if on is None:
        if processes != 1 or min_processes is not None:
            raise AtrousError(
                "--processes and --min-processes are for a cluster, which --on names; on one machine, use: torchrun "
                f"--nproc-per-node {processes} -m atrous train …"
            )
        return _train_here(recipe, out, resume, init, resume_existing=resume_existing, overwrite=overwrite)
    return _train_on_cluster(
        on, recipe, out, resume, init, (min_processes, processes), resume_existing=resume_existing, overwrite=overwrite
    )


@process_group()
def _train_here(
    recipe: Recipe, out: Path | None, resume: Path | None, init: Path | None, *, resume_existing: bool, overwrite: bool
) -> Path:
    """Trains in this process, or in the group of processes to which it belongs."""
    processes = current_group()
    if resume_existing and out is not None:
        recipe, begun = processes.on_rank_zero(partial(_recipe_of, out, recipe, init))
        out, resume, init = (None, out, None) if begun else (out, None, init)
    with notes_once(), ExitStack() as stack:
        run = fit(recipe, out, resume=resume, init=init, overwrite=overwrite).run
        processes.on_rank_zero(lambda: stack.enter_context(locked(run)))
        _measure_best(recipe, run)
        if processes.first:
            report([run], overwrite=True)
            if recipe.train.learn == "lora":
                console.print(f"the changes to the base alone: {escape(str(run / ADAPTER))}; see atrous merge")
    return run


def _train_on_cluster(
    on: str,
    recipe: Recipe,
    out: Path | None,
    resume: Path | None,
    init: Path | None,
    processes: tuple[int | None, int],
    *,
    resume_existing: bool,
    overwrite: bool,
) -> Path:
    """Trains in several processes of a Ray cluster, which continue the run after a process is lost."""
    from atrous.cluster.train_on_ray import Processes, train_on_ray  # Ray is an extra

    most, least = processes[1], processes[1] if processes[0] is None else processes[0]
    if not 1 <= least <= most:
        raise AtrousError(f"processes must be 1 or more, and min_processes from 1 to {most}, got {most} and {least}.")
    if "WORLD_SIZE" in os.environ:
        raise AtrousError("--on starts the processes on the cluster by itself: give the command without torchrun.")
    if resume is not None:
        check_resumed_run(resume, overwrite=overwrite)
        saved_info(resume)
        run, existed = resume, True
    else:
        begun = resume_existing and out is not None and checkpoint_of(out).is_file()
        if not begun:
            check_new_run(out, [("the data set", recipe.data.root or None)], overwrite=overwrite)
        existed = out is not None and out.exists()
        run = out if begun and out is not None else new_run(out, recipe.name)
    # every start after the first continues the run
    starts = {"out": None if resume else run, "resume": resume, "init": init, "resume_existing": resume is None}
    work = partial(_train_here, recipe, **starts, overwrite=overwrite)
    group = Processes(least, most, recipe.train.device, recipe.data.workers)
    try:
        train_on_ray(on, work, run, group, recipe.train.epochs)
    except BaseException:
        if not existed:
            remove_if_empty(run)
        raise
    return run


def _recipe_of(run: Path, recipe: Recipe, init: Path | None) -> tuple[Recipe, bool]:
    """Returns the recipe of a run, in which `fit` has completed some fields, and whether the run has been started.

    The recipe of a run that has not been started is the given one.

    Args:
        run: folder of the run.
        recipe: the given recipe.
        init: the given model to start from.

    Raises:
        AtrousError: the recipes differ in another field.
    """
    if not checkpoint_of(run).is_file():
        return recipe, False
    restore_config(run)
    own, start = read_recipe(run / "config.yaml"), init or recipe.model.init
    expected = replace(
        recipe if start is None else with_network_of(start, recipe), distill=with_checksum(recipe.distill)
    )
    arguments = {name: value for name, value in own.model.arguments.items() if name in expected.model.arguments}
    chosen = own.model.arguments.keys() - arguments.keys()
    if chosen <= {"align_corners"} and recipe_text(
        replace(own, model=replace(own.model, arguments=arguments))
    ) == recipe_text(expected):
        waiting = f"another process is training in {escape(str(run))}; waiting up to {LOCK_WAIT / 60:g} minutes for it"
        wait_until_unlocked(checkpoint_of(run).with_name("lock"), lambda: console.print(waiting), LOCK_WAIT)
        return own, True
    raise AtrousError(
        f"{run} contains a run with another recipe: give another --out, or continue that run with its own recipe: "
        f"atrous train --resume {shlex.quote(str(run))}"
    )


def _measure_best(recipe: Recipe, run: Path) -> None:
    """Measures the best weights in float32 and writes evaluation.json."""
    console.print("final scores of best.safetensors, computed in float32:")
    with suppressed(PictureWarning):  # the doctor has already printed this warning
        evaluate(
            run / "best.safetensors",
            Path(recipe.data.root),
            split=recipe.data.val,
            layout=open_dataset(recipe.data.root, recipe.data.layout).layout,
            groups=recipe.data.groups,
            input=[f"{name}={folder}" for name, folder in recipe.data.inputs.items()],
            json=run / "evaluation.json",
            overwrite=True,  # it was checked before the training whether files may be replaced
            crf="model" if recipe.crf.trainable else None,
            device=recipe.train.device,
        )
