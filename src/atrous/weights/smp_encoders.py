"""Encoders of segmentation-models-pytorch (smp): their backbones in atrous, and how a file identifies them.

Source: segmentation_models_pytorch/encoders/, version 0.6.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Encoder:
    """One of smp's own encoders.

    Attributes:
        stem: key of the encoder's first convolution, without "encoder.".
        size: number of values in its weights and running statistics, without the stem, which depends on the number of
            input channels. Stem and size together identify each encoder.
        backbone: name of the backbone in atrous.
        arguments: `backbone_arguments` in atrous.
        scale: normalisation for its ImageNet weights: "imagenet" (mean and std of ImageNet) or "half" (mean and std are
            0.5).
        output_strides: output strides at which atrous can dilate the backbone as smp does.
    """

    stem: str
    size: int
    backbone: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    scale: Literal["imagenet", "half"] = "imagenet"
    output_strides: tuple[int, ...] = (8, 16)


#: Fraction of residual branches that training drops, for both kinds of EfficientNet. The fraction is 0 in the first
#: block and rises to this value.
DROP_PATH = {"drop_path_rate": 0.2}

#: TensorFlow's eps and momentum, and SAME padding. If smp replaces the stride of a stage by dilation, the padding is
#: symmetric (encoders/_utils.py).
TENSORFLOW = {"norm": (1e-3, 0.01), "padding": "tensorflow", **DROP_PATH}

_EFFICIENTNET_SIZES = (
    4_048_700,
    6_574_368,
    7_767_698,
    10_782_448,
    17_672_520,
    28_512_224,
    40_958_624,
    64_095_952,
    84_974_230,
)
_LITE_SIZES = (3_412_160, 4_188_480, 4_868_304, 6_991_904, 11_837_072)
_MOBILEONE_SIZES = (4_355_168, 3_610_816, 5_920_960, 8_224_576, 13_028_264)

#: Special arguments of smp's EfficientNets b0…b7 with efficientnet-pytorch's names. Their padding is computed for one
#: picture size. It is symmetric in stages whose feature maps have an odd size at that picture size, such as 260 → 65 →
#: 33 in b2. In b0, two blocks before the last stride are dilated as if they came after it (encoders/efficientnet.py,
#: out_indexes: 8, although the stage ends at 10).
EFFICIENTNET_QUIRKS = (
    {"rate_factors": {"blocks.4.1.": 2, "blocks.4.2.": 2}},
    {},
    {"symmetric": ("blocks.2.", "blocks.3.")},
    {"symmetric": ("blocks.2.",)},
    {"symmetric": ("blocks.2.",)},
    {"symmetric": ("blocks.3.",)},
    {},
    {"symmetric": ("blocks.3.",)},
)

#: smp's name → the encoder.
ENCODERS = {
    "resnet18": Encoder("conv1.weight", 11_176_704, "resnet18"),
    "resnet34": Encoder("conv1.weight", 21_292_288, "resnet34"),
    "resnet50": Encoder("conv1.weight", 23_551_744, "resnet50"),
    "resnet101": Encoder("conv1.weight", 42_596_096, "resnet101"),
    "resnet152": Encoder("conv1.weight", 58_285_824, "resnet152"),
    "resnext50_32x4d": Encoder("conv1.weight", 23_038_720, "resnext50_32x4d"),
    "resnext101_32x4d": Encoder("conv1.weight", 42_257_152, "resnext101_32x4d"),
    "resnext101_32x8d": Encoder("conv1.weight", 86_935_808, "resnext101_32x8d"),
    "resnext101_32x16d": Encoder("conv1.weight", 192_301_312, "resnext101_32x16d"),
    "resnext101_32x32d": Encoder("conv1.weight", 467_065_088, "resnext101_32x32d"),
    "resnext101_32x48d": Encoder("conv1.weight", 827_205_888, "resnext101_32x32d", {"base_width": 48}),
    "mobilenet_v2": Encoder(
        "features.0.0.weight",
        2_257_120,
        "google_mobilenetv2_100",
        {"last_conv": True, "pad_type": "", "norm": (1e-5, 0.1)},
    ),
    **{
        f"efficientnet-b{n}": Encoder(
            "_conv_stem.weight", _EFFICIENTNET_SIZES[n], f"tf_efficientnet_b{n}", {**TENSORFLOW, **quirks}
        )
        for n, quirks in enumerate(EFFICIENTNET_QUIRKS)
    },
    **{
        f"timm-efficientnet-b{n}": Encoder("conv_stem.weight", size, f"efficientnet_b{n}", DROP_PATH)
        for n, size in enumerate(_EFFICIENTNET_SIZES)
    },
    "timm-efficientnet-l2": Encoder("conv_stem.weight", 475_891_324, "efficientnet_l2", DROP_PATH),
    **{
        f"timm-tf_efficientnet_lite{n}": Encoder(
            "conv_stem.weight", size, f"efficientnet_lite{n}", DROP_PATH, scale="half"
        )
        for n, size in enumerate(_LITE_SIZES)
    },
    # At output stride 8, timm dilates only the first block of MobileOne's third stage.
    **{
        f"mobileone_s{n}": Encoder("stage0.rbr_conv.0.conv.weight", size, f"mobileone_s{n}", output_strides=(16,))
        for n, size in enumerate(_MOBILEONE_SIZES)
    },
}

#: Keys (without "encoder.") of smp's encoders that atrous cannot convert → reason.
REFUSED = (
    (r"layer0\.", "the first pool of smp's SENets has no padding, but timm's has padding"),
    (
        r"layer\d\.\d+\.conv\d\.paths\.",
        "smp gives both branches of a selective kernel the same rate, but timm does not",
    ),
    (r"features\.conv1_1\.", "timm's DPNs cannot be dilated"),
    (r"patch_embed1\.", "atrous has no Mix Transformers"),
)

#: Size without the stem (as in `Encoder`) → timm's name, for common `tu-` encoders. If timm also has a network of this
#: name with "tf_" (SAME padding, another eps), the file does not determine which of the two networks it contains.
#: GENet-M and GENet-L are missing, because timm adds shortcuts to these networks when they are dilated.
TIMM_ENCODERS = {
    3_371_960: "convnext_atto",
    4_829_712: "convnext_femto",
    8_528_576: "convnext_pico",
    14_947_440: "convnext_nano",
    27_813_984: "convnext_tiny",
    49_448_544: "convnext_small",
    87_558_272: "convnext_base",
    3_384_840: "convnextv2_atto",
    4_845_168: "convnextv2_femto",
    8_549_184: "convnextv2_pico",
    14_977_680: "convnextv2_nano",
    27_860_352: "convnextv2_tiny",
    49_543_296: "convnextv2_small",
    87_684_608: "convnextv2_base",
    23_579_734: "ecaresnet50d",
    42_624_171: "ecaresnet101d",
    2_997_440: "efficientnet_lite0",
    3_633_980: "efficientnet_b0",
    3_773_760: "efficientnet_lite1",
    4_412_624: "efficientnet_lite2",
    6_159_648: "efficientnet_b1",
    6_495_264: "efficientnet_lite3",
    7_266_450: "efficientnet_b2",
    10_186_480: "efficientnet_b3",
    11_258_512: "efficientnet_lite4",
    16_862_536: "efficientnet_b4",
    27_455_456: "efficientnet_b5",
    39_622_304: "efficientnet_b6",
    62_447_312: "efficientnet_b7",
    82_980_502: "efficientnet_b8",
    5_667_568: "tf_efficientnetv2_b0",
    6_679_380: "tf_efficientnetv2_b1",
    8_470_014: "tf_efficientnetv2_b2",
    12_525_676: "efficientnetv2_rw_t",
    12_567_046: "tf_efficientnetv2_b3",
    19_997_912: "efficientnetv2_s",
    21_813_904: "efficientnetv2_rw_s",
    52_489_260: "efficientnetv2_m",
    6_286_964: "gernet_s",
    2_724_648: "mnasnet_100",
    261_296: "mobilenetv2_035",
    440_568: "tf_mobilenetv3_small_minimal_100",
    495_872: "mobilenetv2_050",
    582_728: "mobilenetv3_small_075",
    938_688: "mobilenetv3_small_100",
    1_069_096: "mobilenetv2_075",
    1_283_328: "mobilenetv4_conv_small",
    1_437_176: "tf_mobilenetv3_large_minimal_100",
    1_808_304: "mobilenetv3_large_075",
    1_842_400: "mobilenetv2_100",
    2_826_464: "mobilenetv2_110d",
    2_995_920: "mobilenetv3_large_100",
    3_552_432: "mobilenetv2_140",
    4_116_416: "mobilenetv2_120d",
    7_267_632: "mobilenetv4_conv_medium",
    30_224_848: "mobilenetv4_conv_large",
    3_610_816: "mobileone_s1",
    4_355_168: "mobileone_s0",
    5_920_960: "mobileone_s2",
    8_224_576: "mobileone_s3",
    13_028_264: "mobileone_s4",
    2_335_776: "regnetx_002",
    4_808_320: "regnetx_004",
    5_699_456: "regnetx_006",
    6_623_104: "regnetx_008",
    8_319_776: "regnetx_016",
    14_349_248: "regnetx_032",
    20_832_448: "regnetx_040",
    24_657_600: "regnetx_064",
    37_741_248: "regnetx_080",
    43_960_576: "regnetx_120",
    52_339_840: "regnetx_160",
    105_451_712: "regnetx_320",
    2_813_980: "regnety_002",
    3_929_432: "regnety_004",
    5_475_056: "regnety_006",
    5_523_192: "regnety_008",
    10_365_238: "regnety_016",
    17_988_634: "regnety_032",
    19_619_064: "regnety_040",
    29_367_820: "regnety_064",
    37_247_948: "regnety_080",
    49_677_064: "regnety_120",
    80_687_092: "regnety_160",
    141_491_194: "regnety_320",
    23_700_204: "res2net50_26w_4s",
    43_267_340: "res2net101_26w_4s",
    8_584_160: "resnest14d",
    15_056_320: "resnest26d",
    25_497_952: "resnest50d",
    46_354_400: "resnest101e",
    11_176_704: "resnet18",
    11_204_608: "resnet18d",
    13_967_616: "resnet26",
    13_995_520: "resnet26d",
    21_292_288: "resnet34",
    21_320_192: "resnet34d",
    23_551_744: "resnet50",
    23_579_648: "resnet50d",
    42_596_096: "resnet101",
    42_624_000: "resnet101d",
    58_285_824: "resnet152",
    58_313_728: "resnet152d",
    62_819_328: "resnet200d",
    23_038_720: "resnext50_32x4d",
    42_257_152: "resnext101_32x4d",
    81_599_744: "resnext101_64x4d",
    86_935_808: "resnext101_32x8d",
    2_223_942: "semnasnet_100",
    26_082_736: "seresnet50",
    25_569_712: "seresnext50_32x4d",
    47_034_864: "seresnext101_32x4d",
    11_449_600: "skresnet18",
    21_785_536: "skresnet34",
    25_505_920: "skresnext50_32x4d",
    66_893_056: "wide_resnet50_2",
    124_966_144: "wide_resnet101_2",
    25_035_008: "xception41",
    38_051_648: "xception65",
    40_487_848: "xception71",
}
