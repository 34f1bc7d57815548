from glob import glob

from setuptools import setup

NAME = "streamtok_ros"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", glob("launch/*.py")),
        (f"share/{NAME}/config", glob("config/*.yaml")),
    ],
    install_requires=["setuptools", "pyzmq", "msgpack"],
    license="Apache-2.0",
    entry_points={"console_scripts": [f"bridge = {NAME}.bridge:main"]},
)
