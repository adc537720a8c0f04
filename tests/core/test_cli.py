"""The command as people type it: what it prints, what it refuses, how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest
from PIL import Image

from looktwice import __version__
from looktwice.cli import main

QUICK = ["--size", "8", "-b", "8", "--steps", "3", "--threads", "1", "--model.image-size", "8"]


@pytest.fixture
def folder(tmp_path):
    """Two classes of 40 pictures, as JPEG and PNG."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(["day", "night"]):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(40):
            pixels = generator.integers(0, 128, (20, 24, 3), dtype=np.uint8) + 127 * (1 - label)
            ending = "png" if number % 2 else "jpg"
            Image.fromarray(pixels.astype(np.uint8)).save(
                tmp_path / "pictures" / name / f"{number}.{ending}"
            )
    return tmp_path / "pictures"


def run(*arguments, **options):
    command = [sys.executable, "-m", "looktwice", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def error_of(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return code, captured.err


def test_help_and_version_come_without_heavy_imports():
    script = (
        "import sys; from looktwice.cli import main; code = main(['--help']); "
        "heavy = {'torch', 'numba', 'numpy', 'matplotlib', 'PIL', 'timm'} & set(sys.modules); "
        "sys.exit(code or len(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in (
        "pretrain",
        "resume",
        "eval",
        "export",
        "preview",
        "report",
        "demo",
        "doctor",
        "recipes",
    ):
        assert command in done.stdout
    assert run("--version").stdout.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian"], 'Did you mean "pretrain"'),
        (["pretrain", "--optim.base-lrr", "3"], "Did you mean --optim.base-lr"),
        (["pretrain", "--epochs", "many"], 'unable to convert "many" into float'),
        (["pretrain", "-r", "simclr-tyni", "-d", "x"], "Did you mean 'simclr-tiny'"),
        (
            ["pretrain", "-d", "x", "--augment.flip-p", "2"],
            r"augment.flip_p is 2.0, outside \[0, 1\]",
        ),
        (["pretrain", "-d", "fashion-mnist-10k", "--device", "cuda:9", "--steps", "1"], "'cuda:9'"),
        (["pretrain", "--config", "none.toml"], "no configuration file at none.toml"),
        (["pretrain"], "give --data FOLDER or --data NAME"),
        (["recipes", "simclr-tyni"], "Did you mean 'simclr-tiny'"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(capsys, arguments, message):
    code, text = error_of(capsys, *arguments)
    assert re.search(message, text), text
    assert code == 2


def test_failures_are_one_line_and_exit_1(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "file.png").write_text("x")
    for arguments, message in [
        (["pretrain", "-d", tmp_path / "missing"], "missing': check the path"),
        (["pretrain", "-d", tmp_path / "empty"], "0 pictures"),
        (["pretrain", "-d", "fashion-mnsit"], "Did you mean 'fashion-mnist"),
        (["resume", tmp_path / "none"], "no such folder"),
        (["eval", tmp_path / "empty"], "no config.toml"),
        (["report", tmp_path / "file.txt"], "no config.toml"),
        (["preview", "-d", "fashion-mnist-10k", "-o", tmp_path / "file.png"], "exists already"),
    ]:
        code, text = error_of(capsys, *arguments)
        assert code == 1, text
        assert message in text


def test_debug_shows_the_traceback():
    done = run("resume", "nowhere", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_recipes_are_listed_and_printed(capsys):
    assert main(["recipes"]) == 0
    assert re.search(r"^simclr-tiny +\S", capsys.readouterr().out, re.MULTILINE)
    assert main(["recipes", "simclr-tiny"]) == 0
    assert "[optim]" in capsys.readouterr().out


def test_print_config_can_be_fed_back(capsys, tmp_path):
    assert main(["pretrain", "--print-config", "--lr", "0.4", "-d", "x", "-e", "3"]) == 0
    text = capsys.readouterr().out
    assert "base_lr = 0.4" in text
    (tmp_path / "c.toml").write_text(text)
    assert main(["pretrain", "--print-config", "--config", str(tmp_path / "c.toml")]) == 0
    assert capsys.readouterr().out == text


def test_flags_named_as_a_section_stand_beside_others_of_it(capsys):
    arguments = ["--data", "here", "--data.alpha", "black", "--method", "moco"]
    longer = [*arguments, "--method.queue-size", "4096", "--data.no-scaled-decoding"]
    assert main(["pretrain", *longer, "--print-config"]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert printed["data"]["source"] == "here"
    assert printed["data"]["alpha"] == "black"
    assert not printed["data"]["scaled_decoding"]
    assert printed["method"]["name"] == "moco"
    assert printed["method"]["queue_size"] == 4096


def test_from_a_folder_to_a_report(capsys, folder, tmp_path):
    out = tmp_path / "run"
    assert main(["pretrain", "-d", str(folder), "-o", str(out), *QUICK, "--dry-run"]) == 0
    assert "58 pictures" in capsys.readouterr().out
    assert not out.exists()

    assert main(["pretrain", "-d", str(folder), "-o", str(out), *QUICK, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"run": str(out)}
    assert "epoch" in captured.err

    code, text = error_of(capsys, "pretrain", "-d", folder, "-o", out, *QUICK)
    assert code == 1
    assert "holds a run already" in text

    assert main(["eval", str(out)]) == 0
    assert "10 labels a class" in capsys.readouterr().out
    result = json.loads((out / "evaluation.json").read_text())
    assert result["data"]["classes"] == ["day", "night"]

    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert f"looktwice pretrain --config {out}/config.toml" in page
    assert "1 thread" in page

    (folder / "day" / "0.jpg").unlink()
    code, text = error_of(capsys, "eval", out)
    assert code == 1
    assert "does not hold the pictures" in text
    assert main(["report", str(out)]) == 0


def test_unlabelled_pictures_train_and_report_but_have_no_proof(capsys, folder, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for picture in folder.rglob("*.*"):
        picture.rename(flat / f"{picture.parent.name}-{picture.name}")
    out = tmp_path / "run"
    assert main(["pretrain", "-d", str(flat), "-o", str(out), *QUICK]) == 0
    capsys.readouterr()
    code, text = error_of(capsys, "eval", out)
    assert code == 1
    assert "one folder a class" in text
    assert main(["report", str(out)]) == 0


def test_bad_pictures_are_listed_or_stop_the_run(capsys, folder, tmp_path):
    for number in range(3):
        (folder / "day" / f"bad{number}.jpg").write_bytes(b"no picture")
    longer = ["20" if argument == "3" else argument for argument in QUICK]
    arguments = ["pretrain", "-d", folder, *longer, "-o"]
    code, text = error_of(capsys, *arguments, tmp_path / "a")
    assert code == 1
    assert "--data.max-bad" in text
    assert (tmp_path / "a" / "bad_files.jsonl").exists()
    out = tmp_path / "b"
    assert main([str(a) for a in [*arguments, out, "--data.max-bad", "0.2"]]) == 0
    records = [json.loads(line) for line in (out / "bad_files.jsonl").read_text().splitlines()]
    assert all(record["path"].startswith("day/bad") and record["reason"] for record in records)
    assert json.loads((out / "summary.json").read_text())["bad_pictures"] == len(records) > 0


def test_preview_writes_a_new_picture_and_page(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        assert main(["preview", "-d", str(folder), "-n", "2", "--size", "16"]) == 0
        with Image.open(tmp_path / f"preview-00{number}.png") as sheet:
            assert sheet.width > 32
        assert f"page:    preview-00{number}.html" in capsys.readouterr().out
    given = ["preview", "-d", str(folder), "-n", "1", "--epoch", "4", "-o", "v.html", "--json"]
    assert main(given) == 0
    assert json.loads(capsys.readouterr().out) == {"preview": "v.png", "page": "v.html"}
    assert "epoch 4" in (tmp_path / "v.html").read_text()
    code, text = error_of(capsys, *given[:5], "--epoch", "-1")
    assert (code, "epoch must be" in text) == (2, True), text


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 75, "stopped by SIGTERM"),
        (signal.SIGUSR1, 75, "stopped by SIGUSR1"),
    ],
)
def test_a_request_to_stop_has_its_exit_code_and_names_the_next_command(
    tmp_path, request_, code, said
):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "looktwice", "pretrain", "-d", "fashion-mnist-10k",
               "-r", "simclr-tiny", "-o", str(out), "--epochs", "100"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    os.kill(process.pid, request_)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert f"continue with: looktwice resume {out}" in printed
    assert errors == f"looktwice: {said}\n"


def test_a_read_only_place_is_refused(capsys):
    code, text = error_of(capsys, "pretrain", "-d", "fashion-mnist-10k", "-o", "/proc/run", *QUICK)
    assert code == 1
    assert "cannot make /proc/run" in text
