"""What `streamtok bench`, `doctor` and `soak` measure, and their reports.

`tools/gpu_check.py` uses it on bare machines: what these lack (ZeroMQ, PyAV) is imported where it is used.
"""
