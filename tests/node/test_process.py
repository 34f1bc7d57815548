"""How a process ends and what it may open, and what it does when it was suspended."""

import itertools
import os
import signal
import subprocess
import sys
import time

import pytest

from streamtok.wire.subscriber import subscribe


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)


LET_GO = """
import resource, threading
from streamtok.wire.subscriber import subscribe
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
kept = []
for number in range(60):
    reader = subscribe("tcp://127.0.0.1:9")
    {what}
print(threading.active_count(), flush=True)
"""


@pytest.mark.parametrize(("what", "threads"), [("pass", 2 + 3), ("kept[:] = [*kept, reader][-9:]", 10 + 3)])
def test_readers_that_are_let_go_or_left_open_end_with_the_program(what, threads):
    """Three that were let go may still be ending."""
    done = run(LET_GO.format(what=what))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= threads


SIGNALLED = """
import signal, threading
from streamtok.wire.subscriber import subscribe

handled, ended = 0, threading.Event()

def on_alarm(number, frame):
    global handled
    subscribe("tcp://127.0.0.1:9")
    handled += 1
    signal.setitimer(signal.ITIMER_REAL, 0.001)

def make_readers():
    while not ended.is_set():
        subscribe("tcp://127.0.0.1:9")

signal.signal(signal.SIGALRM, on_alarm)
others = [threading.Thread(target=make_readers) for _ in range(2)]
for other in others:
    other.start()
signal.setitimer(signal.ITIMER_REAL, 0.001)
while handled < 100:
    subscribe("tcp://127.0.0.1:9")
signal.setitimer(signal.ITIMER_REAL, 0)
ended.set()
for other in others:
    other.join()
print(handled >= 100)
"""


def test_a_signal_handler_makes_readers_in_the_midst_of_others_being_made():
    done = run(SIGNALLED)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


EXIT = """
import atexit, signal, threading, time
atexit.register(lambda: print(sum(thread.name.startswith("subscribe") for thread in threading.enumerate())))
from streamtok.wire.subscriber import subscribe

def fail(number, frame):
    raise OSError("closing failed")

signal.signal(signal.SIGALRM, fail)
{what}
"""


@pytest.mark.parametrize(
    ("what", "most"),
    [
        (
            "readers = [subscribe('tcp://127.0.0.1:9') for _ in range(5)]\n"
            "atexit.register(signal.setitimer, signal.ITIMER_REAL, 0.005)",
            1,
        ),
        ("threading.setprofile(lambda *event: time.sleep(0.02))\nreader = subscribe('tcp://127.0.0.1:9')", 0),
    ],
    ids=["one fails", "its thread begins late"],
)
def test_what_was_never_closed_is_closed_at_exit(what, most):
    """The closing of a reader that fails keeps no other from it."""
    done = run(EXIT.format(what=what))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= most, done.stderr


BUSY = """
import threading, time
from streamtok.node.process import end_process
threading.Thread(target=time.sleep, args=[600], daemon=True).start()
print("last words")
raise SystemExit(end_process(3))
"""


def test_a_process_with_a_daemon_thread_ends_at_once_with_its_status_and_its_words():
    done = run(BUSY)
    assert (done.returncode, done.stdout) == (3, "last words\n")


ENDING = """
import atexit, os, signal
from streamtok.node.process import end_process
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
print("last words")
raise SystemExit(end_process(0))
"""


def test_a_signal_to_a_process_that_is_ending_does_not_change_its_status():
    done = run(ENDING)
    assert (done.returncode, done.stdout) == (0, "last words\n")


LIMIT = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, {limit})
from streamtok.node.process import stop_on_signals
with stop_on_signals(lambda: None):
    print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("limit", "raised"), [((256, 4096), "(4096, 4096)"), ((100, 128), "(128, 128)")])
def test_a_command_may_open_as_many_files_as_it_is_allowed_to(limit, raised):
    done = run(LIMIT.format(limit=limit))
    assert done.stdout == f"{raised}\n"


def test_a_node_that_may_not_open_as_many_files_as_its_readers_take_says_so():
    command = f"ulimit -n 128; exec {sys.executable} -m streamtok.cli subscribe tcp://127.0.0.1:1 --forward ipc://*"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=200)
    told = "streamtok subscribe: only 128 files may be open, expected 256 or more: raise the limit (ulimit -n)\n"
    assert (done.returncode, done.stderr) == (1, told)


BOMB = """
import struct, zlib
from streamtok.node.process import share_cores
share_cores()
from streamtok.io.images.stills import DamagedFrame, decode_still

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

side = 9000
head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
rows = zlib.compress(bytes(side * (1 + side // 8)), 9)
bomb = bytes([137, 80, 78, 71, 13, 10, 26, 10]) + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
try:
    print(decode_still(bomb).shape)
except DamagedFrame as error:
    print(len(bomb), "refused")
"""


def test_a_picture_of_more_pixels_than_cameras_have_is_refused():
    done = run(BOMB)
    nbytes, told = done.stdout.split()
    assert (int(nbytes) < 20_000, told) == (True, "refused")


SUSPENDED = """
import os, signal, sys
from streamtok.cli import main
from streamtok.ingest.batch import Batch
step, steps = Batch.step, []
def step_and_stop(batch, lanes):
    result = step(batch, lanes)
    steps.append(lanes)
    if len(steps) == 6:
        print(*lanes[0].frame_ids, flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    return result
Batch.step = step_and_stop
sys.exit(main())
"""


def test_a_group_in_whose_step_the_process_was_suspended_is_left_out(endpoint):
    """Live, that is: the next message starts an epoch, and tells of the frames."""
    camera = ["--source", "synthetic:32x48@20?seed=3", "--realtime", "--policy", "latest", "--threads", "1"]
    arguments = ["ingest", *camera, "--keyframe-interval", "0", "--bind", endpoint, "--wait-subscribers", "1"]
    with subscribe(endpoint, timeout=60) as reader:
        node = subprocess.Popen([sys.executable, "-c", SUSPENDED, *arguments], stdout=subprocess.PIPE)
        try:
            assert os.WIFSTOPPED(os.waitpid(node.pid, os.WUNTRACED)[1])
            time.sleep(3)
            suspended = [int(number) for number in node.stdout.readline().split()]
            node.send_signal(signal.SIGCONT)
            headers = [next(reader).header for _ in range(8)]
            node.terminate()
            assert node.wait(60) == 0
        finally:
            node.kill()
            node.communicate()
    assert [header.seq for header in headers] == list(range(8))
    assert headers[0].keyframe
    for before, header in itertools.pairwise(headers):  # a busy machine may stand still by itself, too
        assert header.keyframe == (header.dropped > 0)
        assert header.dropped == header.frame_ids[0] - before.frame_ids[-1] - 1
    left_out = [
        number
        for before, header in itertools.pairwise(headers)
        for number in range(before.frame_ids[-1] + 1, header.frame_ids[0])
    ]
    assert len(suspended) == 4
    assert set(suspended) <= set(left_out)
