"""What spawned processes run in tests; they import it by this name."""

from __future__ import annotations

import os
import pickle

import numpy as np

from atrous.inference.model_spec import ModelSpec
from atrous.inference.predict_jobs import Worker


def mask_of(spec: ModelSpec, picture: np.ndarray) -> np.ndarray:
    return spec.open()(picture).mask


def do_jobs(spec: ModelSpec, sent: bytes) -> bytes:
    """Jobs in, records out."""
    worker = Worker(spec)
    return pickle.dumps([worker(job) for job in pickle.loads(sent)])


def what_is_said(spec: ModelSpec, workers: int, picture: np.ndarray) -> str:
    """Of a picture, by one of so many workers on this host."""
    os.environ["LOCAL_WORLD_SIZE"] = str(workers)
    said: list[str] = []
    spec.open(said.append)(picture)
    return " ".join(said)
