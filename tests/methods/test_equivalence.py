"""The same global batch gives the same gradients on any layout. `make campaign` measures all."""

import pytest

from looktwice import equivalence
from looktwice.equivalence import Layout


@pytest.fixture(scope="module")
def differences():
    return list(equivalence.measure(equivalence.sample(), processes=(1, 2), pieces=(1, 2)))


def test_every_layout_of_the_sample_holds(differences):
    assert [str(d) for d in differences if not d.holds] == []


def test_the_sample_is_what_it_claims_to_be(differences):
    cut = {Layout(1, 2), Layout(2, 1), Layout(2, 2)}
    for case in equivalence.sample():
        layouts = {d.layout for d in differences if d.case == case}
        assert layouts == ({Layout(2, 1)} if case.bn_group == "global" else cut)
    cases = equivalence.sample()
    assert set(cases) <= set(equivalence.cases())
    assert {c.method for c in cases} == set(equivalence.METHODS)
    assert all(d.state is not None for d in differences if d.error is None)
    assert any(d.error is not None for d in differences)


def test_differences_are_not_measured_against_themselves(differences):
    """Sums in another order differ in their last bits; equal bits everywhere would be suspicious."""
    assert any(d.gradient > 0 for d in differences)


def test_other_cases_take_other_steps():
    found = [equivalence.take_steps(case, 1, 2) for case in equivalence.sample()[:3]]
    for key in ("gradient", "state.statistics"):
        lengths_and_sums = {(len(r[key]), float(r[key].sum())) for r in found}
        assert len(lengths_and_sums) == 3
