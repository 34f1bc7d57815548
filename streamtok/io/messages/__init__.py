"""Messages of ROS and Foxglove that hold images, depth images or packets of video."""
