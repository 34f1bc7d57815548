"""What `python -m tools.gpu_check` checks and measures on a machine with a GPU, from a plain copy of the repository.

What a bare machine with a GPU lacks (ZeroMQ, PyAV), or one without a GPU (Triton), is imported where it is used.
"""
