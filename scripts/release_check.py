"""Check what would be published: build, contents, a fresh installation, its demo, its licences.

    python scripts/release_check.py [--torch VERSION] [--pythons PYTHON ...]

Needs `build`, `hatchling` and `pip-audit` where it runs. Works in a temporary folder, takes some
minutes and as many gigabytes as torch does, again for each of the other Pythons. Ends with 1 if a
check failed; what could not be tried is said and fails nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = "src/looktwice/"

NEEDED: Final = {
    "recipes": r"looktwice/recipes/.+\.toml",
    "templates": r"looktwice/report/templates/.+\.(j2|css|js)",
    "studies": r"looktwice/study/studies/.+\.toml",
    "shipped pictures and their notice": r"looktwice/data/shipped/(.+\.npz|NOTICE)",
    "py.typed": r"looktwice/py\.typed",
    "licences": r"looktwice-[^/]+\.dist-info/licenses/.+",
}
"""What a wheel must hold beside modules: at least one file each."""

COPYLEFT: Final = r"\b(A?GPL|LGPL|GNU|MPL|EUPL|CC-BY-SA|OSL|CDDL|EPL)\b|Mozilla|Affero"
TOLERATED: Final = {
    "numpy": "bundles GCC's runtime under GPL with the exception that frees what links to it",
    "scipy": "bundles GCC's runtime under GPL with the exception that frees what links to it",
    "tqdm": "MPL-2.0 for some of its files, which binds changes to these alone",
    "certifi": "MPL-2.0 for a list of certificates, which binds changes to it alone",
}
"""Packages whose licence names copyleft without binding what uses them, and why."""

VERSIONS: Final = """
import sys, torch, torchvision, looktwice as l
print(sys.version.split()[0], torch.__version__, torchvision.__version__, l.__version__, l.__file__)
"""
VIEWS: Final = """
import hashlib, numpy as np
from looktwice.augment import policy
pictures = np.random.default_rng(0).integers(0, 256, (16, 48, 48, 3), dtype=np.uint8)
views = policy("simclr", size=32)(pictures, seed=0, epoch=0, indices=range(16), threads=1)
print(hashlib.sha256(views.tobytes()).hexdigest())
"""


class FailedError(Exception):
    """A check that did not hold, with the reason."""


class NotTriedError(Exception):
    """A check that could not be made here, with the reason."""


@dataclass
class Check:
    """What the checks share.

    Attributes:
        folder: temporary.
        torch: version to install, or the newest allowed.
        pythons: other interpreters to try.
        failed: names of checks that did not hold.
    """

    folder: Path
    torch: str | None
    pythons: list[Path]
    failed: list[str] = field(default_factory=list)

    @property
    def wheel(self) -> Path:
        """The wheel that was built."""
        return next((self.folder / "dist").glob("*.whl"))

    @property
    def sdist(self) -> Path:
        """The source distribution that was built."""
        return next((self.folder / "dist").glob("*.tar.gz"))

    @property
    def python(self) -> Path:
        """The interpreter of the fresh installation."""
        return self.folder / "venv/bin/python"

    def make(self, name: str, check: Callable[[Check], str]) -> None:
        """Make one check and print how it ended, and how long it took."""
        begun = time.perf_counter()
        try:
            word, text = "ok", check(self)
        except NotTriedError as error:
            word, text = "not tried", str(error)
        except (FailedError, OSError) as error:
            word, text = "FAILED", str(error)
            self.failed.append(name)
        print(f"{word:<10}{name} ({time.perf_counter() - begun:.0f} s): {text}", flush=True)


def main() -> None:
    """Make every check; those that need an installation only where there is one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", help="version to install instead of the newest")
    parser.add_argument("--pythons", nargs="*", type=Path, default=[], help="other interpreters")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="release-check-") as folder:
        check = Check(Path(folder), given.torch, given.pythons)
        check.make("build", build)
        if check.failed:
            sys.exit(1)
        check.make("wheel", wheel_contents)
        check.make("sdist", sdist_contents)
        check.make("installation", install)
        if "installation" not in check.failed:
            for made in (demo, licences, audit, sdist_tests, other_pythons):
                check.make(made.__name__.replace("_", " "), made)
    print(f"{len(check.failed)} checks failed: {', '.join(check.failed)}" * bool(check.failed))
    sys.exit(bool(check.failed))


def run(command: Iterable[str | Path], cwd: Path, **variables: str) -> str:
    """Run a command away from this checkout; return what it printed, or raise FailedError."""
    left_out = ("PYTHONPATH", "LOOKTWICE_DATA")
    environment = {k: v for k, v in os.environ.items() if k not in left_out} | variables
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-15:])
        raise FailedError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{last}")
    return done.stdout


def build(check: Check) -> str:
    """Build wheel and source distribution from the checkout."""
    dist = check.folder / "dist"
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, HERE], check.folder)
    return ", ".join(f"{p.name} {p.stat().st_size / 1e6:.1f} MB" for p in sorted(dist.iterdir()))


def tracked() -> set[str]:
    """Return the checkout's files that are in its version control."""
    return set(run(["git", "ls-files"], HERE).split("\n")) - {""}


def wheel_contents(check: Check) -> str:
    """Compare the wheel with the package's files."""
    with zipfile.ZipFile(check.wheel) as archive:
        names = set(archive.namelist())
    package = {name.removeprefix("src/") for name in tracked() if name.startswith(PACKAGE)}
    return compare_wheel(names, package)


def compare_wheel(names: set[str], package: set[str]) -> str:
    """Return what is in a wheel in words.

    Args:
        names: its files.
        package: those that the package consists of.

    Raises:
        FailedError: something is missing or too much.
    """
    own = {name for name in names if not re.match(r"looktwice-[^/]+\.dist-info/", name)}
    same_files(own, package)
    counts = {
        kind: sum(bool(re.fullmatch(pattern, name)) for name in names)
        for kind, pattern in NEEDED.items()
    }
    empty = [kind for kind, count in counts.items() if not count]
    if empty:
        raise FailedError(f"holds no {', no '.join(empty)}")
    return f"{len(own)} files, " + ", ".join(f"{kind} {count}" for kind, count in counts.items())


def sdist_contents(check: Check) -> str:
    """Compare the source distribution with the checkout's files that it is to hold."""
    with tarfile.open(check.sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    included = re.search(r"targets\.sdist\]\ninclude = \[(.*)\]", read(HERE / "pyproject.toml"))
    assert included is not None
    places = json.loads(f"[{included[1]}]")
    wanted = {n for n in tracked() if n in places or n.split("/")[0] in places}
    same_files(names - {"PKG-INFO", "pyproject.toml", ".gitignore"}, wanted)
    return f"{len(names)} files"


def same_files(found: set[str], wanted: set[str]) -> None:
    """Raise FailedError where files are missing or too much."""
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    if missing or extra:
        raise FailedError(
            f"missing: {missing[:5] or 'nothing'}; too much: {extra[:5] or 'nothing'}"
        )


def read(path: Path) -> str:
    """Return a file's text."""
    return path.read_text("utf-8")


def install(check: Check) -> str:
    """Install the wheel into an empty environment."""
    return install_with(check, sys.executable, check.folder / "venv")


def install_with(check: Check, python: str | Path, environment: Path) -> str:
    """Install the wheel into a new environment of an interpreter; return all versions."""
    run([python, "-m", "venv", environment], check.folder)
    own = environment / "bin/python"
    torch = [f"torch=={check.torch}"] if check.torch else []
    run([own, "-m", "pip", "install", "--quiet", check.wheel, *torch], check.folder)
    run([own, "-m", "pip", "check"], check.folder)
    version, torch_, vision, looktwice, file = run([own, "-c", VERSIONS], check.folder).split()
    if not Path(file).is_relative_to(environment):
        raise FailedError(f"looktwice was imported from {file}")
    return f"looktwice {looktwice}, Python {version}, torch {torch_}, torchvision {vision}"


def demo(check: Check) -> str:
    """Run the demo for some seconds from an empty folder through to the report."""
    return demo_with(check.folder / "venv")


def demo_with(environment: Path) -> str:
    """Run the demo of an environment in an empty folder beside it."""
    place = environment.with_name(f"{environment.name}-demo")
    place.mkdir()
    run([environment / "bin/looktwice", "demo", "--minutes", "0.2"], place)
    (page,) = place.rglob("report.html")
    return f"{page.relative_to(place)}, {page.stat().st_size / 1e6:.1f} MB"


def licences(check: Check) -> str:
    """List what every installed package is licensed under; fail at copyleft that binds us."""
    script = """
import json
from importlib import metadata
print(json.dumps({d.metadata["Name"]: [d.metadata.get("License-Expression"),
    [c for c in d.metadata.get_all("Classifier") or [] if c.startswith("License ::")],
    d.metadata.get("License")] for d in metadata.distributions()}))
"""
    found = json.loads(run([check.python, "-c", script], check.folder))
    named = {name: licence_name(*texts) for name, texts in found.items()}
    for licence, names in sorted(by_licence(named).items()):
        print(f"          {licence}: {', '.join(names)}")
    return judge_licences(named)


def licence_name(expression: str | None, classifiers: list[str], text: str | None) -> str:
    """Return a licence as its package names it: expression, first line, or classifiers."""
    lines = (text or "").strip().splitlines()
    short = lines[0] if len(lines) == 1 and len(lines[0]) < 80 else None
    classes = " and ".join(c.split(" :: ")[-1] for c in classifiers)
    return expression or short or classes or (lines[0].strip() if lines else "not stated")


def by_licence(named: Mapping[str, str]) -> dict[str, list[str]]:
    """Return licences and the packages under each."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, licence in sorted(named.items(), key=lambda pair: pair[0].lower()):
        groups[licence].append(name)
    return dict(groups)


def judge_licences(named: Mapping[str, str]) -> str:
    """Return the verdict; raise FailedError at copyleft not in `TOLERATED`."""
    bound = {name for name, licence in named.items() if re.search(COPYLEFT, licence)}
    refused = sorted(bound - set(TOLERATED))
    if refused:
        raise FailedError(f"copyleft: {', '.join(f'{name} ({named[name]})' for name in refused)}")
    reasons = "; ".join(f"{name}: {TOLERATED[name]}" for name in sorted(bound))
    return f"{len(named)} packages, no copyleft that binds" + f" ({reasons})" * bool(reasons)


def audit(check: Check) -> str:
    """Look the installed packages up in the database of known vulnerabilities."""
    (place,) = (check.folder / "venv/lib").glob("python*/site-packages")
    told = check.folder / "audit.json"
    command = [sys.executable, "-m", "pip_audit", "--path", place, "--timeout", "20"]
    try:
        run([*command, "--progress-spinner", "off", "-f", "json", "-o", told], check.folder)
    except FailedError as error:
        if not told.exists() and re.search(
            r"connect|timed? ?out|unreachable", str(error), re.IGNORECASE
        ):
            reason = str(error).splitlines()[-1][:200]
            raise NotTriedError(f"the database cannot be reached: {reason}") from None
        if not told.exists():
            raise
    return judge_audit(json.loads(read(told))["dependencies"])


def judge_audit(dependencies: list[dict[str, Any]]) -> str:
    """Return how many packages are known to be well; those that were not found are not.

    Raises:
        FailedError: vulnerabilities.
        NotTriedError: pip-audit, which calls that well too, found no package at all.
    """
    known = [d for d in dependencies if "skip_reason" not in d]
    bad = [f"{d['name']} {d['version']}: {v['id']}" for d in known for v in d["vulns"]]
    if bad:
        raise FailedError("; ".join(bad))
    if not known:
        raise NotTriedError(f"{dependencies[0]['skip_reason']}, and so all {len(dependencies)}")
    skipped = sorted(d["name"] for d in dependencies if "skip_reason" in d)
    return f"nothing known against {len(known)} packages; not found: {', '.join(skipped) or 'none'}"


def sdist_tests(check: Check) -> str:
    """Collect the source distribution's tests over the installed wheel."""
    with tarfile.open(check.sdist) as archive:
        archive.extractall(check.folder / "sdist", filter="data")
    (source,) = (check.folder / "sdist").iterdir()
    wheel = f"{check.wheel}[dev]"
    run([check.python, "-m", "pip", "install", "--quiet", wheel], check.folder)
    told = run([check.python, "-m", "pytest", "--collect-only"], source)
    return told.strip().splitlines()[-1]


def other_pythons(check: Check) -> str:
    """Install into other Pythons too: compile all, make the same views, run the demo."""
    if not check.pythons:
        raise NotTriedError("give --pythons")
    expected = run([check.python, "-c", VIEWS], check.folder)
    told = []
    for number, python in enumerate(check.pythons):
        environment = check.folder / f"other-{number}"
        told.append(install_with(check, python, environment))
        own = environment / "bin/python"
        package = next(environment.glob("lib/python*/site-packages/looktwice"))
        run([own, "-W", "error", "-m", "compileall", "-q", "-f", package], check.folder)
        if run([own, "-W", "error", "-c", VIEWS], check.folder) != expected:
            raise FailedError(f"{python} makes other views")
        demo_with(environment)
        shutil.rmtree(environment)  # gigabytes
    return f"the same views, the demo: {'; '.join(told)}"


if __name__ == "__main__":
    main()
