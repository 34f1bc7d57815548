"""Figures that several reports give."""

import pytest

from streamtok.measures import KEPT, Reservoir


def test_quantiles_are_those_of_the_latest_samples():
    reservoir = Reservoir()
    for value in range(3 * KEPT):
        reservoir.add(value)
    assert reservoir.quantiles()["p50"] == pytest.approx(2.5 * KEPT, rel=1e-3)
    assert reservoir.count == 3 * KEPT
    assert Reservoir().quantiles() == {}
