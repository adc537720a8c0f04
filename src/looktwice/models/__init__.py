"""Networks: backbones, projection heads, and the encoder people take away."""

from __future__ import annotations

from looktwice.models.backbones import build_backbone, default_small_stem, feature_width
from looktwice.models.batch_norm import (
    GroupedBatchNorm,
    Grouping,
    forget_recorded,
    group_batch_norm,
    update_running_statistics,
)
from looktwice.models.encoder import (
    Encoder,
    EncoderSpec,
    backbone_normalisation,
    central_square,
    check_image_size,
    encoder_bytes,
    read_encoder,
)
from looktwice.models.foreign import FOREIGN, foreign_encoder, wrap_encoder
from looktwice.models.heads import build_head
from looktwice.models.resnet_tiny import ResNetTiny

__all__ = [
    "FOREIGN",
    "Encoder",
    "EncoderSpec",
    "GroupedBatchNorm",
    "Grouping",
    "ResNetTiny",
    "backbone_normalisation",
    "build_backbone",
    "build_head",
    "central_square",
    "check_image_size",
    "default_small_stem",
    "encoder_bytes",
    "feature_width",
    "foreign_encoder",
    "forget_recorded",
    "group_batch_norm",
    "read_encoder",
    "update_running_statistics",
    "wrap_encoder",
]
