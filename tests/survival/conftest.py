"""Small parts of a run; WHOLE_SURVIVAL=1 does everything that docs/survival.md counts."""

import os

import pytest

WHOLE = bool(os.environ.get("WHOLE_SURVIVAL"))


@pytest.fixture(scope="session")
def cases():
    """Take (in CI, in the whole campaign) and return the number of cases to do."""
    return lambda few, whole: whole if WHOLE else few
