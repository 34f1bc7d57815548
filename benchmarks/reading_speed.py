"""Measures how fast drives are read: processor time to open one, and for each image that is read and decoded.

    python benchmarks/reading_speed.py DRIVE... [--against CHECKOUT] [--rounds 9]

Prints medians, one line for each drive. With `--against`, the code of another checkout reads each drive in turn with
this one's, by the same interpreter, and the ratios (this one's time by the other's) are printed, too.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[1]
WORKER = """
import logging, sys, time
import cv2
try:
    from streamtok.drives.open_drive import open_drive
except ImportError:  # checkouts of before
    from streamtok.drives.drive import open_drive
logging.disable()
cv2.setNumThreads(0)
for line in sys.stdin:
    begun = time.process_time()
    with open_drive(line.strip()) as drive:
        opened, count = time.process_time(), 0
        for frame in drive:
            count += 1
    print(count, opened - begun, time.process_time() - opened, flush=True)
"""


class Reader:
    """A process that reads drives with the code of one checkout."""

    def __init__(self, checkout: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-c", WORKER]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def read(self, drive: Path) -> tuple[float, float]:
        """Read a drive: milliseconds to open it, microseconds for each image."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(drive.resolve(), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline().split()
        if not answer:
            raise SystemExit(f"{drive} could not be read; see the error above")
        count, opening, reading = map(float, answer)
        return 1e3 * opening, 1e6 * reading / max(1, count)


def main() -> None:
    """Measure each drive and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drives", nargs="+", type=Path)
    parser.add_argument("--against", type=Path, help="another checkout of streamtok")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    readers = [Reader(checkout) for checkout in (HERE, args.against) if checkout is not None]
    for drive in args.drives:
        for reader in readers:
            reader.read(drive)  # imports and the disk are not measured
        rounds = [[reader.read(drive) for reader in readers] for _ in range(args.rounds)]
        times = [[median(each[n][what] for each in rounds) for what in (0, 1)] for n in range(len(readers))]
        text = "  against  ".join(f"open {opening:.1f} ms, {image:.1f} us an image" for opening, image in times)
        ratio = f"  ratio of images {times[0][1] / times[1][1]:.3f}" if len(times) > 1 else ""
        print(f"{drive.name:24} {text}{ratio}", flush=True)


if __name__ == "__main__":
    main()
