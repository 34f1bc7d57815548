"""The bridge's package is no part of streamtok: it is found where it lies."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "ros2" / "streamtok_ros"))
