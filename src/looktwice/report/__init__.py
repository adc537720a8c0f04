"""Pages and pictures for people: the report of a run, and the preview of a policy."""

from __future__ import annotations

from looktwice.report.page import write_report
from looktwice.report.preview import View, ViewSet, view_pairs, write_preview
from looktwice.report.run import preview_file, report_run

__all__ = [
    "View",
    "ViewSet",
    "preview_file",
    "report_run",
    "view_pairs",
    "write_preview",
    "write_report",
]
