"""Augmentation on the device, per sample, with torchvision's semantics.

For given parameters each function equals `torchvision.transforms.v2.functional` on
float tensors. The `random_*` functions draw the parameters of every sample from the
distributions of torchvision's classes; they take one key for the batch, and compile
once per shape and options. Images are floating NHWC in `[0, 1]`, angles in degrees.
"""

from jaxvision.augment.color import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter,
    random_color_jitter,
)
from jaxvision.augment.crops import (
    pad_crop,
    random_crop,
    random_pad_crop,
    random_resized_crop,
)
from jaxvision.augment.erase import cutout, random_cutout
from jaxvision.augment.geometry import (
    affine,
    alternating_flip,
    horizontal_flip,
    random_affine,
    random_horizontal_flip,
    random_rotation,
    random_vertical_flip,
    rotate,
    vertical_flip,
)
from jaxvision.augment.mix import MIXES, cutmix, cutmix_with, mixup, mixup_with
from jaxvision.augment.pipelines import (
    ALTERNATING,
    PIPELINES,
    crop_flip,
    crop_flip_cutout,
    flips,
    full,
    make_pipeline,
    no_augmentation,
    resized_crop_flip,
    shift,
)
from jaxvision.augment.transforms import mix_transform, photo_transform
from jaxvision.preprocess import center_crop, crop, resized_crop

__all__ = [
    "ALTERNATING",
    "MIXES",
    "PIPELINES",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "affine",
    "alternating_flip",
    "center_crop",
    "color_jitter",
    "crop",
    "crop_flip",
    "crop_flip_cutout",
    "cutmix",
    "cutmix_with",
    "cutout",
    "flips",
    "full",
    "horizontal_flip",
    "make_pipeline",
    "mix_transform",
    "mixup",
    "mixup_with",
    "no_augmentation",
    "pad_crop",
    "photo_transform",
    "random_affine",
    "random_color_jitter",
    "random_crop",
    "random_cutout",
    "random_horizontal_flip",
    "random_pad_crop",
    "random_resized_crop",
    "random_rotation",
    "random_vertical_flip",
    "resized_crop",
    "resized_crop_flip",
    "rotate",
    "shift",
    "vertical_flip",
]
