"""The checks and measurements of `tools/gpu_check.py` on a machine with a GPU, from a plain copy of the repository.

Packages that a bare machine lacks (ZeroMQ, PyAV; Triton without a GPU) are imported only where they are used.
"""
