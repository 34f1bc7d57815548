"""What `streamtok bench` and `python -m tools.gpu_check` measure, and their reports.

What a bare machine with a GPU lacks (ZeroMQ, PyAV), or one without a GPU (Triton), is imported where it is used.
"""
