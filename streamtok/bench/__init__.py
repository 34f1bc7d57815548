"""What `streamtok bench` and `python -m tools.gpu_check` measure, and their reports."""
