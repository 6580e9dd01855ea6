"""Renaming, reordering and comparing, on small tables whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from atrous.errors import AtrousError
from atrous.weights.adapter import Adapted, check_fits, move_channels, translate

KEYS = (
    (r"encoder\.(\d)\.", lambda m: f"backbone.{int(m[1]) + 1}."),
    (r"head\.conv\.", "classifier."),
    (r"(bn\d)\.", r"norm.\1."),
)


def test_the_first_pattern_at_the_beginning_renames_and_the_rest_stays():
    state = {
        key: torch.tensor(float(i)) for i, key in enumerate(["encoder.0.conv.weight", "head.conv.bias", "bn2.bias"])
    }
    ours, left_over = translate(state, KEYS)
    assert {name: int(tensor) for name, tensor in ours.items()} == {
        "backbone.1.conv.weight": 0,
        "classifier.bias": 1,
        "norm.bn2.bias": 2,
    }
    assert left_over == ()


def test_what_no_pattern_knows_is_left_over_but_counts_of_batches():
    state = {key: torch.ones(1) for key in ["a.head.conv.weight", "fc.weight", "fc.num_batches_tracked", "bn1.weight"]}
    ours, left_over = translate(state, KEYS)
    assert list(ours) == ["norm.bn1.weight"]
    assert left_over == ("a.head.conv.weight", "fc.weight")


def test_two_keys_for_one_weight_are_refused():
    state = {"head.conv.weight": torch.ones(1), "final.weight": torch.ones(1)}
    with pytest.raises(AtrousError, match=r"'head.conv.weight' and 'final.weight' both become 'classifier.weight'"):
        translate(state, (*KEYS, (r"final\.", "classifier.")))


@pytest.mark.parametrize("sizes", [None, (3, 2, 4)])
def test_moved_weights_give_the_same_for_moved_channels(sizes):
    """Their concatenation is (pool, a, b); ours is (a, b, pool)."""
    blocks = [torch.randn(1, size, 5, 5) for size in sizes or (3, 3, 3)]
    weight = torch.randn(6, 9, 3, 3)
    theirs = nn.functional.conv2d(torch.cat(blocks, 1), weight)
    order = (1, 2, 0)
    ours = nn.functional.conv2d(torch.cat([blocks[index] for index in order], 1), move_channels(weight, order, sizes))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("order", "sizes"), [((1, 0), None), ((0, 2, 1), (3, 3, 4)), ((0, 0, 1), (3, 3, 3))])
def test_blocks_that_are_not_the_channels_are_refused(order, sizes):
    with pytest.raises(AtrousError, match="9 input channels are not"):
        move_channels(torch.ones(1, 9, 1, 1), order, sizes)


OURS = {
    "backbone.w": torch.ones(2, 3),
    "backbone.n.num_batches_tracked": torch.tensor(0),
    "classifier.w": torch.ones(4),
}


def adapted(fills=("",), **state) -> Adapted:
    named = {name.replace("__", "."): tensor for name, tensor in state.items()}
    return Adapted("deeplabv3", {"backbone": "resnet50"}, named, fills=fills)


def test_a_complete_state_fits_with_or_without_counts_of_batches():
    whole = adapted(backbone__w=torch.ones(2, 3), classifier__w=torch.ones(4).half())
    assert check_fits(whole, OURS) == ()
    whole.state["elsewhere.num_batches_tracked"] = torch.tensor(3)
    assert check_fits(whole, OURS) == ()


def test_a_count_of_batches_is_one_number():
    whole = adapted(backbone__w=torch.ones(2, 3), classifier__w=torch.ones(4))
    for count in (torch.tensor(3), torch.tensor([3])):  # the latter of PyTorch 0.4
        assert check_fits(replace(whole, state={**whole.state, "backbone.n.num_batches_tracked": count}), OURS) == ()
    whole.state["backbone.n.num_batches_tracked"] = torch.ones(2, 2)
    with pytest.raises(AtrousError, match=r"'backbone.n.num_batches_tracked' differs in shape: \(2, 2\)"):
        check_fits(whole, OURS)


def test_what_the_source_need_not_fill_is_named():
    assert check_fits(adapted(("backbone.",), backbone__w=torch.ones(2, 3)), OURS) == ("classifier.w",)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"backbone__w": torch.ones(2, 3)}, "lacks 1 weights of deeplabv3 over resnet50: classifier.w"),
        (
            {"backbone__w": torch.ones(2, 4), "classifier__w": torch.ones(4)},
            r"'backbone.w' differs in shape: \(2, 4\) in the file, \(2, 3\) in deeplabv3",
        ),
        (
            {"backbone__w": torch.ones(2, 3), "classifier__w": torch.ones(4), "more__w": torch.ones(1)},
            "has weights that deeplabv3 over resnet50 does not have: more.w",
        ),
        (
            {"backbone__w": torch.ones(2, 3), "classifier__w": torch.ones(4, dtype=torch.int8)},
            "'classifier.w' holds torch.int8",
        ),
    ],
)
def test_what_does_not_fit_is_named(state, message):
    with pytest.raises(AtrousError, match=message):
        check_fits(adapted(**state), OURS)
