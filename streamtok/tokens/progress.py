"""The progress bars of commands: on a terminal only, so that logs and pipes stay free of them."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


def progress_bar(
    title: str, items: Any = None, *, total: int | None = None, unit: str, shown: bool, scaled: bool = False
) -> tqdm:
    """A bar on standard error where that is a terminal and the bar is to be shown; it passes `items` on.

    `scaled` shows thousands as k, M and G.
    """
    return tqdm(items, title, total, unit=unit, unit_scale=scaled, disable=None if shown else True)
