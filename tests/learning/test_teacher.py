"""Training with a teacher: what it sees and is, what is refused, and what runs and checkpoints keep of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.commands.conftest import CLASSES, make_shapes
from tests.learning.test_fit import assert_same, recipe_for

import atrous
from atrous import AtrousError, Segmenter, fit, model_file
from atrous.data.mask_value_map import ClassTable
from atrous.input_spec import Input
from atrous.learning.batch import TEACHER, Batch
from atrous.learning.checkpoint import checkpoint_of
from atrous.learning.extension import Extension
from atrous.learning.recipe import read_recipe, to_recipe, write_recipe
from atrous.learning.recipe_sections import Distill
from atrous.learning.teacher import Teacher, check_teacher, with_checksum
from atrous.learning.training_step import TrainingStep
from atrous.models.info import Preprocessing


def table(names) -> ClassTable:
    places = [CLASSES.names.index(name) for name in names]
    return ClassTable(
        tuple(names), tuple(CLASSES.colors[i] for i in places), tuple(CLASSES.raw[i] for i in places), CLASSES.ignore
    )


def make(names=CLASSES.names, seed=0, **arguments):
    """A small model of other preprocessing and architecture than the student."""
    torch.manual_seed(seed)
    arguments = {
        "backbone": "resnet10t",
        "output_stride": 8,
        "num_classes": len(names),
        "aspp_channels": 8,
        **arguments,
    }
    model = atrous.create_model("deeplabv3", pretrained=False, **arguments)
    model.info = replace(
        model.info.with_table(table(names)),
        preprocessing=Preprocessing.of_pictures((100.5, 90.0, 80.25), (50.0, 60.0, 71.0), enlarge=1.25),
        scores={"val": {"miou": 0.7312}},
    )
    for module in model.modules():  # statistics of a trained model, so that eval mode differs from training mode
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    model.classifier.weight.data *= 100  # scores of the size of those of a trained model
    return model.eval()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> Path:
    """Two teachers, whose classes have another order than those of the data; not to be changed."""
    folder = tmp_path_factory.mktemp("teachers")
    for seed, name in enumerate(("one", "other")):
        model_file.save(make(CLASSES.names[::-1], seed), folder / f"{name}.safetensors")
    return folder


def taught(shapes, teacher, distill=None, **train):
    section = {"teacher": str(teacher), **(distill or {})}
    return replace(recipe_for(shapes, **train), distill=to_recipe({"distill": section}).distill)


def student_info():
    return atrous.create_model("deeplabv3plus", backbone="mobilenetv2_035", num_classes=3).info.with_table(CLASSES)


def picture(size=(49, 65)):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


# What the teacher sees


def test_a_teacher_gives_the_scores_of_the_segmenter_in_the_order_of_the_students_classes(teachers):
    path = teachers / "one.safetensors"
    teacher = Teacher(Distill(str(path)), student_info(), torch.device("cpu"), torch.float32)
    raw = torch.from_numpy(picture()).permute(2, 0, 1)[None]
    found = teacher(raw)
    segmenter = Segmenter(path, engine="torch", device="cpu", precision="float32")
    expected = segmenter.any_size.whole.runner.scores(picture())
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), expected[..., ::-1], rtol=1e-5, atol=1e-6)
    model = model_file.load(path)
    with torch.inference_mode():
        plain = model.scores(atrous.Pipeline(model).normalize(raw))["main"].flip(1)
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-4)
    assert not found.requires_grad and plain[0, 0].std() > 0.1
    rounded = Teacher(Distill(str(path)), student_info(), torch.device("cpu"), torch.bfloat16)(raw)
    assert rounded.dtype == torch.bfloat16 and (rounded - found).abs().max() < 0.05 * found.abs().max()


def test_a_teacher_runs_at_another_output_stride(teachers):
    path = teachers / "one.safetensors"
    raw = torch.from_numpy(picture((97, 129))).permute(2, 0, 1)[None]
    of_stride = {}
    for stride in (None, 8, 16):
        teacher = Teacher(Distill(str(path), output_stride=stride), student_info(), torch.device("cpu"), torch.float32)
        assert f"at output stride {stride or 8}," in teacher.sentence
        of_stride[stride] = teacher(raw)
    assert torch.equal(of_stride[None], of_stride[8]) and of_stride[16].shape != of_stride[8].shape
    segmenter = Segmenter(path, engine="torch", device="cpu", precision="float32", output_stride=16)
    expected = segmenter.any_size.whole.runner.scores(picture((97, 129)))
    np.testing.assert_allclose(of_stride[16][0].permute(1, 2, 0).numpy(), expected[..., ::-1], rtol=1e-5, atol=1e-6)


def test_a_teacher_with_one_logit_gives_it_for_the_students_second_class(tmp_path):
    names = CLASSES.names[:2]
    raw, found = torch.from_numpy(picture()).permute(2, 0, 1)[None], []
    student = replace(student_info(), arguments={}).with_table(table(names))
    for order in (names, names[::-1]):
        model = make(names, num_classes=1)
        model.info = model.info.with_table(table(order))
        model_file.save(model, tmp_path / f"{order[0]}.safetensors")
        distill = Distill(str(tmp_path / f"{order[0]}.safetensors"))
        found.append(Teacher(distill, student, torch.device("cpu"), torch.float32)(raw))
    assert found[0].shape[1] == 1 and found[0].any()
    torch.testing.assert_close(found[0], -found[1])


def test_the_teacher_sees_the_pixels_of_the_network_after_a_disturbance():
    seen = []

    def teacher(images):
        seen.append(images)
        return images[:, :1].float()

    def term(outputs, batch):
        seen.extend([batch.images, batch.more[TEACHER], batch.more["kept"]])
        return outputs["main"].sum() * 0

    raw = torch.from_numpy(picture()).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    step = TrainingStep(make(), {"term": term}, disturb=lambda images, targets: 255 - images, teacher=teacher)
    step(Batch(raw, {"labels": raw[:, 0]}, {"kept": 7}))
    assert torch.equal(seen[0], 255 - raw) and seen[1] is seen[0]
    assert torch.equal(seen[2], seen[0][:, :1].float()) and seen[3] == 7


# What is refused


def with_input(info, **changes):
    """A copy with another first input; the record is not checked against a network."""
    image = replace(info.preprocessing.image, **changes)
    return replace(info, arguments={}, preprocessing=Preprocessing((image, *info.preprocessing.inputs[1:])))


def test_only_the_normalisation_may_differ():
    info = student_info()
    check_teacher(with_input(info, mean=(1.0,) * 3, std=(9.0,) * 3), info, Path("t"))
    check_teacher(with_input(info, normalize="window", window=(0, 200)), info, Path("t"))
    check_teacher(with_input(info, bands=("red", "green", "blue")), info, Path("t"))
    bands = with_input(info, bands=("red", "green", "blue")), with_input(info, bands=("nir", "red", "green"))
    per_image = {"dtype": "float32", "normalize": "per_image", "mean": (0.0,) * 3, "std": (1.0,) * 3}
    floats = with_input(info, dtype="float32")
    grey = with_input(info, mean=(1.0,), std=(1.0,), colors=1)
    axial, both = (with_input(info, planes=planes) for planes in (("axial",), ("axial", "coronal")))
    check_teacher(both, axial, Path("t"))
    for teacher, student, words in (
        (*bands, r"image with bands \('red', 'green', 'blue'\), but the model takes \('nir', 'red', 'green'\)"),
        (grey, info, "image with channels 1, but the model takes 3"),
        (with_input(info, dtype="uint16"), info, "image with dtype uint16, but the model takes uint8"),
        (with_input(floats, **per_image), floats, "image with values .*standardised.*, but the model takes .*raw"),
        (axial, both, r"image with planes \('axial',\), but the model takes \('axial', 'coronal'\)"),
        (axial, info, r"image with planes \('axial',\), but the model takes none"),
    ):
        with pytest.raises(AtrousError, match=f"the teacher t takes {words}"):
            check_teacher(teacher, student, Path("t"))
    depth = Input((1.0,), (1.0,), name="depth", dtype="float32")
    more = replace(info, arguments={}, preprocessing=Preprocessing((info.preprocessing.image, depth)))
    with pytest.raises(AtrousError, match="the teacher t takes the inputs image, depth, but the model takes image"):
        check_teacher(more, info, Path("t"))


def test_a_teacher_of_other_classes_is_refused_with_both_lists():
    names = ("soil", *CLASSES.names[1:])
    other = replace(student_info(), tasks=student_info().with_table(replace(CLASSES, names=names)).tasks)
    words = f"teacher's classes are: {', '.join(names)}. The data's classes are: {', '.join(CLASSES.names)}."
    with pytest.raises(AtrousError, match=words):
        check_teacher(other, student_info(), Path("t"))


def test_a_recipe_has_a_teacher_with_a_weight_or_no_settings_of_one(teachers, tmp_path):
    for section in ({"logits": 2.0}, {"temperature": 1}, {"sha256": "00"}):
        with pytest.raises(AtrousError, match="distill has settings, but no teacher"):
            to_recipe({"distill": section})
    with pytest.raises(AtrousError, match=r"distill\.logits and distill\.channel are 0"):
        to_recipe({"distill": {"teacher": "t", "logits": 0.0, "channel": 0}})
    with pytest.raises(AtrousError, match="temperature must be above 0"):
        to_recipe({"distill": {"teacher": "t", "temperature": 0}})
    one, other = (str(teachers / f"{name}.safetensors") for name in ("one", "other"))
    checked = with_checksum(Distill(one))
    assert checked.sha256 == model_file.digest_of_file(one) and with_checksum(checked) == checked
    with pytest.raises(AtrousError, match=f"but distill.sha256 is {checked.sha256}. Give the file with that checksum"):
        with_checksum(replace(checked, teacher=other))
    with pytest.raises(AtrousError, match="no model file at"):
        with_checksum(Distill(str(tmp_path / "none.safetensors")))
    assert with_checksum(Distill()) == Distill()


# Runs


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_with_a_teacher_records_it_and_keeps_it(shapes, teachers, tmp_path, capsys):
    path = teachers / "one.safetensors"
    starts = []

    def extend(model):
        starts.append({name: value.clone() for name, value in model.state_dict().items()})
        return Extension()

    result = fit(taught(shapes, path), tmp_path / "run", epochs_now=1, extend=extend)
    said = capsys.readouterr().out.replace("\n", " ")
    assert "teacher: deeplabv3 over resnet10t at output stride 8, recorded mIoU 0.7312 on val; 3 classes" in said
    digest = model_file.digest_of_file(path)
    assert read_recipe(result.run / "config.yaml").distill == Distill(str(path.resolve()), sha256=digest)
    assert model_file.read_info(result.run / "best.safetensors").provenance["teacher_sha256"] == digest
    names = load_file(checkpoint_of(result.run)).keys()
    assert {name.split(".")[0] for name in names} == {"weights", "average", "optimizer", "random"}
    assert not [name for name in names if "teacher" in name]

    # refused: another teacher, by the recipe and by the checkpoint, and none
    other = taught(shapes, teachers / "other.safetensors")
    with pytest.raises(AtrousError, match="a resumed run keeps its teacher"):
        fit(other, resume=result.run)
    mixed = replace(read_recipe(result.run / "config.yaml").distill, teacher=other.distill.teacher)
    with pytest.raises(AtrousError, match="a resumed run keeps its teacher"):
        fit(replace(other, distill=mixed), resume=result.run)
    with pytest.raises(AtrousError, match=r"it was trained with distill\.teacher"):
        fit(recipe_for(shapes), resume=result.run)

    # the same teacher under another name, with other weights of the terms, goes on
    shutil.copy(path, tmp_path / "moved.safetensors")
    moved = taught(shapes, tmp_path / "moved.safetensors", {"logits": 0.0})
    assert fit(moved, resume=result.run).ended == "epochs"
    (line,) = [line for line in lines(result.run) if line["kind"] == "train"]
    assert {name for name in line if name.startswith("loss_")} == {
        "loss_supervised",
        "loss_auxiliary",
        "loss_channels",
    }
    assert line["loss"] == pytest.approx(line["loss_supervised"] + line["loss_channels"], rel=1e-5)
    assert line["loss_channels"] > 0

    # without a teacher, the same weights at the start, and no terms in the log
    plain = fit(recipe_for(shapes), tmp_path / "plain", epochs_now=1, extend=extend)
    assert all(torch.equal(value, starts[-1][name]) for name, value in starts[0].items())
    assert not [name for line in lines(plain.run) for name in line if name.startswith("loss_")]
    assert "teacher_sha256" not in model_file.read_info(plain.run / "best.safetensors").provenance
    with pytest.raises(AtrousError, match=r"it was trained without distill\.teacher"):
        fit(moved, resume=plain.run)


@pytest.mark.slow
def test_a_teacher_in_bfloat16_with_accumulation_and_recomputation(shapes, teachers, tmp_path):
    recipe = taught(shapes, teachers / "one.safetensors", precision="bfloat16", epochs=1, batch_size=2)
    recipe = replace(recipe, optim=replace(recipe.optim, accumulate=2))
    runs = [
        fit(replace(recipe, train=replace(recipe.train, recompute=recompute)), tmp_path / str(recompute)).run
        for recompute in (False, True)
    ]
    assert_same(*runs)
    assert lines(runs[0])[0]["loss_soft_labels"] > 0 and lines(runs[0])[0]["step"] == 2


#: Kills itself right after a step, or trains to the end.
PROGRAM = """
import os, signal, sys
from atrous import fit, read_recipe
from atrous.learning import trainer
from atrous.learning.extension import Extension

trainer.SAVE_EVERY = -1
recipe, run, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3])

def kill(progress):
    if progress.step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

fit(read_recipe(recipe), run, extend=lambda model: Extension(after_step=[kill]))
"""


@pytest.mark.slow
@pytest.mark.needs("kill")
def test_a_killed_run_with_a_teacher_resumes_to_the_bit(shapes, teachers, tmp_path):
    recipe = taught(shapes, teachers / "one.safetensors", batch_size=2)
    whole = fit(recipe, tmp_path / "whole").run
    write_recipe(recipe, tmp_path / "recipe.yaml")
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "recipe.yaml"), str(tmp_path / "killed"), "3"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "killed" / "best.safetensors").exists()
    fit(read_recipe(tmp_path / "killed" / "config.yaml"), resume=tmp_path / "killed")
    assert_same(whole, tmp_path / "killed")
    plain = fit(recipe_for(shapes, batch_size=2), tmp_path / "plain").run
    assert not torch.equal(*(load_file(checkpoint_of(run))["weights.classifier.weight"] for run in (whole, plain)))
