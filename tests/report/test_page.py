from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reading import check, read

from looktwice.augment import Policy
from looktwice.data import ArraySource, Splits
from looktwice.errors import RunError
from looktwice.report import write_report


def test_a_whole_run(make_run: Callable[..., Path], splits: Splits, policy: Policy) -> None:
    run = make_run()
    path = write_report(run, splits=splits, policy=policy)
    assert path == run / "report.html"
    page = read(path)
    check(page)
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "With 10 labels a class: 75.7 % ± 0.8, 3.9 points above raw pixels, the better" in text
    assert "95 % interval of the difference: +2.4 to +5.4 points, on 2,000 test pictures" in text
    assert "raw pixels l2 = 0.3, standardised 71.8 ± 1.1 [68.7 to 74.9] +3.9 [+2.4 to +5.4]" in text
    assert "looktwice pretrain --data fashion-mnist-10k --recipe simclr-tiny --minutes 1.5" in text
    assert "Mind:" not in text
    assert "541b3e9daa09b20bf85fa273e5cbd3e80185aa4ec298e765db87742b70138a53" in text
    assert len(page.all("img")) == 6 * 3 + 12 * 6
    assert text.count("✕") == 8
    assert (run / "figures" / "views.png").read_bytes().startswith(b"\x89PNG")
    assert not list(run.glob(".*"))


def test_is_small_and_quick(make_run: Callable[..., Path], splits: Splits, policy: Policy) -> None:
    run = make_run()
    write_report(run, splits=splits, policy=policy)  # compiles the kernel, if nobody did before
    start = time.process_time()
    path = write_report(run, splits=splits, policy=policy)
    assert time.process_time() - start <= 5
    assert path.stat().st_size <= 2_000_000


def test_is_the_same_page_each_time(
    make_run: Callable[..., Path], splits: Splits, policy: Policy
) -> None:
    run = make_run()
    first = write_report(run, splits=splits, policy=policy).read_bytes()
    assert write_report(run, splits=splits, policy=policy).read_bytes() == first


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["evaluation.json"], "nothing is proven: this run was not evaluated"),
        (["summary.json"], "Training has not finished"),
        (["environment.json"], "With 10 labels a class"),
        (["config.toml"], "With 10 labels a class"),
        (["encoder.safetensors"], "With 10 labels a class"),
        (["metrics.jsonl"], "No epoch was recorded"),
        (["evaluation.json", "summary.json", "metrics.jsonl"], "Nothing was learnt yet"),
        (
            ["evaluation.json", "summary.json", "config.toml", "environment.json"],
            "Training looks healthy, but nothing is proven",
        ),
    ],
)
def test_without_some_files(
    gone: list[str], said: str, make_run: Callable[..., Path], splits: Splits, policy: Policy
) -> None:
    run = make_run()
    for name in gone:
        (run / name).unlink()
    page = read(write_report(run, splits=splits, policy=policy))
    check(page)
    assert said in page.text


def test_without_pictures(make_run: Callable[..., Path], splits: Splits, policy: Policy) -> None:
    neither = read(write_report(make_run("neither"), splits=None, policy=None))
    check(neither)
    assert neither.all("img") == []
    assert neither.text.count("pictures were not at hand") == 2
    no_policy = read(write_report(make_run("no_policy"), splits=splits, policy=None))
    check(no_policy)
    assert len(no_policy.all("img")) == 12 * 6
    assert "augmentation was not at hand" in no_policy.text


def test_unlabelled_pictures(make_run: Callable[..., Path], policy: Policy, splits: Splits) -> None:
    run = make_run()
    (run / "evaluation.json").unlink()
    rewrite(run, lambda epoch: epoch | {"knn": None, "knn_chance": None})
    bare = [
        ArraySource(source.image(0).repeat(3, axis=2)[None].repeat(40, axis=0), name="folder")
        for source in (splits.train, splits.validation)
    ]
    page = read(write_report(run, splits=Splits(*bare, None), policy=policy))
    check(page)
    assert "k-NN" not in page.text
    assert len(page.all("img")) == 6 * 3


def rewrite(run: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [changed for line in lines if (changed := change(line)) is not None]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))


@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_run_of_few_epochs(last: int, make_run: Callable[..., Path]) -> None:
    run = make_run()
    rewrite(run, lambda epoch: epoch if epoch["epoch"] <= last else None)
    summary = json.loads((run / "summary.json").read_text()) | {"epochs": last}
    (run / "summary.json").write_text(json.dumps(summary))
    page = read(write_report(run, splits=None, policy=None))
    check(page)
    length = {0: "0 epochs", 1: "1 epoch", 2: "2 epochs"}[last]
    assert f"A short run, of {length}:" in page.text


def test_epochs_that_were_not_measured(make_run: Callable[..., Path]) -> None:
    run = make_run()
    rewrite(
        run,
        lambda epoch: epoch | ({"health": None, "knn": None} if epoch["epoch"] % 4 else {}),
    )
    page = read(write_report(run, splits=None, policy=None))
    check(page)
    lines = [len((line["points"] or "").split()) for line in page.all("polyline")]
    assert lines == [12, 4, 4, 4, 4, 4, 4]


def test_a_diverged_run(make_run: Callable[..., Path]) -> None:
    run = make_run()
    (run / "evaluation.json").unlink()
    rewrite(run, lambda e: e | {"loss": float("nan"), "health": {"alignment": float("inf")}})
    page = read(write_report(run, splits=None, policy=None))
    check(page)
    assert "The loss was not a finite number in 12 epochs." in page.text


def test_the_weightiest_caveat_comes_first(make_run: Callable[..., Path]) -> None:
    run = make_run()
    summary = json.loads((run / "summary.json").read_text())
    collapsed = summary | {"verdict": "collapsed: 1.2 of 128 dimensions in use", "epochs": 2}
    (run / "summary.json").write_text(json.dumps(collapsed))
    text = read(write_report(run, splits=None, policy=None)).text
    assert "Mind: Health warning: collapsed: 1.2 of 128 dimensions in use." in text
    assert "A short run" not in text


def test_hostile_names_are_text(hostile_page: Path, hostile: tuple[str, ...]) -> None:
    page = read(hostile_page)
    check(page)
    for name in hostile[:7]:
        assert name in page.text
        assert any(name in spoken for spoken in page.spoken)
    assert "שלום \\u202eevil\\u202c" in page.text
    assert "nul\\x00bell\\x07" in page.text
    assert "stray \\udcff surrogate" in page.text
    assert not re.search("[\x00-\x08\u202a-\u202e\u2066-\u2069]", hostile_page.read_text("utf-8"))
    assert hostile_page.stat().st_size <= 2_000_000


def test_pictures_that_cannot_be_read(
    make_run: Callable[..., Path], splits: Splits, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from looktwice.errors import BadPictureError

    def fail(i: int) -> None:
        raise BadPictureError(f"test/{i}", "truncated")

    monkeypatch.setattr(splits.test, "image", fail)
    page = read(write_report(make_run(), splits=splits, policy=policy))
    check(page)
    assert page.text.count("not readable") == 12


@pytest.mark.parametrize("name", ["evaluation.json", "summary.json", "metrics.jsonl"])
def test_a_damaged_file_is_named(name: str, make_run: Callable[..., Path]) -> None:
    run = make_run()
    (run / name).write_text('{"epoch": 1\n[]\n')
    with pytest.raises(RunError, match=rf"{re.escape(name)}.* is damaged"):
        write_report(run, splits=None, policy=None)
    assert not (run / "report.html").exists()


def test_an_unfinished_last_line_is_passed_over(make_run: Callable[..., Path]) -> None:
    run = make_run()
    whole = write_report(run, splits=None, policy=None).read_text()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 13, "lo')
    assert write_report(run, splits=None, policy=None).read_text() == whole


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run folder at .*nowhere"):
        write_report(tmp_path / "nowhere", splits=None, policy=None)
    with pytest.raises(RunError, match="holds no run"):
        write_report(tmp_path, splits=None, policy=None)


def test_a_recipe_of_another_version_still_shows(make_run: Callable[..., Path]) -> None:
    run = make_run()
    (run / "config.toml").write_text('recipe = "from-the-future"\n[warp]\nspeed = 9\n')
    page = read(write_report(run, splits=None, policy=None))
    check(page)
    assert "speed = 9" in page.text
    assert "depart from" not in page.text


def test_departures_from_the_recipe(make_run: Callable[..., Path]) -> None:
    from looktwice import config

    run = make_run()
    changed = config.resolve(recipe="simclr-small", flags={"method.temperature": 0.125}, environ={})
    (run / "config.toml").write_text(config.to_toml(changed))
    text = read(write_report(run, splits=None, policy=None)).text
    assert "Settings that depart from the recipe simclr-small" in text
    assert "method.temperature 0.2 0.125" in text


def test_imports_no_torch() -> None:
    code = "import looktwice.report, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
