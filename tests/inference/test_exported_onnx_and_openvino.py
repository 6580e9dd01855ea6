"""Exported files: every paper's graph in both runtimes, the record they carry, and what is refused in words."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from atrous.commands.export import agreements_of, draw
from atrous.errors import AtrousError
from atrous.inference import export_graph
from atrous.inference.exported_onnx_and_openvino import OnnxGraph, OpenVinoGraph, read_info
from atrous.inference.pipeline import Pipeline
from atrous.inference.segmenter import Segmenter

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
GRAPHS = {"onnx": OnnxGraph, "openvino": OpenVinoGraph}
SIZES = ((65, 49), (33, 40), (96, 134))
FORMATS = pytest.mark.parametrize("format", SUFFIXES)

#: All papers, both conventions of corners, one logit, SAME padding, enlarged and deep pictures.
QUICK = {
    "v1, one logit, enlarged": {"architecture": "deeplabv1", "backbone": "vgg16", "fov_channels": 8, "num_classes": 1,
                                "enlarge": 1.5},
    "v3plus, corners, aligned": {"architecture": "deeplabv3plus", "backbone": "resnet18", "aspp_channels": 16,
                                 "align_corners": True, "aligned": True},
}  # fmt: skip
SLOW = {
    "v1 with sides": {"architecture": "deeplabv1", "backbone": "vgg16", "fov_channels": 8, "multi_scale": True},
    "v2, scales": {"architecture": "deeplabv2", "backbone": "resnet18"},
    "v2, scales, corners": {"architecture": "deeplabv2", "backbone": "vgg16", "fov_channels": 8, "align_corners": True},
    "v3, one logit": {"architecture": "deeplabv3", "backbone": "mobilenetv2_100", "num_classes": 1},
    "v3, multi-grid, stride 8": {"architecture": "deeplabv3", "backbone": "resnet18", "multi_grid": (1, 2),
                                 "output_stride": 8},
    "v3plus, SAME padding, enlarged, five channels of 16 bits": {
        "architecture": "deeplabv3plus", "backbone": "tf_efficientnet_lite0", "in_channels": 5, "dtype": "uint16",
        "enlarge": 1.5, "align_corners": True},
    "v3plus, SAME padding, stride 32": {
        "architecture": "deeplabv3plus", "backbone": "tf_efficientnet_lite0", "output_stride": 32},
    "v3plus, SAME padding, aligned": {
        "architecture": "deeplabv3plus", "backbone": "tf_efficientnet_lite0", "aligned": True},
    "v3, Google's": {"architecture": "deeplabv3", "backbone": "google_mobilenetv2_050", "output_stride": 8},
}  # fmt: skip
CASES = [pytest.param(case, id=name) for name, case in QUICK.items()]
CASES += [pytest.param(case, id=name, marks=pytest.mark.slow) for name, case in SLOW.items()]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_paper_gives_the_same_masks_in_both_runtimes(case, make_model, tmp_path):
    model = make_model(**case)
    program = export_graph.trace(model, with_scores=True)
    images = [draw(size, model.info.preprocessing) for size in SIZES]
    for format, suffix in SUFFIXES.items():
        export_graph.write(program, model.info, format, tmp_path / f"model{suffix}")
        graph = GRAPHS[format](tmp_path / f"model{suffix}")
        agreements = agreements_of(model, graph.labels, images)
        assert [agreement.size for agreement in agreements] == list(SIZES)
        assert min(agreement.share for agreement in agreements) >= 0.999, (format, agreements)
        assert max(agreement.classes for agreement in agreements) > 1, "the masks compared must tell something"
        for image in images:
            with torch.inference_mode():
                ours = Pipeline(model)(torch.tensor(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
            theirs = graph.scores(image)
            assert theirs.dtype == np.float32
            np.testing.assert_allclose(theirs, ours, atol=1e-4 * float(np.abs(ours).max()))


@pytest.mark.slow
@FORMATS
def test_labels_are_those_of_the_segmenter(format, exports, small):
    graph = GRAPHS[format](exports(format, False), threads=1)
    image = draw((70, 53), small.info.preprocessing)
    mask = graph.labels(image)
    assert mask.shape == (70, 53) and mask.dtype == np.uint8
    ours = Segmenter(small, device="cpu", precision="float32")(image).mask
    assert (mask == ours).mean() > 0.999
    kept = mask.copy()
    graph.labels(image[::-1])
    assert (mask == kept).all(), "the next picture overwrote this one's mask"


@pytest.mark.slow
@FORMATS
def test_the_record_comes_back_whole(format, exports, small):
    for with_scores in (False, True):
        path = exports(format, with_scores)
        assert read_info(path) == small.info
        graph = GRAPHS[format](path)
        assert graph.info == small.info
        assert graph.has_scores == with_scores


@FORMATS
def test_a_file_of_labels_says_how_to_have_scores(format, exports, small):
    graph = GRAPHS[format](exports(format, False))
    with pytest.raises(AtrousError, match=r"gives labels only.*--scores"):
        graph.scores(draw((40, 40), small.info.preprocessing))


@FORMATS
def test_other_pictures_are_refused(format, exports):
    graph = GRAPHS[format](exports(format, False))
    with pytest.raises(AtrousError, match="H×W×3, got 40×40×1"):
        graph.labels(np.zeros((40, 40, 1), np.uint8))
    with pytest.raises(AtrousError, match="of uint8, got uint16"):
        graph.labels(np.zeros((40, 40, 3), np.uint16))


@FORMATS
@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_a_cut_file_is_refused(format, keep, exports, tmp_path):
    whole = exports(format, False).read_bytes()
    path = tmp_path / f"cut{SUFFIXES[format]}"
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    for read in (read_info, GRAPHS[format]):
        with pytest.raises(AtrousError, match=re.escape(str(path))):
            read(path)


@pytest.mark.parametrize("keep", [None, 0, 0.5])
def test_openvino_without_its_weights_is_refused(keep, exports, tmp_path):
    path = shutil.copy(exports("openvino", False), tmp_path / "model.xml")
    weights = exports("openvino", False).with_suffix(".bin").read_bytes()
    if keep is not None:
        path.with_suffix(".bin").write_bytes(weights[: int(keep * len(weights))])
    with pytest.raises(AtrousError, match=r"model\.bin (do not belong together|beside it is damaged)"):
        OpenVinoGraph(path)


def test_openvino_with_anothers_weights_is_refused(exports, tmp_path):
    path = Path(shutil.copy(exports("openvino", False), tmp_path / "model.xml"))
    weights = bytearray(exports("openvino", False).with_suffix(".bin").read_bytes())
    path.with_suffix(".bin").write_bytes(weights)
    OpenVinoGraph(path)
    weights[len(weights) // 2] ^= 1  # as long as before, and OpenVINO would run it
    path.with_suffix(".bin").write_bytes(weights)
    with pytest.raises(AtrousError, match="from another export"):
        OpenVinoGraph(path)


def test_an_onnx_file_of_others_is_refused(exports, tmp_path):
    import onnx

    theirs = onnx.load(exports("onnx", False))
    del theirs.metadata_props[:]
    onnx.save(theirs, tmp_path / "theirs.onnx")
    with pytest.raises(AtrousError, match="not written by atrous"):
        OnnxGraph(tmp_path / "theirs.onnx")
    theirs.metadata_props.add(key="atrous", value="{}")
    onnx.save(theirs, tmp_path / "theirs.onnx")
    with pytest.raises(AtrousError, match="format version"):
        OnnxGraph(tmp_path / "theirs.onnx")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.pt2", "pickles"),
        ("model.bin", r"give .*model\.xml"),
        ("model.safetensors", "not an exported file"),
        ("absent.onnx", "no exported file at"),
        ("absent.xml", "no exported file at"),
    ],
)
def test_other_files_are_refused_in_words(name, words, tmp_path):
    if not name.startswith("absent"):
        (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(AtrousError, match=words):
        read_info(tmp_path / name)


def test_an_unknown_precision_is_refused(exports):
    with pytest.raises(AtrousError, match="float32"):
        OpenVinoGraph(exports("openvino", False), precision="float16")


def test_a_missing_runtime_names_its_extra(exports, monkeypatch):
    for module, format in (("onnxruntime", "onnx"), ("openvino", "openvino")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(AtrousError, match=rf"atrous\[{format}\]"):
            GRAPHS[format](exports(format, False))


def test_reading_imports_no_runtime():
    code = (
        "import sys, atrous.inference.exported_onnx_and_openvino; "
        "print({'torch', 'onnxruntime', 'openvino', 'onnx'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@FORMATS
def test_a_segmenter_runs_it(format, exports, small):
    image = draw((70, 53), small.info.preprocessing)
    path = exports(format, True)
    segmenter = Segmenter(path)
    assert segmenter.engine.name == {"onnx": "onnxruntime", "openvino": "openvino"}[format]
    assert segmenter.engine.reason == "the runtime the file was exported for"
    assert np.array_equal(segmenter(image).mask, GRAPHS[format](path).labels(segmenter.preparation.prepare(image)))
    several = [
        Segmenter(model, engine=engine, precision="float32", scales=(1.0, 1.5), flip=True)(image).mask
        for model, engine in ((path, "auto"), (small, "torch"))
    ]
    assert (several[0] == several[1]).mean() > 0.999


@FORMATS
@pytest.mark.parametrize("options", [{"flip": True}, {"scales": (0.5,)}, {"crf": "deeplabv2"}])
def test_a_file_of_labels_is_refused_before_the_work(format, options, exports):
    with pytest.raises(AtrousError, match="labels only"):
        Segmenter(exports(format, False), **options)


@FORMATS
@pytest.mark.parametrize("options", [{"engine": "torch"}, {"device": "cuda"}, {"precision": "float16"}])
def test_it_runs_where_it_was_exported_for_only(format, options, exports):
    with pytest.raises(AtrousError, match="on the CPU"):
        Segmenter(exports(format, False), **options)
