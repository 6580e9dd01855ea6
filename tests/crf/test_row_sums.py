"""The CRF's inner loops: vector instructions, and plain loops where a newer numba no longer has them."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from packaging.requirements import Requirement

from atrous.crf import row_sums, row_sums_plain, row_sums_vector

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.parametrize("width", row_sums.WIDTHS)
def test_plain_loops_are_the_vector_instructions(width):
    """Of random rows, chains, messages and beliefs, both give the same but for rounding."""
    results = []
    for loops in (row_sums_vector, row_sums_plain):
        add, blur, messages = loops.add_rows_of(width), loops.blur_chains_of(width), loops.add_messages_of(width)
        weigh, share, ask = loops.weigh_of(width), loops.share_out_of(width), loops.prefetch_of()

        @njit
        def run(values, chains, indices, weights, out, peaks):
            ask(values, 0)  # noqa: B023
            blur(values, chains, 0, chains.size)  # noqa: B023
            add(out, 0, values, width, width, indices, weights, 0, indices.size)  # noqa: B023
            messages(out, 0, values, width, np.float32(0.5), np.float32(2))  # noqa: B023
            total = weigh(out, width, values, out, 0)  # noqa: B023
            share(out, width, np.float32(1) / total, values, 0, peaks, 0)  # noqa: B023
            return total

        rng = np.random.default_rng(width)
        values = rng.uniform(0.1, 1, 60 * width).astype(np.float32)
        order = rng.permutation(60).astype(np.int32)
        ends = rng.random(60) < 0.2
        ends[-1] = True
        chains = np.where(ends, ~order, order).astype(np.int32)
        indices, weights = rng.integers(0, 58, 9).astype(np.int32), rng.uniform(0, 0.2, 9).astype(np.float32)
        out, peaks = np.zeros(2 * width, np.float32), np.zeros(width, np.float32)
        total = run(values, chains, indices, weights, out, peaks)
        results.append((values, out, peaks, np.float32(total)))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


def test_the_instructions_work_here():
    assert row_sums_vector.works()
    assert row_sums.inner_loops() is row_sums_vector


@pytest.mark.parametrize("broken", ["raises", "wrong"])
def test_plain_loops_stand_in_with_a_warning(broken, monkeypatch):
    def works() -> bool:
        if broken == "raises":
            raise AttributeError("module 'numba.core' has no attribute 'cgutils'")
        return False

    monkeypatch.setattr(row_sums_vector, "works", works)
    with pytest.warns(RuntimeWarning, match="computes with plain loops"):
        assert row_sums.inner_loops() is row_sums_plain


@pytest.mark.slow  # it compiles the CRF's loops a second time
def test_the_crf_is_right_with_plain_loops(tmp_path):
    """A process in which numba.core.cgutils is gone gives the mask that this one gives."""
    program = """
import sys, warnings
import numpy as np
if sys.argv[2] == "plain":
    sys.modules["atrous.crf.row_sums_vector"] = None  # as if its imports failed
warnings.simplefilter("ignore")
from atrous.crf import row_sums, row_sums_plain
from atrous.crf.mean_field import DenseCRF
assert (row_sums._loops is row_sums_plain) == (sys.argv[2] == "plain")
rng = np.random.default_rng(0)
image = np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
probabilities = rng.dirichlet(np.ones(5), (48, 64)).transpose(2, 0, 1).astype(np.float32)
np.save(sys.argv[1], np.asarray(DenseCRF()(image, probabilities)))
"""
    results = {}
    for kind in ("vector", "plain"):
        environment = {**os.environ} | ({"NUMBA_CACHE_DIR": str(tmp_path)} if kind == "plain" else {})
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / f"{kind}.npy"), kind], check=True, env=environment
        )
        results[kind] = np.load(tmp_path / f"{kind}.npy")
    assert results["vector"].shape == results["plain"].shape
    np.testing.assert_allclose(results["plain"], results["vector"], atol=1e-4)


@pytest.mark.parametrize(("name", "table"), [("numba", ""), ("llvmlite", ""), ("uvicorn", "serve")])
def test_packages_whose_inner_parts_are_used_have_an_upper_bound(name, table):
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    listed = project["optional-dependencies"][table] if table else project["dependencies"]
    wanted = next(one for one in map(Requirement, listed) if one.name == name)
    assert any(part.operator == "<" for part in wanted.specifier)
    assert wanted.specifier.contains(version(name))
