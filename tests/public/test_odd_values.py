"""Whatever is put into a public call, nothing but an AtrousError comes out."""

from __future__ import annotations

import inspect

import pytest
import torch
from public_calls import CALLS, TAKING_LONG

import atrous
from atrous.errors import AtrousError
from atrous.inference.whole_or_tiled import AnySize

SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW if name in TAKING_LONG else ()) for name in CALLS])
@pytest.mark.filterwarnings("ignore")
def test_odd_values_give_nothing_but_an_atrous_error(table, odd, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)  # what is written does no harm
    function, arguments = table[name]
    raised = []
    for argument in arguments:
        for title, value in odd.items():
            try:
                function(**{**arguments, argument: value})
            except AtrousError:
                continue
            except Exception as error:
                raised.append(f"{argument}={title}: {type(error).__name__}: {error}")
    assert not raised, "\n".join(raised)


def test_every_public_name_is_in_the_table_or_tested_elsewhere():
    elsewhere = {"AtrousError", "__version__", "Source", "Sink"}  # the last two are contracts, which nobody calls
    assert {name.partition(".")[0] for name in CALLS} | elsewhere >= set(atrous.__all__)


@pytest.mark.parametrize(
    "kind", [atrous.Segmenter, atrous.ModelSpec, atrous.Prediction, atrous.Client, atrous.DenseCRF, AnySize]
)
def test_every_public_method_with_arguments_is_in_the_table(kind):
    for name in set(dir(kind)) - set(dir(torch.nn.Module)):
        method = inspect.getattr_static(kind, name)
        method = getattr(method, "__func__", method)  # of a class method
        if callable(method) and not name.startswith("_") and len(inspect.signature(method).parameters) > 1:
            assert f"{kind.__name__}.{name}" in CALLS
