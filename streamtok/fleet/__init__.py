"""Many recorded drives to token files: parallel, resumable, on one machine or a cluster."""
