import errno
import os

import pytest
import torch

from atrous import create_model
from atrous.errors import AtrousError
from atrous.learning.batch import Batch
from atrous.learning.checkpoint import load_checkpoint, save_checkpoint
from atrous.learning.crf_layer import CrfLayer
from atrous.learning.ema import WeightAverage
from atrous.learning.losses.pixel import CrossEntropy
from atrous.learning.losses.terms import supervised_terms
from atrous.learning.optimizer import crf_group, make_optimizer, parameter_groups
from atrous.learning.recipe_sections import Crf
from atrous.learning.training_step import TrainingStep

PROGRESS = {"epoch": 3, "pictures": 4, "step": 17, "best_miou": -1.0, "seconds": 0.1 + 0.2}


class Training:
    """Just enough of a training to be interrupted."""

    def __init__(self, optimizer="adamw", seed=0, average=True, **arguments) -> None:
        torch.manual_seed(seed)
        arguments = {
            "backbone": "mobilenetv2_035",
            "num_classes": 3,
            "aspp_channels": 8,
            "low_channels": 8,
            **arguments,
        }
        self.model = create_model("deeplabv3plus", **arguments).train()
        groups = parameter_groups(self.model, lr=0.01, weight_decay=0.01, backbone_lr=0.5)
        self.optimizer = make_optimizer(optimizer, groups)
        self.average = WeightAverage(self.model, 0.9) if average else None
        self.step = TrainingStep(self.model, supervised_terms(CrossEntropy(), self.model))

    def train(self, steps: int, first: int = 0) -> "Training":
        for number in range(first, first + steps):
            rng = torch.Generator().manual_seed(number)
            images = torch.randint(0, 256, (2, 3, 33, 40), generator=rng).byte()
            labels = torch.randint(0, 3, (2, 33, 40), generator=rng).byte()
            self.step(Batch(images, {"labels": labels})).backward()  # dropout draws from the global generator
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.average:
                self.average.update(self.model, number)
        return self

    def save(self, path):
        save_checkpoint(
            path,
            model=self.model,
            optimizer=self.optimizer,
            state=self.parts,
            progress=PROGRESS,
        )
        return path

    def load(self, path):
        return load_checkpoint(path, model=self.model, optimizer=self.optimizer, state=self.parts).progress

    @property
    def parts(self):
        return {"average": self.average} if self.average else {}

    def state(self) -> dict[str, torch.Tensor]:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.module.state_dict().items()}
        return tensors


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_resumed_training_is_the_uninterrupted_one_to_the_bit(tmp_path, optimizer, average):
    whole = Training(optimizer, average=average).train(2)
    path = whole.save(tmp_path / "checkpoints" / "last.safetensors")
    whole.train(2, first=2)
    resumed = Training(optimizer, seed=99, average=average)
    torch.manual_seed(12345)
    assert resumed.load(path) == PROGRESS
    resumed.train(2, first=2)
    ours, theirs = resumed.state(), whole.state()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [group["base_lr"] for group in resumed.optimizer.param_groups] == [
        group["base_lr"] for group in whole.optimizer.param_groups
    ]


def test_before_the_first_step_there_is_no_optimiser_state(tmp_path):
    path = Training().save(tmp_path / "last.safetensors")
    fresh = Training(seed=1)
    fresh.load(path)
    assert not fresh.optimizer.state_dict()["state"]
    fresh.train(1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return Training().train(1).save(tmp_path_factory.mktemp("run") / "last.safetensors")


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.9999])
def test_truncated(tmp_path, saved, share):
    path = tmp_path / "last.safetensors"
    data = saved.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(AtrousError, match="not a checkpoint of this run, or is damaged"):
        Training().load(path)


def test_a_model_file_is_no_checkpoint(tmp_path):
    from atrous import save

    training = Training()
    save(training.model, tmp_path / "model.safetensors")
    with pytest.raises(AtrousError, match="not a checkpoint"):
        training.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "other", [{"num_classes": 4}, {"backbone": "mobilenetv2_050"}, {"aspp_conv": True}], ids=" ".join
)
def test_a_checkpoint_of_another_model_is_refused(saved, other):
    with pytest.raises(AtrousError, match="not a checkpoint of this run"):
        Training(**other).load(saved)


def freeze_backbone(training):
    """Leaves the head to the optimiser, as train.learn: head does."""
    training.model.backbone.requires_grad_(False)
    groups = parameter_groups(training.model, lr=0.01, weight_decay=0.01, backbone_lr=0.5)
    training.optimizer = make_optimizer("adamw", groups)
    return training


def test_what_learns_may_change_and_each_parameter_keeps_its_own_moments(tmp_path):
    before = Training().train(1)
    moments = before.optimizer.state
    resumed = freeze_backbone(Training(seed=1))
    resumed.load(before.save(tmp_path / "last.safetensors"))
    for ours, theirs in zip(resumed.model.parameters(), before.model.parameters(), strict=True):
        if ours.requires_grad:
            assert torch.equal(resumed.optimizer.state[ours]["exp_avg"], moments[theirs]["exp_avg"])
    resumed.train(1)
    again = Training(seed=2)
    again.load(resumed.save(tmp_path / "head.safetensors"))
    again.train(1)  # the backbone learns again, from no moments
    assert len(again.optimizer.state) == len(list(again.model.parameters()))


def test_another_optimiser_is_refused_by_name(tmp_path):
    path = Training("sgd").train(1).save(tmp_path / "last.safetensors")
    with pytest.raises(AtrousError, match=r"optim\.name is sgd"):
        Training("adamw").load(path)


def test_a_checkpoint_without_an_average_is_refused_where_one_is_wanted(tmp_path):
    path = Training(average=False).train(1).save(tmp_path / "last.safetensors")
    with pytest.raises(AtrousError, match="not a checkpoint of this run"):
        Training(average=True).load(path)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(AtrousError, match="nothing to resume"):
        Training().load(tmp_path / "last.safetensors")


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, saved, monkeypatch):
    path = tmp_path / "last.safetensors"
    path.write_bytes(saved.read_bytes())

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AtrousError, match="No space left"):
        Training(seed=7).save(path)
    assert path.read_bytes() == saved.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_a_crf_trained_with_the_model_is_kept(tmp_path):
    settings = Crf(trainable=True)

    def training(seed):
        made = Training(seed=seed, average=False)
        crf = CrfLayer(settings, made.model.info)
        groups = [crf_group(crf, lr=0.1), *parameter_groups(made.model, lr=0.01, weight_decay=0.01, backbone_lr=0.5)]
        return made, crf, make_optimizer("adamw", groups)

    def update(made, crf, optimizer):
        step = TrainingStep(made.model, supervised_terms(CrossEntropy(), made.model), crf=crf)
        raw = torch.randint(0, 256, (2, 3, 33, 40)).byte()
        step(Batch(raw, {"labels": torch.randint(0, 3, (2, 33, 40)).byte()})).backward()
        optimizer.step()
        optimizer.zero_grad()

    one, crf, optimizer = training(0)
    update(one, crf, optimizer)
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, model=one.model, optimizer=optimizer, state={"crf": crf}, progress=PROGRESS)
    other, other_crf, other_optimizer = training(1)
    load_checkpoint(path, model=other.model, optimizer=other_optimizer, state={"crf": other_crf})
    assert crf.learned() == other_crf.learned() != CrfLayer(settings, one.model.info).learned()
    states = []
    for made, layer, optim in ((one, crf, optimizer), (other, other_crf, other_optimizer)):
        torch.manual_seed(5)
        update(made, layer, optim)
        states.append({**made.model.state_dict(), **layer.state_dict()})
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    with pytest.raises(AtrousError, match=r"not a checkpoint of this run, .* trained with crf\.trainable"):
        one.load(path)
    with pytest.raises(AtrousError, match=r"trained without crf\.trainable"):
        load_checkpoint(one.save(path), model=one.model, optimizer=other_optimizer, state={"crf": other_crf})
