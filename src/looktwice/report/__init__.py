"""Pages and pictures for people: the report of a run, and the preview of a policy."""

from __future__ import annotations

from looktwice.report.page import write_report
from looktwice.report.preview import View, ViewSet, view_pairs
from looktwice.report.run import operations_file, preview_file, report_run
from looktwice.report.sheet import write_preview

__all__ = [
    "View",
    "ViewSet",
    "operations_file",
    "preview_file",
    "report_run",
    "view_pairs",
    "write_preview",
    "write_report",
]
