"""The model card of an exported encoder: what it is, how it was made, how good, how to load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torch import nn

from looktwice.config import Config
from looktwice.errors import RunError
from looktwice.models import EncoderSpec, ResNetTiny
from looktwice.run import Run

PREPARE = '''\
import torch
import torch.nn.functional as F


def prepare(pictures, image_size, mean, std):
    """Map uint8 (N, C, H, W) to what the network takes: (N, C, image_size, image_size)."""
    sides = pictures.shape[2:]
    size = [max(image_size, round(side * (image_size / min(sides)))) for side in sides]
    top, left = ((side - image_size) // 2 for side in size)
    pictures = F.interpolate(pictures, size=size, mode="bilinear", antialias=True)
    pictures = pictures[:, :, top : top + image_size, left : left + image_size]
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    return (pictures / 255 - mean) / std
'''
"""The encoder's preprocessing in torch alone; docs/export.md holds the same lines."""

TIMM_LINES = """\
import timm

network = timm.create_model("local-dir:.", pretrained=True)  # or hf-hub:OWNER/NAME
"""

CARD = """\
---
license: {hub_licence}
library_name: {library}
pipeline_tag: image-feature-extraction
tags: [looktwice, contrastive-learning, {method}]
---

# {backbone} by {method}

Maps {colour} pictures to {width} features each. Trained by looktwice.

## Use

In this folder:

```python
{lines}network.eval()
```

Pictures are resized and normalised by these lines, to the bit as when the scores below were
measured; an image processor made from `preprocessor_config.json` may round otherwise:

```python
{prepare}```

```python
with torch.no_grad():  # pictures: uint8 (N, C, H, W), of any size
    features = network(prepare(pictures, {size}, {mean}, {std}))
```

## Training

{training}

## Scores

{scores}

## Limits

It has learnt from pictures of `{data}` alone, and what is said above holds for such pictures: on
others measure it first. Pictures enter at {size} px, the centre square of each; what is smaller or
outside is not seen. Features are no classes: a classifier on them needs labels, and inherits what
the pictures leave out or show too often.

## Licence

{licence}
"""

_LOAD = 'network.load_state_dict(load_file("model.safetensors"))\n'


def tiny_lines(network: ResNetTiny, spec: EncoderSpec) -> str:
    """Return the lines that load a `ResNetTiny` from its folder."""
    stages = (network.stage1, network.stage2, network.stage3)
    widths = tuple(stage.bn2.num_features for stage in stages)
    return (
        "from resnet_tiny import ResNetTiny  # the file beside this one\n"
        "from safetensors.torch import load_file\n\n"
        f"network = ResNetTiny({spec.channels}, small_stem={spec.small_stem}, widths={widths})\n"
    ) + _LOAD


def small_stem_lines(architecture: str, stem: nn.Module) -> str:
    """Return the lines that load a ResNet with the stem for small pictures from its folder."""
    assert isinstance(stem, nn.Conv2d)
    arguments = f"{stem.in_channels}, {stem.out_channels}, 3, padding={stem.padding[0]}, bias=False"
    return (
        "import timm\nimport torch\n"
        "from safetensors.torch import load_file\n\n"
        f'network = timm.create_model("{architecture}", num_classes=0)\n'
        f"network.conv1 = torch.nn.Conv2d({arguments})\n"
        "network.maxpool = torch.nn.Identity()\n"
    ) + _LOAD


def torchvision_lines(architecture: str, network: nn.Module) -> str:
    """Return the lines that load a network of torchvision, less its last layer, from its folder."""
    name, first = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    made_as: Any = network.pretrained_cfg
    return (
        "import torch\nimport torchvision\n"
        "from safetensors.torch import load_file\n\n"
        f'network = torchvision.models.get_model("{architecture}")\n'
        f'network.set_submodule("{made_as["classifier"]}", torch.nn.Identity())\n'
        f'network.set_submodule("{name}", torch.nn.{first})\n'
    ) + _LOAD


def preprocessor(spec: EncoderSpec) -> dict[str, Any]:
    """Return the preprocessing in the words of Hugging Face's image processors."""
    return {
        "do_resize": True,
        "size": {"shortest_edge": spec.image_size},
        "resample": 2,  # PIL's number of bilinear
        "do_center_crop": True,
        "crop_size": {"height": spec.image_size, "width": spec.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": spec.mean,
        "image_std": spec.std,
    }


def model_card(run: Run, spec: EncoderSpec, lines: str, width: int) -> str:
    """Return the card of a run's encoder, Markdown under the hub's YAML.

    Args:
        run: a finished run.
        spec: of its encoder.
        lines: that load its network, as ``network``, in the folder of the card.
        width: D, of its features (N, D).

    Raises:
        RunError: what the run recorded of its training is not there, or damaged.
    """
    config = run.config()
    try:
        training, scores = _training(run, config), _scores(run)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{run.path} does not tell how its encoder was made ({type(error).__name__}: {error}): "
            "bring its environment.json, summary.json and evaluation.json back"
        ) from error
    return CARD.format(
        hub_licence="other" if config.model.init else "mit",
        library="timm" if lines == TIMM_LINES else "pytorch",
        method=config.method.name,
        backbone=spec.backbone,
        colour="grey" if spec.channels == 1 else "colour",
        width=width,
        lines=lines,
        prepare=PREPARE,
        size=spec.image_size,
        mean=list(spec.mean),
        std=list(spec.std),
        training=training,
        scores=scores,
        data=_name(config.data.source),
        licence=_licence(config),
    )


def _training(run: Run, config: Config) -> str:
    made = json.loads(run.environment_file.read_text("utf-8"))
    told = json.loads(run.summary_file.read_text("utf-8"))
    rows = {
        "recipe": config.recipe,
        "method": config.method.name,
        "data": f"`{_name(config.data.source)}` (sha256 of the pictures {made['pictures'][:12]}…)",
        "seed": config.train.seed,
        "length": f"{told['steps']:,} steps of {config.train.batch_size} pictures "
        f"({told['epochs']:.1f} epochs), {told['train_seconds']:,.0f} s",
        "views": f"policy {config.augment.policy}, {config.augment.size} px",
        "starting weights": _name(config.model.init) if config.model.init else "random",
        "health without labels": told["verdict"],
        "software": f"looktwice {made['looktwice']}, torch {made['torch']}",
    }
    return "\n".join(f"- {name}: {value}" for name, value in rows.items())


def _name(source: str) -> str:
    """Return the last part of a path: where it lies on somebody's disk is nobody's business.

    Nor are the keys in an address: who has a signed one, has the pictures.
    """
    if "://" in source:
        address = urlsplit(source)
        source = address.path.strip("/") or address.hostname or ""
    return Path(source).name


def _scores(run: Run) -> str:
    if not run.evaluation_file.exists():
        return "Not measured. `looktwice eval RUN`, then export again."
    found = json.loads(run.evaluation_file.read_text("utf-8"))
    protocols = found["protocols"]
    rows = list(dict.fromkeys(row for protocol in protocols for row in protocol["rows"]))
    lines = [
        f"Accuracy in %, with 95 % intervals, on {found['data']['test']:,} test pictures.\n",
        f"| protocol | {' | '.join(row.replace('-', ' ') for row in rows)} |",
        "|---" * (len(rows) + 1) + "|",
    ]
    for protocol in protocols:
        cells = (_cell(protocol["rows"][row]) if row in protocol["rows"] else "" for row in rows)
        lines.append(f"| {protocol['title']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    low, high = (100 * end for end in row["interval"])
    return f"{100 * row['accuracy']:.1f} [{low:.1f}, {high:.1f}]"


def _licence(config: Config) -> str:
    if config.model.init:
        return (
            "MIT for what training added; the licence of the starting weights "
            f"({_name(config.model.init)}) holds as well."
        )
    return "MIT."
