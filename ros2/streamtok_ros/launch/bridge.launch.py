"""ros2 launch streamtok_ros bridge.launch.py params:=my_bridge.yaml"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare


def generate_launch_description():
    default = PathJoinSubstitution([FindPackageShare("streamtok_ros"), "config", "bridge.yaml"])
    return LaunchDescription(
        [
            DeclareLaunchArgument("params", default_value=default),
            DeclareLaunchArgument("use_sim_time", default_value="false"),
            Node(
                package="streamtok_ros",
                executable="bridge",
                name="streamtok_bridge",
                parameters=[LaunchConfiguration("params"), {"use_sim_time": LaunchConfiguration("use_sim_time")}],
                output="screen",
            ),
        ]
    )
