"""What can be done to a picture: frozen descriptions with their ranges, and their kernels.

To add an operation: its dataclass and its kernel in the file of its kind, its name here.
"""

from __future__ import annotations

from looktwice.augment.operations.autoaugment import AutoAugment
from looktwice.augment.operations.base import Box, Draw, Interpolation, Operation, Uniform, Whole
from looktwice.augment.operations.blur import GaussianBlur
from looktwice.augment.operations.clahe import CLAHE
from looktwice.augment.operations.colour import (
    Brightness,
    BrightnessContrast,
    ColorJitter,
    Contrast,
    Grayscale,
    Hue,
    Saturation,
    Sepia,
)
from looktwice.augment.operations.crop import CenterCrop, Crop, RandomResizedCrop, Resize
from looktwice.augment.operations.filters import GaussianNoise, Sharpness, Sobel
from looktwice.augment.operations.geometry import (
    Cutout,
    HorizontalFlip,
    QuarterTurn,
    RandomErasing,
    Rotation,
)
from looktwice.augment.operations.tones import (
    AutoContrast,
    Equalize,
    Invert,
    Posterize,
    Solarize,
)

__all__ = [
    "CLAHE",
    "AutoAugment",
    "AutoContrast",
    "Box",
    "Brightness",
    "BrightnessContrast",
    "CenterCrop",
    "ColorJitter",
    "Contrast",
    "Crop",
    "Cutout",
    "Draw",
    "Equalize",
    "GaussianBlur",
    "GaussianNoise",
    "Grayscale",
    "HorizontalFlip",
    "Hue",
    "Interpolation",
    "Invert",
    "Operation",
    "Posterize",
    "QuarterTurn",
    "RandomErasing",
    "RandomResizedCrop",
    "Resize",
    "Rotation",
    "Saturation",
    "Sepia",
    "Sharpness",
    "Sobel",
    "Solarize",
    "Uniform",
    "Whole",
]
