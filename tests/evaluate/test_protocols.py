"""The protocols on a small run: what they measure, keep, refuse, and when they read test labels."""

import dataclasses
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from looktwice import build, train
from looktwice.checkpoint import list_checkpoints, load_checkpoint
from looktwice.cli import main
from looktwice.config import flatten, resolve
from looktwice.data import ArraySource, open_splits
from looktwice.errors import BadPictureError, DataError, RunError, UsageError
from looktwice.estimator import load_encoder
from looktwice.evaluate import (
    PROTOCOLS,
    evaluate_target,
    finetune,
    fitting,
    layers,
    lost,
    open_subject,
)
from looktwice.evaluate import linear_head as linear
from looktwice.evaluate.fitting import fingerprint
from looktwice.evaluate.labels import Known, draw
from looktwice.evaluate.linear import Standardiser, fit_path
from looktwice.evaluate.subject import _open_other
from looktwice.features import encode, prepare
from looktwice.models import Encoder
from looktwice.run import IN_MEMORY, open_data

CLASSES = 6
SETTINGS = {
    "augment.size": 8,
    "model.image_size": 8,
    "train.batch_size": 32,
    "train.steps": 6,
    "train.threads": 1,
    "data.source": IN_MEMORY,
    "method.name": "simclr",
}


def pictures(channels=1, count=240, seed=0):
    """Bright bars: a class is where the bar is."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = generator.integers(0, 140, (count, 12, 12, channels), dtype=np.uint8)
    for label in range(CLASSES):
        images[labels == label, 2 * label : 2 * label + 2] += 90
    if channels == 3:
        images[..., 1:] //= 3  # they are red
    return images, labels


def splits_of(channels=1, seed=0):
    return open_splits(pictures(channels, seed=seed), seed=0)


def start(folder, splits, **settings):
    config = resolve(recipe="simclr-tiny", flags={**SETTINGS, **settings}, environ={})
    return train.start(config, folder, command="test", file=io.StringIO(), splits=splits)


@pytest.fixture(scope="module")
def splits():
    return splits_of()


@pytest.fixture(scope="module")
def run(tmp_path_factory, splits):
    return start(tmp_path_factory.mktemp("runs") / "run", splits)


@pytest.fixture(scope="module")
def subject(run, splits):
    return open_subject(run.path, splits=splits, device="cpu")


def measure(run, splits, protocol, **options):
    return evaluate_target(run.path, protocol, splits=splits, device="cpu", **options)


QUICK = {"linear": {"epochs": 1}, "finetune": {"epochs": 1}}
ROWS = {
    "standard": ["encoder", "raw-pixels", "untrained"],
    "knn": ["encoder", "raw-pixels", "untrained"],
    "linear": ["encoder", "untrained"],
    "linear-fast": ["encoder", "raw-pixels", "untrained"],
    "finetune": ["encoder", "untrained"],
    "few-label": ["encoder", "raw-pixels", "untrained"],
    "supervised": ["encoder", "supervised", "raw-pixels", "untrained"],
    "layers": ["h", "hidden-1", "z", "untrained"],
    "lost": ["h", "z"],
}


class ReadOnce:
    """Test labels that say when they are read."""

    def __init__(self, values, log):
        self.values, self.log = values, log

    def __len__(self):
        return len(self.values)

    def __getitem__(self, indices):
        return ReadOnce(self.values[indices], self.log)

    def __array__(self, dtype=None, copy=None):
        self.log.append("test labels")
        return self.values

    def astype(self, dtype):
        """What a fingerprint looks at, once all is scored."""
        assert self.log[-1] == "test labels", "the labels were looked at before they were scored"
        return self.values.astype(dtype)


def guarded(splits, log):
    """Return splits whose test labels are watched."""
    test = ArraySource(
        np.stack([splits.test.image(i) for i in range(len(splits.test))]), splits.test.labels
    )
    test.labels = ReadOnce(test.labels, log)
    return dataclasses.replace(splits, test=test)


@pytest.mark.parametrize("protocol", [*sorted(set(ROWS) - {"lost"})])
def test_test_labels_are_read_once_and_last(protocol, run, splits, monkeypatch):
    log = []
    forward = Encoder.forward

    def logged(self, x):
        log.append("network")
        return forward(self, x)

    monkeypatch.setattr(Encoder, "forward", logged)
    subject = open_subject(run.path, splits=guarded(splits, log), device="cpu")
    found = PROTOCOLS[protocol].run(subject, seed=0, **QUICK.get(protocol, {}))
    assert log.count("test labels") == 1
    assert log[-1] == "test labels"
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for entry in found["protocols"]:
        if entry["name"] == "classifier":
            continue
        assert list(entry["rows"]) == ROWS[protocol]
        assert list(entry["differences"]) == ROWS[protocol][1:]
        for row in entry["rows"].values():
            assert len(row["per_class"]) == CLASSES
            assert row["interval"][0] <= row["accuracy"] <= row["top5"] <= 1
    assert np.sum(found["protocols"][0]["confusion"]) % len(splits.test) == 0


def test_linear_is_a_head_on_a_network_that_does_not_move(subject):
    before = {row: fingerprint(network) for row, network in subject.networks.items()}
    found = linear.run(subject, seed=3, seeds=2, epochs=4)
    assert {row: fingerprint(network) for row, network in subject.networks.items()} == before
    (entry,) = found["protocols"]
    row = entry["rows"]["encoder"]
    assert (row["draws"], row["validation_accuracy"]) == (2, None)
    assert row["sd"] is not None
    assert row["chosen"] == {"variant": "simclr", "epochs": 4}
    assert linear.run(subject, seed=3, seeds=2, epochs=4) == found
    assert linear.run(subject, seed=4, seeds=2, epochs=4) != found
    assert linear.VARIANTS["simclr"].epochs == 90
    assert linear.VARIANTS["moco"].epochs == 100


def test_a_network_that_moves_is_noticed(subject, monkeypatch):
    fit = linear.fit

    def moving(*args, **options):
        fit(*args, **options)
        next(subject.encoder.backbone.buffers()).add_(1)

    monkeypatch.setattr(linear, "fit", moving)
    before = next(subject.encoder.backbone.buffers()).clone()
    with pytest.raises(AssertionError, match="frozen network has moved"):
        linear.run(subject, epochs=1)
    next(subject.encoder.backbone.buffers()).copy_(before)


def test_linear_separates_what_can_be_separated(subject):
    """With enough epochs the papers' protocol nears the optimum that the fast one solves for."""
    slow = linear.run(subject, epochs=60, variant="moco")["protocols"][0]["rows"]["encoder"]
    assert slow["accuracy"] > 2 / CLASSES


def test_a_killed_protocol_goes_on_and_says_the_same(run, splits, monkeypatch, tmp_path):
    whole = measure(run, splits, "linear", epochs=3, seeds=2, out=tmp_path / "whole.json")
    calls = []
    cross_entropy = torch.nn.functional.cross_entropy
    out = tmp_path / "killed.json"
    for at in (2, 5, 4):  # of twelve steps: two networks, two seeds, three epochs

        def dying(*args, at=at):
            calls.append(1)
            if len(calls) == at:
                raise KeyboardInterrupt
            return cross_entropy(*args)

        calls.clear()
        monkeypatch.setattr(torch.nn.functional, "cross_entropy", dying)
        with pytest.raises(KeyboardInterrupt):
            measure(run, splits, "linear", epochs=3, seeds=2, out=out)
        assert not out.exists()
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", cross_entropy)
    found = measure(run, splits, "linear", epochs=3, seeds=2, out=out)
    assert found.result["protocols"] == whole.result["protocols"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.json", "whole.json"]


def test_finetuning_leaves_the_encoder_and_chooses_on_validation(subject, monkeypatch):
    before = fingerprint(subject.encoder)
    found = finetune.run(subject, epochs=2)
    assert fingerprint(subject.encoder) == before
    assert [entry["name"] for entry in found["protocols"]] == ["percent-1", "percent-10"]
    for entry in found["protocols"]:
        for row in entry["rows"].values():
            assert row["chosen"]["base_lr"] in finetune.BASE_RATES
            assert row["chosen"]["epochs"] == 2
    monkeypatch.setattr(finetune, "BASE_RATES", (0.0, 0.3))
    (_, most) = finetune.run(subject, epochs=10)["protocols"]
    row = most["rows"]["encoder"]
    assert row["chosen"]["base_lr"] == 0.3  # at rate 0 the classifier stays 0: chance
    assert row["validation_accuracy"] > 1 / CLASSES
    assert row["accuracy"] > 1.5 / CLASSES


def test_finetuning_trains_batch_norm_and_all(subject):
    tuned = finetune._tuned(
        subject.encoder,
        subject.splits.train,
        finetune.Recipe(0.05, 1, 64, nesterov=True),
        CLASSES,
        subject,
        0,
    )
    old, new = subject.encoder.backbone.state_dict(), tuned["backbone"].state_dict()
    assert all(not torch.equal(old[name], new[name]) for name in old)
    assert not tuned.training


def test_one_bad_picture_among_few_labels_is_left_out_and_counted(subject, monkeypatch):
    images, labels = pictures()
    train = ArraySource(images, labels)
    splits = dataclasses.replace(subject.splits, train=train)
    known = Known(torch.from_numpy(labels), torch.from_numpy(splits.validation.labels), CLASSES)
    bad = int(draw(known, "percent-1", seed=0, num_draws=1).choosing[0][0])  # of six
    image = train.image

    def broken(i):
        if i == bad:
            raise BadPictureError("x", "torn")
        return image(i)

    monkeypatch.setattr(train, "image", broken)
    damaged = dataclasses.replace(subject, splits=splits)
    for protocol in (finetune, linear):
        data = protocol.run(damaged, epochs=1)["data"]
        assert (data["train"], data["unreadable"]) == (len(train) - 1, 1)
        with pytest.raises(
            DataError, match=r"1 of the 240 .* more than 0 of them: repair"
        ) as caught:
            protocol.run(dataclasses.replace(damaged, max_bad=0), epochs=1)
        assert "--data.max-bad" not in str(caught.value)


@pytest.mark.parametrize("protocol", [linear, finetune])
def test_pictures_are_read_as_the_run_says(protocol, run, splits, tmp_path, monkeypatch):
    settings = {"data.threads": 3, "data.scaled_decoding": False}
    other = start(tmp_path / "run", splits, **settings)
    seen = []

    class Watched(fitting.Loader):
        def __init__(self, *args, **options):
            seen.append((options["threads"], options["scaled_decoding"]))
            super().__init__(*args, **options)

    monkeypatch.setattr(fitting, "Loader", Watched)
    results = []
    for path in (run.path, other.path):
        subject = open_subject(path, splits=splits, device="cpu")
        results.append(protocol.run(subject, epochs=1)["protocols"])
    assert set(seen) == {(1, True), (3, False)}
    assert results[0] == results[1]  # no JPEGs


def test_few_labels_are_shares_and_numbers_of_each_class():
    train = torch.arange(3).repeat(200)[: 600 - 190]  # 137, 137 and 136 of a class
    known = Known(train, torch.arange(3), 3)
    for amount, counts in [("percent-1", [1, 1, 1]), ("percent-10", [14, 14, 14])]:
        draws = draw(known, amount, seed=0, num_draws=2)
        for drawn in draws.choosing:
            assert torch.bincount(train[drawn]).tolist() == counts
        assert not torch.equal(draws.choosing[0], draws.choosing[1])


def test_transfer_measures_other_pictures(run, splits):
    other = pictures(seed=9)
    found = measure(run, splits, "transfer", data=other)
    assert [entry["name"] for entry in found.result["protocols"]] == ["knn", "linear"]
    assert list(found.result["protocols"][0]["rows"]) == ["encoder", "raw-pixels", "untrained"]
    assert found.file == run.path / "evaluations" / "transfer-array.json"
    with pytest.raises(UsageError, match="was trained on 'array'; give other pictures"):
        measure(run, splits, "transfer")


def test_classes_of_a_run_are_not_asked_of_other_pictures(tmp_path):
    for name in ("cats", "dogs", "owls"):
        for number in range(20):
            path = tmp_path / "own" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 10 * number).save(path)
    (tmp_path / "two.txt").write_text("cats\ndogs\n")
    settings = {"data.source": str(tmp_path / "own"), "data.classes": str(tmp_path / "two.txt")}
    config = resolve(recipe="simclr-tiny", flags=settings, environ={})
    assert open_data(config.data).train.class_names == ("cats", "dogs")
    by_its_name = _open_other(config, os.path.relpath(tmp_path / "own"))
    assert by_its_name.train.class_names == ("cats", "dogs")
    images, labels = pictures()
    np.savez(tmp_path / "other.npz", images=images, labels=labels)
    other = _open_other(config, tmp_path / "other.npz")
    assert other.train.class_names == tuple(map(str, range(CLASSES)))


def test_transfer_of_an_oracle(run, splits, subject):
    """The linear probe of the protocol is the one fitted here to the encoder's features."""
    found = measure(run, splits, "linear-fast").result["protocols"][0]["rows"]["encoder"]
    parts = (splits.train, splits.validation, splits.test)
    train, validation, test = (
        encode(subject.encoder, prepare(subject.encoder, part)[0]) for part in parts
    )
    pool = torch.cat([train, validation])
    labels = torch.from_numpy(np.concatenate([splits.train.labels, splits.validation.labels]))
    scaled = Standardiser.of(pool)
    (model,) = fit_path(scaled(pool), labels, CLASSES, [found["chosen"]["l2"]])
    right = model.predict(scaled(test)).numpy() == splits.test.labels
    assert found["accuracy"] == pytest.approx(right.mean())


def test_layers_are_those_of_the_trained_head(run, splits, subject):
    head = layers.projection_head(subject, "layers")
    training = build.build(run.config(), splits)
    training.method.load_state_dict(
        load_checkpoint(list_checkpoints(run.checkpoints)[-1])[0]["method"]
    )
    training.method.eval()
    whole = prepare(subject.encoder, splits.test)[0]
    found = layers.layers(encode(subject.encoder, whole), head)
    assert list(found) == ["h", "hidden-1", "z"]
    with torch.no_grad():
        z = training.method.project(subject.encoder.normalize(whole))
    torch.testing.assert_close(found["z"], z, rtol=1e-4, atol=1e-5)
    assert found["hidden-1"].min() == 0
    assert found["hidden-1"].shape[1] == run.config().model.head_width


def test_what_is_lost_is_told_from_both(run, splits):
    found = measure(run, splits, "lost")
    assert [entry["name"] for entry in found.result["protocols"]] == [
        "rotation",
        "corrupted",
        "sobel",
    ]
    assert "grey" in found.result["note"]
    rotation, _, sobel = found.result["protocols"]
    assert rotation["classes"] == ["0°", "90°", "180°", "270°"]
    assert np.shape(rotation["confusion"]) == (4, 4)
    assert sobel["rows"]["h"]["accuracy"] > 0.8


def test_transformations_are_what_they_are_called():
    images, _ = pictures(3, 24)
    given = torch.from_numpy(images).permute(0, 3, 1, 2)
    turns = np.arange(24) % 4
    turned = lost.transformed("rotation", given, turns, seed=0)
    for one, turn, out in zip(images, turns, turned, strict=True):
        assert np.array_equal(out.permute(1, 2, 0), np.rot90(one, turn))
    half = np.arange(24) % 2
    for task in ("colour", "corrupted", "sobel"):
        made = lost.transformed(task, given, half, seed=0)
        assert torch.equal(made[half == 0], given[half == 0])
        assert not torch.equal(made[half == 1], given[half == 1])
    grey = lost.transformed("colour", given, half, seed=0)[half == 1]
    assert torch.equal(grey[:, 0], grey[:, 2])
    flat = torch.full((24, 1, 40, 40), 128, dtype=torch.uint8)
    noisy = lost.transformed("corrupted", flat, half, seed=0)[half == 1].double()
    assert noisy.std().item() == pytest.approx(25, rel=0.02)
    assert not torch.equal(noisy[0], noisy[1])


def test_colour_is_a_task_of_colour_pictures(tmp_path):
    splits = splits_of(3)
    run = start(tmp_path / "run", splits)
    found = measure(run, splits, "lost")
    assert found.result["protocols"][0]["name"] == "colour"
    assert found.result["protocols"][0]["rows"]["h"]["accuracy"] > 0.8
    grey = pictures(1, seed=9)
    assert measure(run, splits, "knn", data=grey).result["data"]["classes"]


def test_the_twin_differs_in_the_method_alone_and_is_trained_once(run, splits):
    found = measure(run, splits, "supervised", again=True)
    twin = run.path.with_name("run-supervised")
    ours, theirs = flatten(run.config()), flatten(train.open_run(twin).config())
    assert {key for key in ours if ours[key] != theirs[key]} == {"method.name", "model.head"}
    names = [entry["name"] for entry in found.result["protocols"]]
    assert names == ["knn", "linear", "labels-1", "labels-10", "labels-100", "classifier"]
    stamp = (twin / "encoder.safetensors").stat().st_mtime_ns
    measure(run, splits, "supervised", again=True)
    assert (twin / "encoder.safetensors").stat().st_mtime_ns == stamp


def test_the_twins_classifier_is_its_methods(run, splits):
    found = measure(run, splits, "supervised", again=True).result["protocols"][-1]
    twin = train.open_run(run.path.with_name("run-supervised"))
    training = build.build(twin.config(), splits)
    training.method.load_state_dict(
        load_checkpoint(list_checkpoints(twin.checkpoints)[-1])[0]["method"]
    )
    training.method.eval()
    whole = prepare(training.encoder, splits.test)[0]
    with torch.no_grad():
        predicted = training.method.project(training.encoder.normalize(whole)).argmax(dim=1)
    right = (predicted.numpy() == splits.test.labels).mean()
    assert found["rows"]["supervised"]["accuracy"] == pytest.approx(right, abs=0.03)


def test_a_stranger_in_the_twins_place_is_left_alone(tmp_path, splits):
    run = start(tmp_path / "run", splits)
    start(tmp_path / "run-supervised", splits)
    with pytest.raises(RunError, match="not the supervised twin .*: model.head is 'mlp' there"):
        measure(run, splits, "supervised")


def test_starting_weights_are_a_row_beside_random_ones(run, splits, tmp_path):
    follower = start(tmp_path / "run", splits, **{"model.init": str(run.encoder_file)})
    subject = open_subject(follower.path, splits=splits, device="cpu")
    assert list(subject.networks) == ["encoder", "initial", "untrained"]
    begun = open_subject(run.path, splits=splits, device="cpu")
    assert fingerprint(subject.initial) == fingerprint(begun.encoder)
    assert fingerprint(subject.untrained) == fingerprint(begun.untrained)
    found = measure(follower, splits, "knn").result["protocols"][0]
    assert list(found["rows"]) == ["encoder", "raw-pixels", "initial", "untrained"]


def test_an_encoder_file_is_evaluated_where_no_run_is_needed(run, splits, tmp_path):
    found = evaluate_target(run.encoder_file, "knn", data=pictures(), device="cpu")
    assert (found.file, found.kept) == (None, False)
    own = measure(run, splits, "knn", out=tmp_path / "a.json")
    rows, ours = (f.result["protocols"][0]["rows"]["encoder"] for f in (found, own))
    assert rows == ours
    for protocol in ("layers", "lost", "supervised"):
        with pytest.raises(UsageError, match=f"protocol {protocol} needs a run of looktwice"):
            evaluate_target(run.encoder_file, protocol, data=pictures(), device="cpu")
    with pytest.raises(UsageError, match="weights need a network"):
        measure(run, splits, "knn", weights=run.encoder_file)
    with pytest.raises(UsageError, match="give --data"):
        evaluate_target(run.encoder_file, "knn", device="cpu")


def as_bytes(source):
    return {source.image(i).tobytes() for i in range(len(source))}


def test_no_picture_that_was_trained_on_is_one_of_test(tmp_path):
    """A run on arrays, and its encoder file, measured on the same arrays given again."""
    given = {"split_seed": 1, "validation_fraction": 0.2, "test_fraction": 0.1}
    own = open_splits(pictures(), seed=1, validation_fraction=0.2, test_fraction=0.1)
    run = start(tmp_path / "run", own, **{f"data.{key}": value for key, value in given.items()})
    np.savez(tmp_path / "a.npz", images=pictures()[0], labels=pictures()[1])
    for target in (run.path, run.encoder_file):
        for data in (pictures(), tmp_path / "a.npz"):
            subject = open_subject(target, data=data, device="cpu")
            assert not as_bytes(subject.splits.test) & as_bytes(own.train)
            assert subject.splits.fingerprint() == own.fingerprint()
            with pytest.raises(UsageError, match="was trained on"):
                evaluate_target(target, "transfer", data=data, device="cpu")


def test_what_an_encoder_was_trained_on_is_told_or_said_not_to_be_known(run, splits, tmp_path):
    own = evaluate_target(run.encoder_file, "knn", data=pictures(), device="cpu").result
    assert own["encoder"]["trained_on"] == splits.train.fingerprint()
    elsewhere = tmp_path / "encoder.safetensors"
    elsewhere.write_bytes(run.encoder_file.read_bytes())
    found = evaluate_target(elsewhere, "knn", data=pictures(), device="cpu").result
    assert found["encoder"]["trained_on"] is None
    note = "not known: what the encoder was trained on"
    assert [note in PROTOCOLS["knn"].show(result) for result in (own, found)] == [False, True]


def test_an_encoder_file_looks_at_the_size_that_is_asked_for(run, tmp_path):
    small, own = (
        evaluate_target(run.encoder_file, "knn", data=pictures(), device="cpu", image_size=size)
        for size in (12, None)
    )
    assert small.result["encoder"]["image_size"] == small.result["image_size"] == 12
    assert own.result["image_size"] == load_encoder(run.encoder_file).spec.image_size != 12
    subject = open_subject(run.encoder_file, data=pictures(), device="cpu", image_size=12)
    for network in subject.networks.values():
        assert network.prepare(torch.zeros(1, 1, 40, 50)).shape == (1, 1, 12, 12)
    with pytest.raises(UsageError, match="--image-size: the run .* has its own"):
        evaluate_target(run.path, "knn", data=pictures(), device="cpu", image_size=12)


def test_a_finished_result_is_kept_and_another_not_overwritten(run, splits):
    first = measure(run, splits, "few-label", seeds=2)
    assert first.file == run.path / "evaluations" / "few-label.json"
    assert first.result["protocols"][0]["rows"]["encoder"]["draws"] == 2
    second = measure(run, splits, "few-label", seeds=2)
    assert (second.kept, second.result) == (True, json.loads(first.file.read_text()))
    for other in ({"seeds": 3}, {}, {"seeds": 2, "seed": 1}):
        with pytest.raises(RunError, match="another measurement, .*--again replaces it"):
            measure(run, splits, "few-label", **other)
    assert measure(run, splits, "few-label", again=True).kept is False


@pytest.mark.parametrize(
    ("protocol", "options", "message"),
    [
        ("linaer", {}, "unknown protocol 'linaer'. Did you mean 'linear'?"),
        (
            "knn",
            {"epochs": 3},
            "--epochs has no effect on protocol knn: leave it out; linear, finetune take it",
        ),
        ("linear", {"epochs": 0}, "--epochs is 0; it must be above 0"),
        ("linear", {"variant": "mocco"}, "Did you mean 'moco'?"),
    ],
)
def test_mistakes_are_one_line(run, splits, protocol, options, message):
    with pytest.raises(UsageError) as caught:
        measure(run, splits, protocol, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pictures_that_do_not_fit_are_one_line(run, splits):
    images, labels = pictures()
    for data, message in [
        (pictures(3), "takes grey pictures, and those of 'array' are in colour"),
        (images, "has no labels to measure with"),
        ((images, labels * 0), "two classes or more"),
    ]:
        for protocol in ("knn", "linear", "finetune"):
            with pytest.raises(DataError, match=message) as caught:
                measure(run, splits, protocol, data=data, **QUICK.get(protocol, {}))
            assert "\n" not in str(caught.value)


def test_a_class_that_train_lacks_is_one_line(subject):
    splits = subject.splits
    kept = np.flatnonzero(splits.train.labels != 2)
    images = np.stack([splits.train.image(i) for i in kept])
    names = splits.train.class_names
    train_part = ArraySource(images, splits.train.labels[kept], class_names=names)
    lacking = dataclasses.replace(subject, splits=dataclasses.replace(splits, train=train_part))
    for protocol in ("knn", "linear", "finetune"):
        with pytest.raises(DataError, match="class '2' has no picture in train"):
            PROTOCOLS[protocol].run(lacking, seed=0)


def test_a_run_without_a_head_has_no_layers(tmp_path, splits):
    run = start(tmp_path / "run", splits, **{"method.name": "supervised", "model.head": "none"})
    for protocol in ("layers", "lost"):
        with pytest.raises(UsageError, match="trained without one"):
            measure(run, splits, protocol)


def test_the_command_measures_prints_and_keeps(tmp_path, capsys):
    run = start(tmp_path / "run", open_splits("fashion-mnist-10k"), **{
        "data.source": "fashion-mnist-10k", "augment.size": 4, "model.image_size": 4, "train.steps": 1
    })  # fmt: skip
    words = ["eval", str(run.path), "--device", "cpu"]
    assert main([*words, "--protocol", "knn"]) == 0
    printed = capsys.readouterr().out
    assert "weighted k-NN" in printed
    assert f"written: {run.path}/evaluations/knn.json" in printed
    assert main([*words, "-p", "knn", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == json.loads((run.path / "evaluations" / "knn.json").read_text())
    assert main([*words, "--again"]) == 0  # the proof itself is always measured anew
    assert f"written: {run.path}/evaluation.json" in capsys.readouterr().out
    assert main([*words, "-p", "knm"]) == 2
    assert "Did you mean 'knn'?" in capsys.readouterr().err


def test_every_protocol_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    for name in PROTOCOLS:
        assert f"`{name}`" in text
