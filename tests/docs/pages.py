"""The pages, and what stands in them: fenced blocks, commands, inline code, links."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def pages():
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
    return {str(page.relative_to(ROOT)): page.read_text("utf-8") for page in found}


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    @property
    def name(self):
        return f"{self.page}:{self.line}"


def blocks(language=None):
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for page, text in pages().items()
        for match in FENCE.finditer(text)
        if language in (None, match[1])
    ]


COMMAND = re.compile(r"^(looktwice|torchrun|make|pip|git|python) ")


def commands():
    """Return what is typed in blocks without a language or of bash: (page, command), in order."""
    return [
        (block.page, shlex.join(shlex.split(line, comments=True)))
        for block in blocks()
        if block.language in ("", "bash")
        for line in block.text.splitlines()
        if COMMAND.match(line + " ")
    ]


def inline_code():
    """Return (page, code) of every code span outside fenced blocks."""
    return [
        (page, " ".join(code.split()))
        for page, text in pages().items()
        for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCE.sub("", text))
    ]


def links():
    """Return (page, target) of every link outside fenced blocks."""
    return [
        (page, target)
        for page, text in pages().items()
        for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text))
    ]


def anchors(page):
    """Return GitHub's anchors of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", head.replace("`", "").lower()) for head in heads)
    return {head.strip().replace(" ", "-") for head in plain}
