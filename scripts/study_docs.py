"""Put the results of studies into the documentation.

    python scripts/study_docs.py [--studies studies] [--docs docs/studies]

For every finished study its figure and CSV are copied, and the tables of its page (between two
marks) and the overview of all claims are written anew. What a person wrote around them stays.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from looktwice.study import open_study, study_names

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
PAGE = """# {title}

{question}

*{source}*

![{title}]({name}.svg)

{begin}
{end}

**What it shows.** To be written.

**Where it departs from its source.** {departs}

`looktwice study {name}{data} --seeds {seeds}`
"""


def main() -> None:
    """Copy figures and tables of the studies that are whole."""
    arguments = _arguments()
    arguments.docs.mkdir(parents=True, exist_ok=True)
    overview = []
    for name in study_names():
        folder = arguments.studies / name
        if not (folder / "figure.svg").exists():
            continue
        found = json.loads((folder / "results.json").read_text("utf-8"))
        if found["missing_runs"]:
            continue
        shutil.copy(folder / "figure.svg", arguments.docs / f"{name}.svg")
        shutil.copy(folder / "results.csv", arguments.docs / f"{name}.csv")
        page = arguments.docs / f"{name}.md"
        if not page.exists():
            page.write_text(_new(name, found), "utf-8")
        page.write_text(
            _between(page.read_text("utf-8"), (folder / "results.md").read_text("utf-8"))
        )
        overview += [(name, claim["text"], claim["outcome"]) for claim in found["claims"]]
    index = arguments.docs / "README.md"
    rows = "".join(f"| [{n}]({n}.md) | {text} | **{outcome}** |\n" for n, text, outcome in overview)
    table = f"| study | claim of the source | here |\n| --- | --- | --- |\n{rows}"
    index.write_text(_between(index.read_text("utf-8"), table), "utf-8")


def _new(name: str, found: dict[str, object]) -> str:
    study = open_study(name)
    data = "" if study.data else " --data emoji"
    rows = found["rows"]
    assert isinstance(rows, list)
    seeds = max(e["seeds"] for row in rows for e in row["measures"].values())
    return PAGE.format(
        title=study.title, question=study.question, source=study.source, name=name, data=data,
        departs=study.departs, seeds=seeds, begin=BEGIN, end=END,
    )  # fmt: skip


def _between(text: str, new: str) -> str:
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{new.strip()}\n\n{END}{rest.split(END)[1]}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=Path, default=Path("studies"))
    parser.add_argument("--docs", type=Path, default=Path("docs/studies"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
