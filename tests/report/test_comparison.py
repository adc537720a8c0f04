"""Comparisons of runs: what is said of a difference, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading import check, read

from looktwice.cli import main
from looktwice.errors import RunError, UsageError
from looktwice.evaluate.scoring import pack, unpack
from looktwice.report.comparison import compare_runs

TEST = 2000
Make = Callable[..., Path]


def with_hits(run: Path, accuracy: float, *, shared: int = 1, own: int = 0) -> Path:
    """Give a run's evaluation hits: pictures that are hard are so for every run of one `shared`."""
    file = run / "evaluation.json"
    evaluation = json.loads(file.read_text())
    ease = np.random.default_rng(shared).uniform(size=TEST)
    ease = ease + 0.02 * np.random.default_rng(own).normal(size=TEST)
    for protocol in evaluation["protocols"]:
        draws = protocol["rows"]["encoder"]["draws"]
        hits = np.tile(ease < np.quantile(ease, accuracy), (draws, 1))
        protocol["right"] = pack(hits)
        row = protocol["rows"]["encoder"]
        row["accuracy"], half = float(hits.mean()), (row["interval"][1] - row["interval"][0]) / 2
        row["interval"] = [row["accuracy"] - half, row["accuracy"] + half]
    evaluation["data"]["test_sha256"] = "0" * 64
    file.write_text(json.dumps(evaluation))
    return run


def edit(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    evaluation = json.loads((run / "evaluation.json").read_text())
    change(evaluation)
    (run / "evaluation.json").write_text(json.dumps(evaluation))


def compare(tmp_path: Path, *runs: Path) -> str:
    page = read(compare_runs(runs, tmp_path / "page.html", command="looktwice report …"))
    check(page)
    return page.text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("num_pictures", [1, 8, 13, 2000])
def test_hits_survive_packing(num_pictures: int) -> None:
    hits = np.random.default_rng(0).uniform(size=(3, num_pictures)) < 0.5
    assert (unpack(pack(hits), num_pictures) == hits).all()
    assert sum(map(len, pack(hits))) <= 3 * (num_pictures / 6 + 5)


def test_a_better_run_is_named_with_its_interval(make_run: Make, tmp_path: Path) -> None:
    better, worse = with_hits(make_run("a"), 0.76), with_hits(make_run("b"), 0.74, own=1)
    text = compare(tmp_path, worse, better)
    assert "With 10 labels a class, a is best: 76.0 % ± 0.8 %" not in text
    assert "With 10 labels a class, a is best: 76.0 ± 0.8 %, 2.0 points above b." in text
    assert "In points, a minus b +2.0 [+1." in text
    assert ": 95 % interval, of differences on the same 2,000 test pictures." in text
    assert "Each is one run" in text
    assert "Nothing: every setting is equal in all runs." in text


def test_pairing_tells_what_intervals_alone_cannot(make_run: Make, tmp_path: Path) -> None:
    """The same accuracies: hard pictures are hard for both, or each run has its own."""
    alike = with_hits(make_run("a"), 0.76), with_hits(make_run("b"), 0.74, own=1)
    assert "a is best" in compare(tmp_path / "", *alike)
    (tmp_path / "page.html").unlink()
    strangers = with_hits(make_run("c"), 0.76), with_hits(make_run("d"), 0.74, shared=2)
    assert "With 10 labels a class, c and d cannot be told apart." in compare(tmp_path, *strangers)


def test_the_interval_is_that_of_a_slow_bootstrap(make_run: Make, tmp_path: Path) -> None:
    runs = with_hits(make_run("a"), 0.76), with_hits(make_run("b"), 0.74, shared=2)
    text = compare(tmp_path, *runs)
    low, high = text.split("In points, a minus b +2.0 [")[1].split("]")[0].split(" to ")
    hits = [
        unpack(json.loads((run / "evaluation.json").read_text())["protocols"][3]["right"], TEST)[0]
        for run in runs
    ]
    generator = np.random.default_rng(7)
    means = []
    for _ in range(4000):
        drawn = generator.integers(TEST, size=TEST)
        means.append(100 * (hits[0][drawn].mean() - hits[1][drawn].mean()))
    expected = np.quantile(means, [0.025, 0.975])
    found = [float(end.replace("\N{MINUS SIGN}", "-")) for end in (low, high)]
    np.testing.assert_allclose(found, expected, atol=0.25)


def test_three_runs_share_their_chance_of_error(make_run: Make, tmp_path: Path) -> None:
    runs = [with_hits(make_run(name), 0.76 - 0.02 * i, own=i) for i, name in enumerate("abc")]
    text = compare(tmp_path, *runs)
    assert "95 % interval for all pairs together, of" in text
    assert "[98.3 % interval, paired]" in text


def test_without_hits_intervals_are_compared_and_it_is_said(make_run: Make, tmp_path: Path) -> None:
    old, new = make_run("old"), with_hits(make_run("new"), 0.76)
    text = compare(tmp_path, old, new)
    assert "With 10 labels a class, new and old cannot be told apart." in text
    assert f"To have it: looktwice eval {old}." in text
    assert "minus it" not in text


def test_runs_on_different_pictures_are_refused(make_run: Make, tmp_path: Path) -> None:
    runs = with_hits(make_run("a"), 0.76), with_hits(make_run("b"), 0.74)
    edit(runs[1], lambda evaluation: evaluation["data"].update(test_sha256="1" * 64))
    with pytest.raises(RunError, match="different test pictures"):
        compare_runs(runs, tmp_path / "page.html")
    edit(runs[1], lambda evaluation: evaluation["data"].update(test_sha256="0" * 64, test=1999))
    with pytest.raises(RunError, match=r"1,999 of fashion-mnist-10k"):
        compare_runs(runs, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_runs_without_evaluation_are_compared_in_the_rest(make_run: Make, tmp_path: Path) -> None:
    runs = make_run("a"), make_run("b"), make_run("c")
    (runs[0] / "evaluation.json").unlink()
    text = compare(tmp_path, *runs)
    assert "Not evaluated: a ." in text
    (tmp_path / "page.html").unlink()
    (runs[1] / "evaluation.json").unlink()
    text = compare(tmp_path, *runs)
    assert "Which is best cannot be said: only one of these runs was evaluated." in text
    (tmp_path / "page.html").unlink()
    (runs[2] / "evaluation.json").unlink()
    for run in runs:
        for name in ("metrics.jsonl", "summary.json", "environment.json"):
            (run / name).unlink()
    assert "none of these runs was evaluated" in compare(tmp_path, *runs)


def test_what_is_set_differently_is_a_table(make_run: Make, tmp_path: Path) -> None:
    runs = make_run("a"), make_run("b")
    config = runs[1] / "config.toml"
    config.write_text(config.read_text().replace("temperature = 0.2", "temperature = 0.5"))
    text = compare(tmp_path, *runs)
    assert "method.temperature 0.2 0.5" in text
    assert "data.source fashion" not in text


def test_equal_folder_names_are_told_by_their_paths(make_run: Make, tmp_path: Path) -> None:
    runs = make_run("one/demo"), make_run("two/demo")
    assert f"{tmp_path / 'one' / 'demo'}" in compare(tmp_path, *runs)


def test_hostile_names_are_text(make_run: Make, tmp_path: Path, hostile: tuple[str, ...]) -> None:
    runs = [make_run(f"{i}{name.replace('/', '⁄')[:80]}") for i, name in enumerate(hostile[:7])]
    text = compare(tmp_path, *runs)
    assert "<script>alert(1)<⁄script>" in text
    assert "javascript:alert(4)" in text


def test_command_never_writes_over_a_page(
    make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    runs = [str(make_run(name)) for name in "ab"]
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        assert main(["report", *runs]) == 0
        assert capsys.readouterr().out == f"report: comparison-00{number}.html\n"
    assert main(["report", *runs, "--out", "comparison-001.html"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["report", runs[0], "--out", "new.html"]) == 2
    assert "--out is for comparisons" in capsys.readouterr().err
    assert main(["report", *runs, "-o", "own.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": "own.html"}


def test_refusals(make_run: Make, tmp_path: Path) -> None:
    run = make_run("a")
    with pytest.raises(UsageError, match="given twice"):
        compare_runs([run, run])
    with pytest.raises(UsageError, match="9 runs"):
        compare_runs([tmp_path / str(i) for i in range(9)])
    with pytest.raises(UsageError, match=r"must end in \.html"):
        compare_runs([run, make_run("b")], tmp_path / "page.pdf")
    with pytest.raises(RunError, match="no run folder"):
        compare_runs([run, tmp_path / "nowhere"])
