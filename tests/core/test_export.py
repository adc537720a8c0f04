"""Exports: loaded in a fresh process without looktwice, by the lines of the documentation.

LOOKTWICE_EXPORT_PICTURES=1000 says on how many pictures features are compared (40 otherwise).
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from looktwice import card
from looktwice import config as configuration
from looktwice.cli import main
from looktwice.errors import RunError, UsageError
from looktwice.estimator import load_encoder
from looktwice.export import FORMATS, _rounded, export_encoder
from looktwice.models import Encoder, EncoderSpec, build_backbone, encoder_bytes, read_encoder

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
NUM_PICTURES = int(os.environ.get("LOOKTWICE_EXPORT_PICTURES", "40"))
SIZES = [(28, 28), (20, 33), (64, 64), (100, 71), (45, 150)]

ENCODERS = {
    "tiny-grey": EncoderSpec("resnet-tiny", 1, False, 28, (0.4,), (0.3,)),
    "tiny-colour": EncoderSpec("resnet-tiny-half", 3, True, 20, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)),
    "resnet-grey": EncoderSpec("resnet18", 1, False, 64, (0.4,), (0.3,)),
    "resnet-colour": EncoderSpec("timm:resnet18", 3, False, 64, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)),
    "torchvision": EncoderSpec("torchvision:regnet_y_400mf", 1, False, 64, (0.4,), (0.3,)),
    "resnet-small": EncoderSpec("resnet18", 3, True, 32, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)),
}
"""Each kind: grey and colour, ours, timm's and torchvision's, with and without the small stem."""

CASES = [
    ("tiny-grey", "program"), ("tiny-grey", "onnx"), ("tiny-grey", "hf"),
    ("tiny-colour", "hf"),
    ("resnet-grey", "safetensors"), ("resnet-grey", "timm"), ("resnet-grey", "torchvision"),
    ("resnet-colour", "timm"), ("resnet-colour", "torchvision"), ("resnet-colour", "hf"),
    ("resnet-small", "safetensors"), ("resnet-small", "program"), ("resnet-small", "onnx"),
    ("resnet-small", "hf"), ("torchvision", "hf"),
]  # fmt: skip


def trained(spec):
    """Build an encoder whose batch-norms differ from those of a fresh network."""
    torch.manual_seed(0)
    backbone = build_backbone(spec.backbone, channels=spec.channels, small_stem=spec.small_stem)
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.uniform_(-0.3, 0.3)
    return Encoder(backbone.to(memory_format=torch.channels_last), spec).eval()


def make_run(folder, name):
    """Write what a finished run leaves behind, without training one."""
    folder.mkdir()
    spec = ENCODERS[name]
    backbone = trained(spec).backbone
    (folder / "encoder.safetensors").write_bytes(encoder_bytes(backbone, spec))
    values = {
        "data.source": "/home/somebody/flowers",
        "train.seed": 7,
        "model.backbone": "resnet18",
    }
    config = configuration.resolve(recipe="simclr-small", flags=values, environ={})
    (folder / "config.toml").write_text(configuration.to_toml(config))
    made = {"looktwice": "0.1.0", "torch": torch.__version__, "pictures": "0123456789abcdef"}
    (folder / "environment.json").write_text(json.dumps(made))
    told = {"steps": 1234, "epochs": 20.0, "train_seconds": 60.0, "verdict": "healthy"}
    (folder / "summary.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {name: make_run(root / name, name) for name in ENCODERS}


def batches(channels):
    """Return pictures with structure and noise, a few of each size."""
    generator = np.random.default_rng(0)
    found = []
    for height, width in SIZES:
        low = generator.integers(0, 256, (NUM_PICTURES // len(SIZES), channels, 5, 5))
        big = torch.nn.functional.interpolate(torch.tensor(low).float(), size=(height, width))
        noise = torch.tensor(generator.integers(-30, 31, tuple(big.shape)))
        found.append((big + noise).clamp(0, 255).to(torch.uint8))
    return found


def blocks(text, heading):
    """Return the Python of one section of a Markdown file."""
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text, re.M | re.S)[1]
    return "".join(re.findall(r"```python\n(.*?)```", section, re.S))


FRESH = """
import sys, warnings
import numpy as np
warnings.simplefilter("error")
import torch
torch.set_num_threads(1)
given = np.load(sys.argv[1])
path = sys.argv[2]
lines = compile(open(sys.argv[3]).read(), "lines", "exec")
found = {}
for name in given.files:
    names = {"path": path, "pictures": torch.tensor(given[name])}
    exec(lines, names)
    found[name] = np.asarray(names["features"])
assert not any(name.split(".")[0] == "looktwice" for name in sys.modules)
np.savez(sys.argv[4], **found)
"""


def in_fresh_process(lines, path, pictures, tmp_path, cwd):
    """Run lines with `path` and `pictures` where there is no looktwice; return the features."""
    np.savez(tmp_path / "given.npz", *[batch.numpy() for batch in pictures])
    (tmp_path / "lines.py").write_text(lines)
    arguments = [tmp_path / "given.npz", path, tmp_path / "lines.py", tmp_path / "found.npz"]
    environment = {**os.environ, "PYTHONPATH": str(cwd), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as found:
        return [found[name] for name in found.files]


@pytest.mark.parametrize(("name", "to"), CASES)
def test_a_fresh_process_gets_the_same_features(runs, tmp_path, name, to):
    out = export_encoder(runs[name], to, tmp_path / "new" / "exported")
    pictures = batches(ENCODERS[name].channels)
    text = DOCS.read_text()
    lines = blocks(text, "Preprocessing") + blocks(text, to)
    if to == "hf":
        lines = blocks((out / "README.md").read_text(), "Use")
    cwd = out if to == "hf" else tmp_path
    found = in_fresh_process(lines, out, pictures, tmp_path, cwd)
    encoder = load_encoder(runs[name])
    expected = [encoder(batch).numpy() for batch in pictures]
    difference = max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True))
    spread = np.concatenate(expected).std(axis=0).mean()
    number = sum(map(len, found))
    print(
        f"{to:12} {name:14} {number:5} pictures: {difference:.1e} (features vary by {spread:.2g})"
    )
    assert spread > 0.01
    assert difference <= 1e-4


def test_every_format_is_compared_and_documented():
    assert {to for _, to in CASES} == FORMATS.keys()
    text = DOCS.read_text()
    assert all(blocks(text, to) for to in FORMATS if to != "hf")
    assert blocks(text, "Preprocessing") == card.PREPARE


def test_a_program_rounds_as_python_does():
    halves = [number / 2 for number in range(1, 400)]
    scaled = [long * (side / 7) for side in (20, 28, 33) for long in range(7, 500)]
    for length in halves + scaled:
        assert _rounded(length) == round(length)


def test_the_docs_lines_prepare_as_the_encoder_does_to_the_bit():
    names = {}
    exec(card.PREPARE, names)
    encoder = Encoder(torch.nn.Flatten(1), ENCODERS["tiny-colour"])
    spec = encoder.spec
    for batch in batches(3):
        prepared = names["prepare"](batch, spec.image_size, spec.mean, spec.std)
        assert torch.equal(prepared.flatten(1), encoder(batch))


@pytest.mark.parametrize("to", ["timm", "torchvision"])
@pytest.mark.parametrize("name", ["tiny-grey", "resnet-small"])
def test_networks_that_a_library_lacks_are_refused(runs, tmp_path, name, to):
    stem = " with the stem for small pictures" if name == "resnet-small" else ""
    message = (
        f"^{to} cannot build .*{stem}; formats that hold it: safetensors, program, onnx, and hf"
    )
    with pytest.raises(UsageError, match=message) as refused:
        export_encoder(runs[name], to, tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_library_whose_network_computes_something_else_is_refused(runs, tmp_path):
    """Names and shapes of solo-learn's stem may fit; torchvision:resnet18 with another padding."""
    encoder = load_encoder(runs["resnet-colour"])
    encoder.backbone.maxpool = torch.nn.AvgPool2d(3, 2, 1)
    with pytest.raises(UsageError, match="timm cannot build"):
        FORMATS["timm"](encoder, None)


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_is_overwritten(runs, tmp_path, capsys, to):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    (folder / "mine").write_text("mine")
    begun = tmp_path / "begun"  # what a start of a run may replace is nothing of an export
    begun.mkdir()
    (begun / "environment.json").write_text("mine")
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    for out in (file, folder, begun, link, runs["resnet-colour"]):
        code = main(["export", str(runs["resnet-colour"]), "--to", to, "--out", str(out)])
        error = capsys.readouterr().err
        assert (code, error.count("\n")) == (1, 1)
        assert "left as it is" in error
    assert (file.read_text(), (folder / "mine").read_text()) == ("mine", "mine")
    assert (begun / "environment.json").read_text() == "mine"


@pytest.mark.parametrize("to", ["safetensors", "hf"])
def test_what_comes_meanwhile_and_what_lies_beside_is_left(runs, tmp_path, monkeypatch, to):
    out, beside = tmp_path / "out", tmp_path / "out.former"
    beside.write_text("mine")
    made = FORMATS[to]

    def overtaken(encoder, run):
        monkeypatch.setitem(FORMATS, to, made)
        export_encoder(runs["tiny-colour"], to, out)
        return made(encoder, run)

    monkeypatch.setitem(FORMATS, to, overtaken)
    with pytest.raises(RunError, match="out exists already and is left as it is"):
        export_encoder(runs["tiny-grey"], to, out)
    found = read_encoder(out / "model.safetensors" if to == "hf" else out)
    assert (found.spec.channels, beside.read_text()) == (3, "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.former"]


def test_a_disk_that_is_full_leaves_nothing_behind(runs, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for to in ("safetensors", "hf"):
        with pytest.raises(RunError, match="No space left on device"):
            export_encoder(runs["tiny-grey"], to, tmp_path / to)
    assert not list(tmp_path.iterdir())


def test_the_extra_is_named_where_onnx_is_missing(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    out = tmp_path / "out"
    code = main(["export", str(runs["tiny-grey"]), "--to", "onnx", "--out", str(out)])
    error = capsys.readouterr().err
    assert (code, error) == (
        2, "looktwice: format onnx needs onnx and onnxscript: pip install 'looktwice[onnx]'\n"
    )  # fmt: skip
    assert not out.exists()


def test_mistyped_formats_and_targets(runs, tmp_path):
    with pytest.raises(UsageError, match="unknown format 'onx'. Did you mean 'onnx'"):
        export_encoder(runs["tiny-grey"], "onx", tmp_path / "out")
    with pytest.raises(UsageError, match="no run, encoder file or network"):
        export_encoder(tmp_path / "nothing", "onnx", tmp_path / "out")
    with pytest.raises(RunError, match="it has no config.toml"):
        export_encoder(tmp_path, "onnx", tmp_path / "out")
    file = runs["tiny-grey"] / "encoder.safetensors"
    with pytest.raises(UsageError, match="hf needs a run's folder"):
        export_encoder(file, "hf", tmp_path / "out")


def test_a_file_is_exported_as_its_run_is_and_read_again(runs, tmp_path, capsys):
    run, out = runs["resnet-grey"], tmp_path / "again.safetensors"
    file = run / "encoder.safetensors"
    assert main(["export", str(file), "--to", "safetensors", "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"export": str(out), "format": "safetensors"}
    assert out.read_bytes() == file.read_bytes()
    spread = export_encoder(run, "torchvision", tmp_path / "spread.safetensors")
    encoder = load_encoder(spread)
    assert dataclasses.asdict(encoder.spec) == {
        "backbone": "torchvision:resnet18", "channels": 3, "small_stem": False, "image_size": 64,
        "mean": (0.4,) * 3, "std": (0.3,) * 3,
    }  # fmt: skip
    (pictures, *_) = batches(1)
    torch.testing.assert_close(encoder(pictures), load_encoder(run)(pictures), rtol=0, atol=1e-4)


EVALUATION = {
    "data": {"name": "/home/somebody/flowers", "test": 2000},
    "protocols": [
        {"title": "weighted k-NN",
         "rows": {"encoder": {"accuracy": 0.8021, "interval": [0.784, 0.8204]},
                  "raw-pixels": {"accuracy": 0.7, "interval": [0.68, 0.72]}}},
        {"title": "linear probe", "rows": {"encoder": {"accuracy": 0.9, "interval": [0.88, 0.92]}}},
    ],
}  # fmt: skip


def test_the_card_says_how_it_was_made_and_how_good_it_is(tmp_path):
    run = make_run(tmp_path / "run", "resnet-colour")
    unmeasured = export_encoder(run, "hf", tmp_path / "unmeasured")
    assert "Not measured" in (unmeasured / "README.md").read_text()
    (run / "evaluation.json").write_text(json.dumps(EVALUATION))
    text = (export_encoder(run, "hf", tmp_path / "measured") / "README.md").read_text()
    for said in (
        "- recipe: simclr-small", "- seed: 7", "- data: `flowers`", "1,234 steps of 256 pictures",
        "on 2,000 test pictures", "| protocol | encoder | raw pixels |",
        "| weighted k-NN | 80.2 [78.4, 82.0] | 70.0 [68.0, 72.0] |",
        "| linear probe | 90.0 [88.0, 92.0] |  |", "## Limits", "## Licence\n\nMIT.",
    ):  # fmt: skip
        assert said in text
    assert "somebody" not in text
    parsed = ModelCard(text).data.to_dict()
    assert (parsed["license"], parsed["library_name"]) == ("mit", "timm")
    assert parsed["pipeline_tag"] == "image-feature-extraction"


@pytest.mark.parametrize("file", ["environment.json", "summary.json", "evaluation.json"])
def test_a_run_that_does_not_tell_its_training_is_one_line(tmp_path, capsys, file):
    run = make_run(tmp_path / "run", "tiny-grey")
    for damaged in ("{}", "", None):
        (run / file).unlink(missing_ok=True)
        if damaged is not None:
            (run / file).write_text(damaged)
        elif file == "evaluation.json":  # not measured
            continue
        code = main(["export", str(run), "--to", "hf", "--out", str(tmp_path / "out")])
        error = capsys.readouterr().err
        assert (code, error.count("\n"), "does not tell how" in error) == (1, 1, True), error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (
            "https://u:p@host.org/a/shards-{0..9}.tar?X-Amz-Signature=secret#x/y",
            "shards-{0..9}.tar",
        ),
        ("s3://bucket/flowers", "flowers"),
        ("https://user:secret@host.org", "host.org"),
        ("https://host.org/a@b.tar", "a@b.tar"),
        ("/home/somebody/what?#", "what?#"),
    ],
)
def test_a_card_publishes_no_keys(source, name):
    assert card._name(source) == name


def test_a_card_over_published_weights_names_their_licence(tmp_path):
    run = make_run(tmp_path / "run", "tiny-grey")
    config = configuration.load(run / "config.toml")
    config = configuration.with_values(config, {"model.init": "/home/somebody/moco.pth"})
    (run / "config.toml").write_text(configuration.to_toml(config))
    text = (export_encoder(run, "hf", tmp_path / "out") / "README.md").read_text()
    assert "the licence of the starting weights (moco.pth) holds as well" in text
    assert ModelCard(text).data.to_dict()["license"] == "other"


def test_the_image_processor_says_size_mean_and_std(runs, tmp_path):
    out = export_encoder(runs["tiny-colour"], "hf", tmp_path / "out")
    said = json.loads((out / "preprocessor_config.json").read_text())
    assert (said["size"], said["crop_size"]) == ({"shortest_edge": 20}, {"height": 20, "width": 20})
    assert (said["image_mean"], said["image_std"]) == ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
        "resnet_tiny.py",
    ]  # fmt: skip
