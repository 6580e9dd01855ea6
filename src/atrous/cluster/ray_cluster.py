"""Connects this process to a Ray cluster."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from atrous.errors import AtrousError, missing_extra


def connected(address: str) -> Any:
    """Returns the module ray, connected to a cluster.

    Args:
        address: "ray" for the cluster that RAY_ADDRESS names, else the one of this machine, which is started if there
            is none; or the address ray://HOST:PORT of a head node.

    Raises:
        AtrousError: Ray is not installed, or the cluster cannot be reached.
    """
    if address != "ray" and not address.startswith("ray://"):
        raise AtrousError(f"--on is {address}: give ray, or the address of a head node, ray://HOST:PORT.")
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "cluster") from error
    if not ray.is_initialized():
        try:
            ray.init(address=None if address == "ray" else address, logging_level=logging.WARNING, log_to_driver=False)
        except Exception as error:  # Ray raises errors of many types, also plain ones
            named = os.environ.get("RAY_ADDRESS", "this machine") if address == "ray" else address
            raise AtrousError(f"no Ray cluster at {named}: {error}") from error
    return ray


@contextmanager
def connection(address: str) -> Iterator[Any]:
    """Yields the module ray, connected to the cluster of RAY_ADDRESS or of this machine.

    If an error leaves the context, a connection that was made here is closed, which ends its processes.

    Args:
        address: "ray".

    Raises:
        AtrousError: the address is another one, Ray is not installed, or the cluster cannot be reached or has failed.
    """
    if address.startswith("ray://"):
        raise AtrousError(
            f"--on is {address}: give ray, and start the command on a machine of the cluster, which reaches its disk."
        )
    known = sys.modules.get("ray")
    existed = known is not None and known.is_initialized()
    ray = connected(address)
    try:
        yield ray
    except BaseException as error:
        if not existed:
            ray.shutdown()
        if isinstance(error, ray.exceptions.RayError):
            raise AtrousError(f"the Ray cluster has failed: {last_line(error)}") from error
        raise


def last_line(error: BaseException) -> str:
    """Returns the last line of an error's message, in which Ray states the cause; without a message, its type."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
