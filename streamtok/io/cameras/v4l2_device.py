"""A camera in /dev (V4L2, USB), read by OpenCV."""

import logging
import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from streamtok.io.cameras.camera import Device, Grabbed
from streamtok.io.images.stills import DamagedFrame, decode_image_file

log = logging.getLogger("streamtok.io")

NEWEST_DRIVER_AGE_NS = 5_000_000_000  # a driver's time is trusted if it is not in the future and not older than this
MOST_DAMAGED = 30  # in a row
SAME_RATE = 0.002  # 29.97 is 30 per second


class V4L2Device(Device):
    """The camera at a path in /dev.

    `size` (height, width), `fps` and `format` (four letters, such as MJPG or YUYV) are requested. After `connect`,
    `size` and `fps` are what it really delivers. OpenCV converts images to RGB.
    """

    kind, clock = "V4L2 camera", "the driver's monotonic time where it gives one, else arrival"

    def __init__(
        self, target: str, *, size: tuple[int, int] | None = None, fps: float | None = None, format: str | None = None
    ) -> None:
        if format is not None and len(format) != 4:
            raise ValueError(f"camera format {format!r}: expected four letters such as MJPG or YUYV")
        self.name = self.target = target
        self.size, self.fps = size, fps
        self._requested = size, fps, format
        self._capture: Any = None
        self._driver_time, self._driver_proven = True, False
        self._damaged = 0  # since the last image
        self._sends_jpeg = False

    def connect(self) -> None:
        """Open the device; raises OSError that says what is missing."""
        self.release()
        self._check_path()
        self._capture = cv2.VideoCapture(self.target, cv2.CAP_V4L2)
        self._request_format()
        if not self._capture.isOpened():
            self.release()
            advice = "is another program using it, and is it a capture device?"
            raise OSError(f"camera {self.target} cannot be opened: {advice}")
        height, width = (round(self._capture.get(p)) for p in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.size = (height, width) if height > 0 and width > 0 else None
        self.fps = rate if 0 < rate <= 1000 else None
        for asked, given in zip(self._requested, (self.size, self.fps), strict=False):
            if asked is not None and (given is None or not np.allclose(asked, given, atol=0, rtol=SAME_RATE)):
                log.warning("device=%s event=not_as_asked asked=%s given=%s", self.target, asked, given)

    def grab(self) -> Grabbed | None:
        """The next image, uint8 RGB (H, W, 3), with the driver's time or else its arrival; None if the device is lost.

        Images that cannot be decoded (Motion JPEG over a bad cable) are dropped and counted; 30 in a row are a loss.
        """
        for _ in range(MOST_DAMAGED):
            if not self._capture.grab():
                return None
            arrival_ns = time.monotonic_ns()
            driver_ns = self._driver_ns(arrival_ns)
            fetched, image = self._capture.retrieve()
            rgb = self._to_rgb(image) if fetched and image is not None and image.size else None
            if rgb is not None:
                damaged, self._damaged = self._damaged, 0
                return Grabbed(rgb, driver_ns or arrival_ns, damaged=damaged, timed=driver_ns is not None)
            self._damaged += 1
        return None

    def release(self) -> None:
        """Close the device."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _driver_ns(self, arrival_ns: int) -> int | None:
        """The driver's monotonic time of the image (OpenCV gives it in ms for V4L2); None if it has none."""
        if not self._driver_time:
            return None
        driver_ns = round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
        if driver_ns > 0 and (self._driver_proven or 0 <= arrival_ns - driver_ns < NEWEST_DRIVER_AGE_NS):
            self._driver_proven = True  # later an older time is fine: the image waited while this process was suspended
            return min(driver_ns, arrival_ns)
        if not self._driver_proven:
            self._driver_time = False
            log.info("device=%s event=no_driver_time used=arrival", self.target)
        return None

    def _request_format(self) -> None:
        size, fps, pixel_format = self._requested
        if pixel_format is not None:
            self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*pixel_format))
        if size is not None:
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[1])
        if fps is not None:
            self._capture.set(cv2.CAP_PROP_FPS, fps)
        self._sends_jpeg = self._capture.get(cv2.CAP_PROP_FOURCC) == cv2.VideoWriter.fourcc(*"MJPG")
        if self._sends_jpeg:
            self._capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)  # gives the JPEG itself, so that one that is cut off shows

    def _to_rgb(self, image: np.ndarray) -> np.ndarray | None:
        """An image of OpenCV as RGB (H, W, 3): BGR, or a row of the bytes of a JPEG; None if that is damaged."""
        if self._sends_jpeg and image.shape[0] == 1:
            try:
                return decode_image_file(image.tobytes())[0]
            except DamagedFrame:
                return None
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _check_path(self) -> None:
        if not Path(self.target).exists():
            there = sorted(str(path) for path in Path("/dev").glob("video*"))
            raise FileNotFoundError(f"camera {self.target}: no such device; there are {', '.join(there) or 'none'}")
        if not os.access(self.target, os.R_OK | os.W_OK):
            raise PermissionError(f"camera {self.target}: not allowed; add the user to the group `video`")
