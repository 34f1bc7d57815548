"""gst: pipelines in a process of their own."""

import shutil

import numpy as np
import pytest

from streamtok.io.cameras.gstreamer_device import LAUNCH, GStreamerDevice
from streamtok.io.source import open_source

LIVE = "gst:videotestsrc is-live=true ! video/x-raw,width=50,height=20,framerate=30/1 ! appsink drop=true sync=false"
pytestmark = pytest.mark.skipif(shutil.which(LAUNCH) is None, reason=f"needs {LAUNCH}")


def test_pictures_come_with_the_times_of_the_pipeline_up_to_its_end():
    with open_source(LIVE.replace("is-live", "num-buffers=20 is-live")) as source:
        frames = list(source)
    assert (source.size, source.fps, source.end_reason) == ((20, 50), 30, "the pipeline has ended")
    assert len(frames) + source.counts["dropped"] == 20  # on a busy machine some wait too long
    assert frames[-1].frame_id == 19
    white, yellow, cyan = (frames[0].image[2, column] for column in (3, 10, 18))  # the bars of SMPTE
    assert np.array_equal([white, yellow, cyan], [[255, 255, 255], [255, 255, 0], [0, 255, 255]])
    steps_ms = np.diff([frame.capture_ns for frame in frames]) / np.diff([frame.frame_id for frame in frames]) / 1e6
    assert np.abs(np.median(steps_ms) - 1000 / 30) < 1  # the pipeline's own, whatever this process was busy with


def test_a_pipeline_that_dies_is_started_again_and_ends_with_its_source():
    source = open_source(LIVE)
    with source:
        device = source.device
        assert isinstance(device, GStreamerDevice)
        first = source.read(60)
        device._process.kill()
        ids = [frame.frame_id for frame in (source.read(60) for _ in range(30)) if frame is not None]
        process = device._process
    assert source.counts["reconnects"] == 1
    assert max(np.diff([first.frame_id, *ids])) > 1  # the gap shows
    assert process.poll() is not None


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ("videotestsrc ! nosuchelement ! appsink", 'no element "nosuchelement"'),
        ("filesrc location=/none.mp4 ! decodebin ! appsink", "Resource not found"),
        ("videotestsrc num-buffers=0 ! appsink", "gives no picture"),
    ],
)
def test_what_is_wrong_with_a_pipeline_is_told_in_its_own_words(pipeline, words):
    with pytest.raises(OSError, match=words):
        open_source(f"gst:{pipeline}").open()


def test_a_pipeline_without_appsink_is_refused():
    with pytest.raises(ValueError, match="ends in `! appsink`"):
        open_source("gst:videotestsrc ! fakesink")
