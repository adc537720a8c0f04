"""Runs that are broken are named and healthy ones are not: a sample of `make campaign`."""

import importlib.util
import sys
from pathlib import Path

import pytest

from looktwice.metrics import LEARNING_PATIENCE, PATIENCE

FILE = Path(__file__).parents[2] / "benchmarks" / "health.py"


def load():
    spec = importlib.util.spec_from_file_location("health_campaign", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


campaign = load()


@pytest.mark.parametrize(
    "case", campaign.SAMPLE, ids=lambda c: f"{c.broken or 'healthy'}-{c.method}-{c.seed}"
)
def test_verdict_names_what_is_broken_and_nothing_else(case):
    found = campaign.outcomes(case)
    verdicts = [each.verdict for each in found]
    assert any(each.accused for each in found) == bool(case.broken), verdicts
    if case.broken in ("no negatives", "constant", "rank 1"):
        assert verdicts[0].startswith("collapsed")
    if not case.broken:
        assert [each.steps for each in found] == [PATIENCE, LEARNING_PATIENCE]


def test_the_campaign_is_what_it_says():
    assert len(campaign.HEALTHY) == len(campaign.BROKEN) == 20
    assert {c.broken for c in campaign.BROKEN} == set(campaign.BREAKS) - {""}
    seeds = {c.seed for c in campaign.HEALTHY + campaign.BROKEN}
    assert len(seeds) == 40
    assert not seeds & {c.seed for c in campaign.CHOSEN_ON}
