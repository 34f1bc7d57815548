"""Both packages build in a workspace, by ROS's own tools: colcon, ament and the generators of messages.

On Debian: apt install colcon python3-colcon-ros python3-colcon-cmake python3-colcon-package-selection
python3-colcon-recursive-crawl python3-colcon-package-information python3-colcon-library-path python3-colcon-metadata
python3-colcon-python-setup-py ament-cmake ament-cmake-python rosidl-core g++
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROS2 = Path(__file__).parents[2] / "ros2"
TOOLS = Path("/usr/share/rosidl_generator_cpp"), Path("/usr/share/ament_cmake"), Path("/usr/bin/colcon")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not all(map(Path.exists, TOOLS)), reason="needs colcon, ament-cmake and rosidl-core"),
]
PACKAGE = """<?xml version="1.0"?>
<package format="3"><name>{name}</name><version>0.0.0</version><description>stand-in</description>
<maintainer email="streamtok@example.com">streamtok</maintainer><license>Apache-2.0</license>
<buildtool_depend>ament_cmake</buildtool_depend>{depends}<export><build_type>ament_cmake</build_type></export></package>
"""
MESSAGES = """cmake_minimum_required(VERSION 3.8)
project({name})
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
{find}
rosidl_generate_interfaces(${{PROJECT_NAME}} "msg/{message}.msg" {dependencies})
ament_package()
"""
TOOLCHAIN = """cmake_minimum_required(VERSION 3.8)
project({name} NONE)
find_package(ament_cmake REQUIRED)
ament_export_dependencies({exported})
ament_package()
"""
BUILT_BY = (
    "<build_depend>rosidl_default_generators</build_depend><member_of_group>rosidl_interface_packages</member_of_group>"
)
READER = """
#include <streamtok_msgs/msg/token_group.hpp>
int main() {
  streamtok_msgs::msg::TokenGroup group;
  group.stream = "front";
  group.grid = {32, 56};
  group.image_size = {256, 448};
  return group.grid.size() == 2 && group.header.stamp.sec == 0 ? 0 : 1;
}
"""


def write_package(folder: Path, name: str, lists: str, depends: str = "", **messages: str) -> None:
    (folder / name / "msg").mkdir(parents=True)
    (folder / name / "package.xml").write_text(PACKAGE.format(name=name, depends=depends))
    (folder / name / "CMakeLists.txt").write_text(lists)
    for message, fields in messages.items():
        (folder / name / "msg" / f"{message}.msg").write_text(fields)


def stand_in_for_ros(folder: Path) -> None:
    """What a distribution of ROS has beside its tools: two packages of messages, and the names of the generators."""
    generators = "rosidl_cmake rosidl_generator_c rosidl_generator_cpp"
    for name, exported in (("rosidl_default_generators", generators), ("rosidl_default_runtime", "")):
        write_package(folder, name, TOOLCHAIN.format(name=name, exported=exported))
    facts = {"name": "builtin_interfaces", "message": "Time", "find": "", "dependencies": ""}
    write_package(folder, facts["name"], MESSAGES.format(**facts), BUILT_BY, Time="int32 sec\nuint32 nanosec\n")
    facts = {"name": "std_msgs", "message": "Header", "find": "find_package(builtin_interfaces REQUIRED)"}
    lists = MESSAGES.format(**facts, dependencies="DEPENDENCIES builtin_interfaces")
    fields = "builtin_interfaces/Time stamp\nstring frame_id\n"
    write_package(folder, "std_msgs", lists, BUILT_BY + "<depend>builtin_interfaces</depend>", Header=fields)


def test_both_packages_build_in_a_workspace_and_cpp_takes_the_message(tmp_path):
    shutil.copytree(ROS2, tmp_path / "src")
    stand_in_for_ros(tmp_path / "ros")
    system = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    system["PATH"] = "/usr/bin:/bin"
    command = ["colcon", "build", "--base-paths", "src", "ros", "--cmake-args", "-DPython3_EXECUTABLE=/usr/bin/python3"]
    built = subprocess.run(command, cwd=tmp_path, env=system, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    installed = tmp_path / "install"
    for name in ("launch/bridge.launch.py", "config/bridge.yaml", "package.xml"):
        assert (installed / "streamtok_ros/share/streamtok_ros" / name).is_file()
    assert (installed / "streamtok_ros/lib/streamtok_ros/bridge").is_file()
    (tmp_path / "reader.cpp").write_text(READER)
    runtime = [Path("/usr/include") / f"rosidl_runtime_{language}" for language in ("c", "cpp")]
    includes = [f"-I{path}" for path in [*installed.glob("*/include/*"), *runtime]]
    compiled = ["g++", "-std=c++17", *includes, "reader.cpp", "-o", "reader"]
    done = subprocess.run(compiled, cwd=tmp_path, env=system, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([tmp_path / "reader"], check=False).returncode == 0
