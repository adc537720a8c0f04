"""Studies: grids of runs that are compared, with intervals.

A study is a small TOML file (`definition`). Its runs are kept by what decides them (`store`), made
in processes of their own (`work`, `runner`), measured (`measures`), and put into one table of
means, intervals and differences (`statistics`, `results`), which `tables` writes.
"""

from __future__ import annotations

from looktwice.study.definition import Study, Variant, open_study, read_study, study_names
from looktwice.study.planning import DEFAULT_FOLDER, Plan, plan
from looktwice.study.results import Results, read_results
from looktwice.study.runner import run_study
from looktwice.study.search import Found, Search
from looktwice.study.tables import as_json, table, write_results

__all__ = [
    "DEFAULT_FOLDER",
    "Found",
    "Plan",
    "Results",
    "Search",
    "Study",
    "Variant",
    "as_json",
    "open_study",
    "plan",
    "read_results",
    "read_study",
    "run_study",
    "study_names",
    "table",
    "write_results",
]
