"""Figures that several reports give."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtok.measures import KEPT, EvenSample, LatestSamples


def test_quantiles_are_those_of_the_latest_samples():
    samples = LatestSamples()
    for value in range(3 * KEPT):
        samples.add(value)
    assert samples.quantiles()["p50"] == pytest.approx(2.5 * KEPT, rel=1e-3)
    assert samples.count == 3 * KEPT
    assert LatestSamples().quantiles() == {}


@given(count=st.integers(0, 500), most=st.integers(1, 40))
def test_an_even_sample_spans_the_sequence_in_equal_steps(count, most):
    sample = EvenSample(most)
    for item in range(count):
        sample.add(item)
    step = sample.kept[1] if len(sample.kept) > 1 else max(1, count)
    assert sample.kept == list(range(0, count, step))
    assert (count if count <= most else most / 2) <= len(sample.kept) <= most
