"""Reads the bridge's other topics by rclpy: ros_reader.py SECONDS prints what came as one JSON object."""

import json
import sys
import time
import zlib

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CompressedImage

found = {"groups": [], "pictures": 0, "diagnostics": {}}


def on_group(message) -> None:
    facts = {"crc": zlib.crc32(bytes(message.data)), "seq": message.seq, "lost": message.lost}
    found["groups"].append(facts | {"grid": list(message.grid), "stamps": len(message.stamps)})


def on_picture(message: CompressedImage) -> None:
    found["pictures"] += bytes(message.data[:3]) == b"\xff\xd8\xff"


def on_diagnostics(message: DiagnosticArray) -> None:
    found["diagnostics"] = {each.key: each.value for each in message.status[0].values}


rclpy.init()
node = rclpy.create_node("reader")
try:
    from streamtok_msgs.msg import TokenGroup

    node.create_subscription(TokenGroup, "streamtok/front/tokens", on_group, 50)
except ImportError:
    found["groups"] = None
node.create_subscription(CompressedImage, "streamtok/front/image/compressed", on_picture, 10)
node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
until = time.time() + float(sys.argv[1])
while time.time() < until:
    rclpy.spin_once(node, timeout_sec=0.1)
print(json.dumps(found))
