"""What a step asks of the system."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, threading, torch, streamtok

def encode():
    stream = streamtok.load("nano-p", engine="default", threads=1).stream(1, 256, 448)
    group = torch.randint(0, 255, (1, 3, 4, 256, 448), dtype=torch.uint8)
    stream.step(group[:, :, :1].contiguous(), keyframe=[True])
    for number in range(9):
        if number == 4:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        stream.step(group, keyframe=[False])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=encode)  # as in a node; another arena than the main thread's
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_a_step_uses_the_memory_of_the_one_before():
    """A group of `nano-p` took 7,500 page faults and more while its memory went back to the system after each."""
    faults = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True).stdout
    assert int(faults) / 5 < 2500
