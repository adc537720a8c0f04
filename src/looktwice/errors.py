"""Errors for people: one line that says what, where, what was found and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable


class LooktwiceError(Exception):
    """Base of every error the command prints as one line (exit code 1)."""


class UsageError(LooktwiceError, ValueError):
    """A flag, configuration key or argument that cannot be used (exit code 2)."""


class DataError(LooktwiceError, ValueError):
    """Pictures, labels or weights that are missing, unreadable or do not fit together."""


class BadPictureError(DataError):
    """One picture that cannot be decoded; the loader replaces it and goes on.

    Attributes:
        identifier: path or name of the picture within its source.
        reason: what the decoder found, one line.
    """

    def __init__(self, identifier: str, reason: str) -> None:
        self.identifier = identifier
        self.reason = " ".join(reason.split())
        super().__init__(f"{identifier!r} is not a readable picture: {self.reason}")


class RunError(LooktwiceError):
    """A run folder that is missing, incomplete, damaged, or already there."""


class DamagedError(RunError):
    """A checkpoint that is not what was written; an older one may be."""


class NotFiniteError(RunError):
    """A step whose loss or gradient is not finite; nothing of it was taken.

    Attributes:
        what: "loss" or "gradient".
    """

    def __init__(self, what: str, message: str) -> None:
        self.what = what
        super().__init__(message)


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, and saved: no mistake, so that nothing takes it for one.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"stopped by signal {number}")


class PeerError(LooktwiceError):
    """Another of the processes that train together ended; it has told why."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known name, or the list of known names."""
    import difflib  # only a mistake needs it

    candidates = sorted(known)
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" Known: {', '.join(candidates)}." if candidates else ""
