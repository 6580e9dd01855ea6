"""What a Hugging Face folder says beside its weights, and which models are refused."""

import json

import pytest
import torch

import atrous
from atrous import convert
from atrous.data.layouts.voc import VOC_CLASSES
from atrous.errors import AtrousError
from atrous.weights import huggingface, huggingface_config, read_checkpoint
from atrous.weights.read_checkpoint import Foreign


@pytest.fixture(scope="module")
def model():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.MobileNetV2Config(
        depth_multiplier=0.35,
        output_stride=16,
        num_channels=4,
        id2label={0: "ground", 1: "crop", 2: "weed"},
        semantic_loss_ignore_index=254,
    )
    return transformers.MobileNetV2ForSemanticSegmentation(config).eval()


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path)
    return tmp_path


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_is_recognised_and_tells_its_classes_and_stride(folder):
    read = read_checkpoint.read(folder)
    assert huggingface.recognises(read)
    ours = convert(folder)
    assert ours.info.provenance["source"] == "huggingface"
    assert ours.info.classes == ("ground", "crop", "weed")
    assert ours.info.table.ignore == (254,)
    assert ours.info.arguments["output_stride"] == 16
    assert ours.info.arguments["in_channels"] == 4
    assert ours.info.arguments["dropout"] == 0.8
    assert ours.info.preprocessing.mean == pytest.approx((127.5,) * 4)
    assert ours.info.preprocessing.std == pytest.approx((127.5,) * 4)


def test_the_folders_own_preprocessing_counts(folder):
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.0, 0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7, 0.8], "do_center_crop": True})
    )
    preprocessing = convert(folder, source="huggingface").info.preprocessing
    assert preprocessing.mean == pytest.approx((0, 25.5, 51, 76.5))
    assert preprocessing.std == pytest.approx((127.5, 153, 178.5, 204))


def test_what_the_configuration_leaves_out_is_transformers_default(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["output_stride"], config["tf_padding"], config["classifier_dropout_prob"]
    path.write_text(json.dumps(config))
    arguments = convert(folder).info.arguments
    assert (arguments["output_stride"], arguments["dropout"]) == (32, 0.8)
    assert arguments["backbone_arguments"]["pad_type"] == "same"


def test_only_the_classification_layer_is_left_over(folder):
    left_over = convert(folder, source="huggingface").info.provenance["left_over"]
    assert left_over and all(key.startswith("mobilenet_v2.conv_1x1.") for key in left_over)


def test_its_pickled_weights_are_read_too(model, folder):
    expected = convert(folder, source="huggingface").state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    ours = convert(folder, source="huggingface").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.items())


def test_what_the_user_names_counts(model):
    ours = convert(model.state_dict(), source="huggingface", output_stride=32)
    assert ours.info.arguments["output_stride"] == 32
    assert ours.scores(torch.zeros(1, 4, 64, 64))["main"].shape == (1, 3, 2, 2)
    assert convert(model.state_dict(), source="huggingface").info.arguments["output_stride"] == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "segformer"}, "segformer"),
        ({"model_type": "mobilevit"}, "mobilevit"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"first_layer_is_expansion": False}, "first_layer_is_expansion"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps"),
        ({"classifier_dropout_prob": 3}, "classifier_dropout_prob"),
        ({"output_stride": 4}, "output_stride"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(folder, changes, words):
    edit(folder, **changes)
    with pytest.raises(AtrousError, match=words):
        convert(folder, source="huggingface")


def test_a_classifier_is_refused_by_name(model):
    state = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("segmentation_head.")}
    read = Foreign(state, {"model_type": "mobilenet_v2", "architectures": ["MobileNetV2ForImageClassification"]}, "it")
    with pytest.raises(AtrousError, match=r"MobileNetV2ForImageClassification.*does not segment"):
        huggingface.adapt(read, {})


@pytest.mark.parametrize(
    "missing",
    [
        "mobilenet_v2.conv_stem.first_conv.convolution.weight",
        "mobilenet_v2.layer.3.conv_3x3.normalization.running_var",
        "segmentation_head.conv_projection.convolution.weight",
        "segmentation_head.classifier.convolution.bias",
    ],
)
def test_an_incomplete_state_dict_is_refused(model, missing):
    state = {key: tensor for key, tensor in model.state_dict().items() if key != missing}
    with pytest.raises(AtrousError):
        convert(state, source="huggingface")


def test_other_states_are_not_recognised():
    assert not huggingface.recognises(Foreign({"backbone.conv1.weight": torch.zeros(1)}))


@pytest.mark.parametrize(
    ("processor", "mean", "std"),
    [
        ({}, 127.5, 127.5),
        ({"image_mean": [0.0] * 3, "image_std": [1.0] * 3}, 0, 255),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [128.0] * 3}, 127.5, 128),
        ({"do_normalize": False}, 0, 255),
    ],
)
def test_preprocessing_in_raw_units(processor, mean, std):
    found = huggingface.preprocessing(processor, 3)
    assert found.mean == pytest.approx((mean,) * 3)
    assert found.std == pytest.approx((std,) * 3)


def test_preprocessing_is_what_its_processor_does():
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torchvision")
    processor = transformers.MobileNetV2ImageProcessor(
        do_resize=False, do_center_crop=False, image_mean=[0.2, 0.5, 0.7], image_std=[0.3, 0.5, 0.6]
    )
    picture = torch.randint(0, 256, (3, 7, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = processor(picture, return_tensors="pt")["pixel_values"][0]
    found = huggingface.preprocessing(processor.to_dict(), 3)
    mean, std = torch.tensor(found.mean)[:, None, None], torch.tensor(found.std)[:, None, None]
    torch.testing.assert_close((picture.float() - mean) / std, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "processor", [{"image_mean": [0.5]}, {"image_std": "half"}, {"rescale_factor": 0}, {"image_std": [0, 0, 0]}]
)
def test_unusable_preprocessing_is_refused(processor):
    with pytest.raises(AtrousError, match=r"preprocessor_config\.json"):
        huggingface.preprocessing(processor, 3)


def test_the_classes_of_voc_are_those_of_voc():
    labels = {str(index): name for index, name in enumerate(VOC_CLASSES.names)}
    assert huggingface.classes({"id2label": labels}, 21) == VOC_CLASSES


@pytest.mark.parametrize(
    "labels", [None, [], {"0": "LABEL_0", "1": "LABEL_1"}, {"0": "one"}, {"0": "same", "1": "same"}]
)
def test_labels_that_name_nothing_leave_placeholders(labels):
    assert huggingface.classes({"id2label": labels}, 2) is None


def write_processor(folder, **options):
    (folder / "preprocessor_config.json").write_text(json.dumps(options))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"do_resize": True, "size": {"height": 513, "width": 513}}, ["do_resize (size 513×513)"]),
        ({"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}, ["do_center_crop (crop_size 224×224)"]),
        ({"size": {"shortest_edge": 256}, "do_center_crop": False}, ["do_resize (size 256)"]),
        ({"do_resize": True, "do_center_crop": True}, ["do_resize and do_center_crop"]),
        ({"do_pad": True, "do_equalize": True}, ["do_equalize, do_pad, which atrous does not do"]),
    ],
)
def test_what_the_processor_does_and_we_do_not_is_said(folder, capsys, options, said):
    write_processor(folder, image_mean=[0.5] * 4, image_std=[0.5] * 4, **options)
    convert(folder)
    printed = " ".join(capsys.readouterr().out.split())
    assert all(words in printed for words in said)


def test_a_processor_whose_keys_are_no_texts_is_read():
    assert huggingface_config.notes({1: True, None: 3, "do_resize": False}) == ()


def test_a_processor_that_does_what_we_do_needs_no_words(folder, capsys):
    write_processor(folder, do_resize=False, do_center_crop=False, do_rescale=True, do_convert_rgb=True)
    convert(folder)
    assert "preprocessor_config" not in capsys.readouterr().out


def test_pictures_in_bgr_are_rgb_here(tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.MobileNetV2ForSemanticSegmentation(
        transformers.MobileNetV2Config(depth_multiplier=0.35, output_stride=16, num_labels=3)
    ).eval()
    theirs.save_pretrained(tmp_path)
    mean, std = [0.2, 0.4, 0.6], [0.3, 0.5, 0.7]  # in the network's order, which is BGR
    write_processor(tmp_path, do_flip_channel_order=True, image_mean=mean, image_std=std)
    ours = convert(tmp_path)
    picture = torch.rand(1, 3, 65, 97)
    turned = (picture.flip(1) - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = theirs(turned).logits
        found = atrous.Pipeline(ours)(255 * picture)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert "BGR" in capsys.readouterr().out


def test_masks_whose_classes_begin_at_one_are_read_so(folder):
    write_processor(folder, do_reduce_labels=True, image_mean=[0.5] * 4, image_std=[0.5] * 4)
    info = convert(folder).info
    assert info.table.raw == ((1,), (2,), (3,))
    assert info.table.ignore == (0, 254)


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"id2label": {"0": "a", "1": "b"}}, ["2 classes", "3 outputs"]),
        ({"id2label": {"1": "a", "2": "b", "3": "c"}}, ["1, 2, 3", "0 to 2"]),
        ({"num_labels": 5}, ["num_labels = 5", "3 outputs"]),
        ({"num_channels": 3}, ["num_channels = 3", "4 channels"]),
        (
            {"depth_multiplier": 1.0},
            ["depth_multiplier = 1.0, which means 32, 24, 320 channels, but the", "16, 8, 112"],
        ),
        ({"depth_multiplier": "wide"}, ["depth_multiplier = wide", "16, 8, 112"]),
    ],
)
def test_contradictions_are_refused_with_both_values(folder, changes, values):
    edit(folder, **changes)
    with pytest.raises(AtrousError) as raised:
        convert(folder)
    assert all(value in str(raised.value) for value in values)


@pytest.mark.parametrize("multiplier", [0.35, 0.5, 0.75, 1.0, 1.4, 0.625])
def test_a_depth_multiplier_that_fits_its_weights_is_no_contradiction(multiplier):
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        config = transformers.MobileNetV2Config(depth_multiplier=multiplier)
        state = transformers.MobileNetV2ForSemanticSegmentation(config).state_dict()
    widths = tuple(state[name].shape[0] for name in huggingface._WIDTHS)
    huggingface_config.check(config.to_dict(), widths, 2, 3)
