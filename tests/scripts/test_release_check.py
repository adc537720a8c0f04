"""The release check's own judgements: what it lets pass, and what it does not."""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = {
    "looktwice/__init__.py",
    "looktwice/py.typed",
    "looktwice/recipes/a.toml",
    "looktwice/study/studies/b.toml",
    "looktwice/report/templates/c.html.j2",
    "looktwice/data/shipped/d.npz",
}
METADATA = {"looktwice-0.1.0.dist-info/METADATA", "looktwice-0.1.0.dist-info/licenses/LICENSE"}


@pytest.fixture(scope="module")
def script():
    path = ROOT / "scripts/release_check.py"
    spec = importlib.util.spec_from_file_location("release_check", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_whole_wheel_passes(script):
    assert "6 files, recipes 1" in script.compare_wheel(PACKAGE | METADATA, PACKAGE)


def test_what_is_missing_or_too_much_is_named(script):
    names = PACKAGE - {"looktwice/py.typed"} | {"looktwice/notes.txt"} | METADATA
    with pytest.raises(script.FailedError, match=r"missing: .*py\.typed.*; too much: .*notes\.txt"):
        script.compare_wheel(names, PACKAGE)


@pytest.mark.parametrize("left_out", sorted(PACKAGE - {"looktwice/__init__.py"} | METADATA))
def test_data_that_no_wheel_may_lack(script, left_out):
    if left_out.endswith("METADATA"):
        return
    with pytest.raises(script.FailedError, match="holds no"):
        script.compare_wheel(PACKAGE - {left_out} | METADATA - {left_out}, PACKAGE - {left_out})


@pytest.mark.parametrize(
    ("expression", "classifiers", "text", "name"),
    [
        ("MIT", ["License :: OSI Approved :: BSD License"], None, "MIT"),
        (None, ["License :: OSI Approved :: BSD License"], "BSD\n\nCopyright …", "BSD License"),
        (None, [], "Apache-2.0", "Apache-2.0"),
        (None, [], "Long text\nof a licence", "Long text"),
        (None, [], None, "not stated"),
    ],
)
def test_how_a_package_names_its_licence(script, expression, classifiers, text, name):
    assert script.licence_name(expression, classifiers, text) == name


@pytest.mark.parametrize(
    "licence",
    ["AGPL-3.0-or-later", "GPL-2.0-only", "LGPL-2.1", "MPL-2.0", "GNU General Public License v3",
     "Mozilla Public License 2.0 (MPL 2.0)", "CC-BY-SA-4.0", "BSD-3-Clause AND GPL-3.0-only"],
)  # fmt: skip
def test_copyleft_is_refused(script, licence):
    with pytest.raises(script.FailedError, match=rf"copyleft: some \({re.escape(licence)}\)"):
        script.judge_licences({"some": licence, "other": "MIT"})


def test_what_is_no_copyleft_passes_and_what_is_tolerated_is_said(script):
    named = {"a": "MIT", "b": "BSD-3-Clause", "c": "Apache-2.0", "d": "HPND", "tqdm": "MPL-2.0"}
    assert "tqdm" in script.judge_licences(named)


def test_an_audit_that_found_no_package_in_its_database_is_none(script):
    skipped = {"name": "a", "skip_reason": "Dependency not found on PyPI"}
    well = {"name": "b", "version": "1", "vulns": []}
    ill = {"name": "c", "version": "2", "vulns": [{"id": "PYSEC-1"}]}
    assert script.judge_audit([skipped, well]).endswith("against 1 packages; not found: a")
    with pytest.raises(script.NotTriedError, match="not found on PyPI, and so all 1"):
        script.judge_audit([skipped])
    with pytest.raises(script.FailedError, match="c 2: PYSEC-1"):
        script.judge_audit([skipped, well, ill])


def test_conda_users_get_the_requirements_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    theirs = {"torch": "pytorch", "matplotlib": "matplotlib-base", "openTSNE": "opentsne"}
    environment = (ROOT / "environment.yml").read_text("utf-8")
    listed = dict(re.findall(r"^  - ([\w-]+)>=([\d.]+)", environment, re.MULTILINE))
    wanted = dict(line.split(">=") for line in project["dependencies"])
    wanted = {theirs.get(name, name): version for name, version in wanted.items()}
    assert listed.pop("python") == project["requires-python"].removeprefix(">=")
    assert listed == {name: wanted[name] for name in listed}  # pip installs those that are not
