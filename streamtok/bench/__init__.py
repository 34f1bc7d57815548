"""The measurements and reports of `streamtok bench`, `doctor` and `soak`.

`tools/gpu_check.py` uses this package on bare machines, so ZeroMQ and PyAV are imported only where they are used.
"""
