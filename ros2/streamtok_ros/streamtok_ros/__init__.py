"""Camera topics to streamtok, and its token streams to topics. Runs in ROS's own Python (3.10 and later)."""
