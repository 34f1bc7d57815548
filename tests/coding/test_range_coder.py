"""The range coder alone: what goes in comes out, in about as many bytes as the frequencies say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtok.coding.range_coder import RangeDecoder, encode_range


@given(st.integers(0, 2**32), st.integers(1, 300), st.integers(2, 64), st.sampled_from([1, 10, 65536]))
def test_symbols_come_back_at_the_price_of_their_frequencies(seed, count, symbols, largest):
    rng = np.random.default_rng(seed)
    frequencies = rng.integers(1, largest, (count, symbols), endpoint=True)
    up_to = frequencies.cumsum(1).astype(np.int32)
    chosen = np.array([rng.choice(symbols, p=row / row.sum()) for row in frequencies])
    each = np.arange(count)
    own = frequencies[each, chosen]
    data = encode_range(np.stack([up_to[each, chosen] - own, own, up_to[:, -1]]))
    decoder = RangeDecoder(data)
    found = np.concatenate([decoder.decode(up_to[part]) for part in np.array_split(each, 3)])
    assert np.array_equal(found, chosen)
    assert decoder.exhausted
    ideal = np.log2(up_to[:, -1] / frequencies[each, chosen]).sum()
    assert 8 * len(data) < ideal * 1.001 + 9


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, bytes(40)])
def test_any_bytes_give_symbols_or_an_error(data):
    up_to = np.tile(np.array([1, 65536, 65537, 4_000_000], np.int32), (200, 1))
    try:
        found = RangeDecoder(data).decode(up_to)
    except ValueError:
        assert data.startswith(b"\xff")
    else:
        assert 0 <= found.min() <= found.max() < 4
