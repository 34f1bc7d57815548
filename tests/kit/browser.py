"""A real browser without a window, for tests of pages; a test that needs one is skipped where there is none."""

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.kit.wire import eventually

ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-background-networking", "--disable-component-update"]
ARGUMENTS += ["--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,800"]


class Browser:
    """One page in headless Chromium."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.open = driver.get
        self.run = driver.execute_script

    def text(self, selector: str) -> str:
        """The text of the first element of a CSS selector, empty if there is none."""
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def wait_for(self, selector: str, condition: Callable[[str], object], seconds: float = 60.0) -> str:
        """The text of an element once it is as wanted; AssertionError says what it was instead."""
        found = eventually(lambda: condition(self.text(selector)) and (self.text(selector),), seconds)
        assert found, f"{selector} is {self.text(selector)!r}"
        return str(found[0])

    def screenshot(self) -> np.ndarray:
        """What the page looks like, uint8 RGB (H, W, 3)."""
        import av

        with av.open(io.BytesIO(self._driver.get_screenshot_as_png())) as picture:
            return next(picture.decode(video=0)).to_ndarray(format="rgb24")

    def shown(self, selector: str) -> np.ndarray:
        """The part of a screenshot where an element is, uint8 RGB (h, w, 3)."""
        box = self.run(
            "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'center'});"
            "const b = e.getBoundingClientRect(); return [b.top, b.left, b.bottom, b.right]",
            selector,
        )
        top, left, bottom, right = (round(edge) for edge in box)
        return self.screenshot()[top:bottom, left:right]

    def errors(self) -> list[str]:
        """What the console complains of."""
        return [entry["message"] for entry in self._driver.get_log("browser") if entry["level"] == "SEVERE"]


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium; skips the test where it or selenium is missing."""
    selenium = pytest.importorskip("selenium.webdriver", reason="a browser test needs: pip install selenium")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("a browser test needs: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = selenium.Chrome(service=service.Service(driver), options=options)
    try:
        yield Browser(running)
    finally:
        running.quit()
