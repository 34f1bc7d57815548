"""Coded grids in a file, read in any order: the right tokens, or an error that says what is missing."""

import numpy as np
import pytest

from streamtok.coding.coder import FRESH, CodingError, grid_checksum
from streamtok.coding.epochs import CodedGrid, EpochReader
from tests.kit.coders import draw_grids, make_coder

GRIDS = draw_grids(make_coder(), 9, (4, 6))
KEYFRAMES = (0, 5)


def store(lost: int | None = None) -> list[CodedGrid]:
    """The grids as a file has them, but for one that was lost."""
    coder, past, stored = make_coder(), FRESH, []
    for number, grid in enumerate(GRIDS):
        alone = number in KEYFRAMES
        payload, past = coder.encode(grid, FRESH if alone else past)
        stored.append(CodedGrid(payload, (4, 6), grid_checksum(grid), alone, (0, number), coder))
    return [grid for number, grid in enumerate(stored) if number != lost]


def test_grids_come_in_any_order_and_each_is_decoded_once():
    stored, loaded = store(), []
    reader = EpochReader(lambda index: loaded.append(index) or stored[index])
    for index in (3, 8, 0, 4, 7, 3):
        assert np.array_equal(reader.read(index), GRIDS[index])
    assert sorted(loaded) == list(range(9))


@pytest.mark.parametrize("before", [[], [1]])
def test_a_grid_after_a_lost_one_says_that_some_are_missing(before):
    """Also where those before the lost one have been read already."""
    reader = EpochReader(store(lost=2).__getitem__)
    for index in before:
        reader.read(index)
    for index in (2, 3):
        with pytest.raises(CodingError, match="of which some are missing"):
            reader.read(index)
    assert np.array_equal(reader.read(4), GRIDS[5])


def test_a_file_that_begins_within_an_epoch_says_so():
    stored = store()[2:]
    with pytest.raises(CodingError, match="which are not in the file"):
        EpochReader(stored.__getitem__).read(1)
