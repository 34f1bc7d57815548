"""Processes that run on a robot, one per file."""
