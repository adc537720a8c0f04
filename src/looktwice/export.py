"""The encoder in the files of other tools: each format is one function of an encoder."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from looktwice import card
from looktwice.errors import RunError, UsageError, did_you_mean
from looktwice.estimator import open_encoder
from looktwice.features import encoder_width
from looktwice.models import Encoder, ResNetTiny, build_backbone, encoder_bytes, resnet_tiny
from looktwice.run import Run, open_run
from looktwice.storage import check_new, write_new

Content: TypeAlias = bytes | dict[str, bytes]
"""Of a file, or of a folder by name."""

TOLERANCE = 1e-4
"""Largest difference to the features of another library's network that is rounding."""


def export_encoder(target: str | Path, to: str, out: str | Path) -> Path:
    """Write an encoder in another tool's format; preprocessing goes with it.

    Args:
        target: a finished run's folder, an ``encoder.safetensors``, or another encoder that
            `looktwice.estimator.open_encoder` takes.
        to: one of `FORMATS`; docs/export.md says what each is and how it is loaded.
        out: new file, or new folder for ``timm`` and ``hf``.

    Returns:
        Where it is.

    Raises:
        RunError: something is at `out`, which is left as it is; no run; the disk is full.
        UsageError: an unknown format, one that cannot hold this encoder, or one that needs
            packages that are not installed.
    """
    if to not in FORMATS:
        raise UsageError(f"unknown format {to!r}.{did_you_mean(to, FORMATS)}")
    out = Path(out)
    check_new(out)
    path = Path(target)
    run = open_run(path) if path.is_dir() else None
    write_new(out, FORMATS[to](open_encoder(str(target)), run))
    return out


def _safetensors(encoder: Encoder, _: Run | None) -> Content:
    return encoder_bytes(encoder.backbone, encoder.spec)


def _torchvision(encoder: Encoder, _: Run | None) -> Content:
    """Spread the first layer of a grey encoder over three equal channels: torchvision has no other.

    The sum over equal channels of a third of the weights is the grey channel's.
    """
    backbone, spec = encoder.backbone, encoder.spec
    tensors = backbone.state_dict()
    if spec.channels == 1:
        name = next(name for name, m in backbone.named_modules() if isinstance(m, nn.Conv2d))
        tensors[f"{name}.weight"] = tensors[f"{name}.weight"].expand(-1, 3, -1, -1) / 3
        spec = dataclasses.replace(spec, channels=3, mean=spec.mean * 3, std=spec.std * 3)
    network = _built_by("torchvision", encoder, tensors, spec.channels)
    spec = dataclasses.replace(spec, backbone=f"torchvision:{_architecture(encoder)}")
    return encoder_bytes(network, spec)


def _timm(encoder: Encoder, _: Run | None) -> dict[str, bytes]:
    spec, architecture = encoder.spec, _architecture(encoder)
    network = _built_by("timm", encoder, encoder.backbone.state_dict(), spec.channels)
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": encoder_width(encoder),
        "model_args": {"in_chans": spec.channels},
        "pretrained_cfg": {
            "input_size": [spec.channels, spec.image_size, spec.image_size],
            "mean": spec.mean,
            "std": spec.std,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
        },
    }
    weights = encoder_bytes(network, dataclasses.replace(spec, backbone=architecture))
    return {"model.safetensors": weights, "config.json": _json(config)}


def _hugging_face(encoder: Encoder, run: Run | None) -> Content:
    if run is None:
        raise UsageError("format hf needs a run's folder: its card says how the encoder was made")
    network = encoder.backbone
    if isinstance(network, ResNetTiny):
        files = _own(encoder) | {"resnet_tiny.py": inspect.getsource(resnet_tiny).encode()}
        lines = card.tiny_lines(network, encoder.spec)
    elif encoder.spec.small_stem:
        files = _own(encoder)
        lines = card.small_stem_lines(_architecture(encoder), network.get_submodule("conv1"))
    else:
        files, lines = _published(encoder, run)
    preprocessor = card.preprocessor(encoder.spec)
    readme = card.model_card(run, encoder.spec, lines, encoder_width(encoder))
    return {
        **files,
        "preprocessor_config.json": _json(preprocessor),
        "README.md": readme.encode(),
    }


def _published(encoder: Encoder, run: Run) -> tuple[dict[str, bytes], str]:
    """Return the files of a library's network, timm's where it has it, and the lines to load it."""
    try:
        return _timm(encoder, run), card.TIMM_LINES
    except UsageError:
        if not encoder.spec.backbone.startswith("torchvision:"):
            raise
        lines = card.torchvision_lines(_architecture(encoder), encoder.backbone)
        return _own(encoder), lines


def _own(encoder: Encoder) -> dict[str, bytes]:
    config = {"library": "looktwice", "num_features": encoder_width(encoder)}
    return {
        "model.safetensors": encoder_bytes(encoder.backbone, encoder.spec),
        "config.json": _json(config | dataclasses.asdict(encoder.spec)),
    }


@final
class _AnySize(nn.Module):
    """An encoder in operations that a program holds for every number and size of pictures.

    `looktwice.models.central_square` would become a program for some sizes alone: it has another
    path for pictures that need no resizing, `round`, and slices of a length that differs.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures uint8 (N, C, H, W) to features (N, D)."""
        side, (height, width) = self.encoder.spec.image_size, pictures.shape[2:]
        scale = side / torch.sym_min(height, width)
        size: Any = [torch.sym_max(side, _rounded(length * scale)) for length in (height, width)]
        rows, columns = (torch.arange(side) + (length - side) // 2 for length in size)
        resized = F.interpolate(pictures, size=size, mode="bilinear", antialias=True)
        square = resized.index_select(2, rows).index_select(3, columns)
        features: Tensor = self.encoder(square)
        return features


def _rounded(length: Any) -> Any:
    """Return ``round(length)`` of a positive number, traced or not."""
    up = torch.sym_int(length + 0.5)
    return torch.sym_ite(up == length + 0.5, up - up % 2, up)


def _program(encoder: Encoder, _: Run | None) -> Content:
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {0: torch.export.Dim("n", min=1), 2: dynamic, 3: dynamic}
    side = encoder.spec.image_size
    # Height and width differ from each other and from the encoder's: all three stay open.
    example = torch.zeros(2, encoder.spec.channels, side + 12, side + 24, dtype=torch.uint8)
    encoder.to(memory_format=torch.contiguous_format)  # the layout that a program can save
    program = torch.export.export(_AnySize(encoder).eval(), (example,), dynamic_shapes=(shapes,))
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _onnx(encoder: Encoder, _: Run | None) -> Content:
    """Export for pictures of the encoder's size: ONNX's Resize does not round as torch does."""
    missing = [name for name in ("onnx", "onnxscript") if not importlib.util.find_spec(name)]
    if missing:
        raise UsageError(
            f"format onnx needs {' and '.join(missing)}: pip install 'looktwice[onnx]'"
        )
    spec = encoder.spec
    example = torch.zeros(2, spec.channels, spec.image_size, spec.image_size, dtype=torch.uint8)
    made: Any = torch.onnx.export(
        encoder,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: "n"},),
        input_names=["pictures"],
        output_names=["features"],
        verbose=False,
    )
    made.model.metadata_props["looktwice"] = json.dumps(dataclasses.asdict(spec), sort_keys=True)
    content: bytes = made.model_proto.SerializeToString()
    return content


FORMATS: dict[str, Callable[[Encoder, Run | None], Content]] = {
    "safetensors": _safetensors,
    "timm": _timm,
    "torchvision": _torchvision,
    "program": _program,
    "onnx": _onnx,
    "hf": _hugging_face,
}


def _architecture(encoder: Encoder) -> str:
    return encoder.spec.backbone.rpartition(":")[2].split(".")[0]


@torch.no_grad()
def _built_by(
    library: str, encoder: Encoder, tensors: dict[str, Tensor], channels: int
) -> nn.Module:
    """Build an encoder's network as a library does, and see that it computes the same.

    Raises:
        UsageError: the library has no such network.
    """
    side = encoder.spec.image_size
    pictures = torch.rand(2, encoder.spec.channels, side, side)
    try:
        network = build_backbone(
            f"{library}:{_architecture(encoder)}", channels=channels, small_stem=False
        )
        network.load_state_dict(tensors)
        features = network.eval()(pictures.expand(-1, channels, -1, -1))
        torch.testing.assert_close(
            features, encoder.backbone(pictures), rtol=TOLERANCE, atol=TOLERANCE
        )
    except (UsageError, RunError, RuntimeError, AssertionError):
        stem = " with the stem for small pictures" * encoder.spec.small_stem
        raise UsageError(
            f"{library} cannot build {encoder.spec.backbone}{stem}; formats that hold it: "
            "safetensors, program, onnx, and hf of a run"
        ) from None
    return network


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()
