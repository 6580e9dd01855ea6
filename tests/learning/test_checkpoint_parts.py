import random

import numpy as np
import pytest
import torch

from atrous.errors import AtrousError
from atrous.learning.checkpoint_parts import put_together, take_apart

VALUES = [
    {},
    {"a": torch.arange(3), "b": torch.tensor(0.1, dtype=torch.bfloat16)},
    {"none": None, "yes": True, "count": 2**90, "share": 0.1 + 0.2, "text": "ä.b", "nan": float("inf")},
    {"nested": {1: [torch.ones(2), (3, [torch.zeros(1)])], (1, 2): "key", None: {}}},
    {"random": random.Random(3).getstate()},
    {"numpy": np.random.default_rng(3).bit_generator.state, "array": np.arange(3, dtype=np.uint32)},
    {"list": ["tensor", "a.0"], "empty": [], "nothing": ()},
]


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor | np.ndarray):
        equal = torch.equal if isinstance(one, torch.Tensor) else np.array_equal
        return type(one) is type(other) and one.dtype == other.dtype and equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("state", VALUES, ids=lambda state: " ".join(state))
def test_what_was_taken_apart_is_put_together(state):
    import json

    tensors, rest = take_apart("mine", state)
    assert all(name.startswith("mine.") for name in tensors)
    others = {"mines.a": torch.zeros(1), "other.0": torch.zeros(2)}
    assert same(put_together("mine", {**others, **tensors}, json.loads(json.dumps(rest))), state)


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}, np.array(["a"]), print])
def test_what_a_checkpoint_does_not_keep_is_refused_by_its_type(value):
    with pytest.raises(AtrousError, match=f"the state 'mine' contains .* of type {type(value).__name__}"):
        take_apart("mine", {"deep": [value]})
