"""Weights that others saved, put into a backbone: which tensor of the file is which of ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from looktwice.errors import DataError, UsageError
from looktwice.foreign import load_weights

CONTAINERS = (
    "state_dict",  # facebookresearch/moco and moco-v3, sthalles/SimCLR, Lightning, solo-learn
    "model",  # HobbitLong/SupContrast, the training scripts of torchvision
    "model_state_dict",  # PyTorch's own tutorial on saving
    "G_A2B",  # park-cheol/Self_Supervised-SimCLR
)
PREFIXES = (
    "",  # torchvision, timm, the exports of lightly-ai/lightly-train, majic0626/SimCLR-cifar10
    "backbone.",  # lightly-ai/lightly, vturrisi/solo-learn, sthalles/SimCLR, youngseo0526/SimCLR
    "student_backbone.",  # lightly-ai/lightly: DINO and what follows it
    "encoder_q.",  # facebookresearch/moco
    "encoder_q.net.",  # its CIFAR-10 notebook, soonwonh/Modified-Moco
    "base_encoder.",  # facebookresearch/moco-v3
    "encoder.",  # park-cheol/Self_Supervised-SimCLR, SupContrast, solo-learn's older checkpoints
)
_WRAPPERS = re.compile(r"(?<![^.])(?:module|_orig_mod)\.")  # DataParallel and torch.compile


@final
@dataclass(frozen=True)
class Match:
    """A backbone's names and those of a file beside each other.

    Attributes:
        prefix: of the tensors' names in the file, one of `PREFIXES`.
        names: name in the file, wrappers aside, by name in the backbone or beside it.
    """

    prefix: str
    names: dict[str, str]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name, those of `DataParallel` and the like as inside it.

    Raises:
        UsageError: the file cannot be read, or holds no tensors.
    """
    try:
        loaded = load_weights(path)
    except DataError as error:
        raise UsageError(str(error)) from error
    for holder in (*(loaded.get(name) for name in CONTAINERS), loaded):
        if isinstance(holder, Mapping):
            tensors = {
                _WRAPPERS.sub("", str(name)): value
                for name, value in holder.items()
                if isinstance(value, Tensor)
            }
            if tensors:
                return tensors
    raise UsageError(
        f"{path} holds no tensors, at its top or under {', '.join(CONTAINERS)}; "
        f"it holds {_some(map(str, loaded)) or 'nothing'}"
    )


def match_names(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> Match:
    """Find the backbone's tensors in a file by name: the prefix under which most are there."""
    expected = backbone.state_dict().keys()
    matches = [Match(prefix, _names(backbone, prefix, tensors)) for prefix in PREFIXES]
    return max(matches, key=lambda match: len(match.names.keys() & expected))


def _names(backbone: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    inner = {name.removeprefix(prefix): name for name in tensors if name.startswith(prefix)}
    expected = backbone.state_dict().keys()
    firsts = {name.split(".")[0] for name in inner}
    if all(re.fullmatch(r"\d{1,3}", first) for first in firsts):
        inner = _named_by_children(backbone, inner, sorted(map(int, firsts)))
    # SupContrast's networks say "shortcut" where torchvision's and timm's say "downsample".
    return {
        name if name in expected else name.replace(".shortcut.", ".downsample."): original
        for name, original in inner.items()
    }


def _named_by_children(
    backbone: nn.Module, inner: dict[str, str], numbers: list[int]
) -> dict[str, str]:
    """Name what `nn.Sequential(*list(network.children())[:-1])` numbers, as lightly's examples do.

    The order of the children that have tensors tells; ReLU and pooling between them may lack.
    """
    children = [name for name, child in backbone.named_children() if child.state_dict()]
    if children[:2] == ["conv1", "bn1"] and numbers[:3] == [0, 1, 2]:
        raise UsageError(
            "the weights are those of lightly's ResNetGenerator inside nn.Sequential, which has no "
            "ReLU after its first batch-norm: build it in Python and use wrap_encoder"
        )
    names = {str(number): name for number, name in zip(numbers, children, strict=False)}
    return {
        ".".join([names.get(first, first), *rest]): original
        for original, (first, *rest) in ((o, name.split(".")) for name, o in inner.items())
    }


def has_small_stem(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a file's ResNet begins with a 3×3 convolution and the backbone with a 7×7."""
    original = match_names(backbone, tensors).names.get("conv1.weight", "")
    expected = backbone.state_dict().get("conv1.weight")
    if original not in tensors or expected is None:
        return False
    return (expected.shape[2:], tensors[original].shape[2:]) == ((7, 7), (3, 3))


def fit_weights(backbone: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> list[str]:
    """Put a file's tensors into a backbone, all or none; heads and second encoders stay out.

    Returns:
        What was left out, by the beginning of its name.

    Raises:
        UsageError: a tensor is missing, has another shape or is not finite, the file holds more
            layers than the backbone, or is known to look alike and compute something else.
    """
    match = match_names(backbone, tensors)
    expected = backbone.state_dict()
    found = {name: tensors[match.names[name]] for name in expected if name in match.names}
    _check_names(backbone, match, expected, path)
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
            hint = _hint(tensor.shape, expected[name].shape)
            raise UsageError(f"{path}: tensor {match.names[name]!r} has shape {shapes}{hint}")
        if not torch.isfinite(tensor).all():
            raise UsageError(f"{path}: tensor {match.names[name]!r} holds NaN or infinity")
    _refuse_lookalikes(backbone, match, tensors, path)
    backbone.load_state_dict({**expected, **found})
    used = {match.names[name] for name in found}
    return sorted({_beginning(name, match.prefix) for name in tensors if name not in used})


def _check_names(
    backbone: nn.Module, match: Match, expected: Mapping[str, Tensor], path: Path
) -> None:
    """Refuse a file that lacks a tensor, or has more of the backbone's layers than it has itself.

    The count of batches that batch-norm keeps is not needed; files from before torch 0.4.1 lack it.
    """
    for name in expected:
        if name not in match.names and not name.endswith("num_batches_tracked"):
            raise UsageError(
                f"{path} lacks the tensor {name!r}: another network? It holds "
                f"{_some(match.names.values()) or 'no tensor under a known name'}"
            )
    layers = {name.split(".")[0] for name in expected}
    for name, original in match.names.items():
        beyond = name not in expected and name.split(".")[0] in layers
        if beyond and not name.startswith(_heads(backbone)):
            raise UsageError(
                f"{path} has, beyond the backbone, the tensor {original!r}: another network?"
            )


def _heads(backbone: nn.Module) -> tuple[str, ...]:
    """Return how names of the taken-off classifier begin, for `str.startswith`."""
    card: Mapping[str, Any] = getattr(backbone, "pretrained_cfg", {})
    heads = card.get("classifier") or ()
    return tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))


def _hint(found: torch.Size, expected: torch.Size) -> str:
    if len(found) != 4 or len(expected) != 4 or found[0] != expected[0]:
        return ""
    if found[2:] == expected[2:]:
        return f": made for pictures of {found[1]} channels, not of {expected[1]}?"
    sides = {3: "small", 7: "standard"}
    if {found[-1], expected[-1]} == {3, 7}:
        return f": its stem is the {sides[found[-1]]} one (model.stem {sides[found[-1]]})"
    return ""


def _refuse_lookalikes(
    backbone: nn.Module, match: Match, tensors: Mapping[str, Tensor], path: Path
) -> None:
    """Refuse networks whose tensors fit and whose computation differs; shapes cannot tell."""
    stem: Any = dict(backbone.named_children()).get("conv1")
    # vturrisi/solo-learn, solo/methods/base.py: Conv2d(3, 64, kernel_size=3, stride=1, padding=2)
    of_solo = "classifier.weight" in tensors and any(
        name.startswith("projector.") for name in tensors
    )
    small = isinstance(stem, nn.Conv2d) and stem.kernel_size == (3, 3)
    if of_solo and small and stem.padding != (2, 2):
        raise UsageError(
            f"{path} seems to be solo-learn's, whose stem for CIFAR pads by 2 pixels: "
            "name the network solo-learn:resnet18 (or resnet50)"
        )
    # facebookresearch/moco-v3, vits.py: vit_small has num_heads=12, timm's has 6
    qkv = tensors.get("base_encoder.blocks.0.attn.qkv.weight")
    if match.prefix == "base_encoder." and qkv is not None and qkv.shape[1] == 384:
        raise UsageError(
            f"{path} is MoCo v3's ViT-S, which has 12 heads where timm's has 6: "
            "build it in Python and use wrap_encoder"
        )


def _beginning(name: str, prefix: str) -> str:
    inner = name.removeprefix(prefix)
    return (prefix if inner != name else "") + inner.split(".")[0]


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(map(repr, listed[:3])) + (f" and {len(listed) - 3} more" if listed[3:] else "")
