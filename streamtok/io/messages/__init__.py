"""Parsing of ROS and Foxglove messages that hold images, depth images or video packets."""
