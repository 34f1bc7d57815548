"""Figures that several reports give."""

import pytest

from streamtok.measures import KEPT, LatestSamples


def test_quantiles_are_those_of_the_latest_samples():
    samples = LatestSamples()
    for value in range(3 * KEPT):
        samples.add(value)
    assert samples.quantiles()["p50"] == pytest.approx(2.5 * KEPT, rel=1e-3)
    assert samples.count == 3 * KEPT
    assert LatestSamples().quantiles() == {}
