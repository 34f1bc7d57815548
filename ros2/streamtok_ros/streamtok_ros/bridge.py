"""The bridge node: `ros2 run streamtok_ros bridge --ros-args --params-file bridge.yaml`."""

import array
import contextlib
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import rclpy
import zmq
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from streamtok_ros.frames import FrameNumbers, compressed_image, pack_frame, raw_image
from streamtok_ros.groups import (
    MAX_FRAME,
    Continuity,
    Taken,
    check_group,
    name_topics,
    read_message,
    scale_camera,
    stamps_of,
)

try:
    from streamtok_msgs.msg import TokenGroup
except ImportError:  # the messages are not built: tokens then go out as pictures only
    TokenGroup = None

RELIABLE = 10  # depth of the queues of what is published
FRAMES_WAITING = 8
LOCAL = re.compile(r"ipc://.+|tcp://(localhost|127(\.\d{1,3}){3}|\[::1\]):(\d+|\*)")
STREAM = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Camera:
    """One stream: its camera topics in, its token topics out."""

    def __init__(self, node: "Bridge", name: str, ours: str) -> None:
        self.node, self.name = node, name
        self.numbers, self.continuity = FrameNumbers(), Continuity()
        self.info: dict[str, Any] | None = None
        self.calibration: CameraInfo | None = None
        self.frame = name
        self.counts = {"unreadable": 0, "malformed": 0, "pictures": 0}
        self.told: dict[str, int] = {}
        topic = node.text(f"{name}.topic")
        if topic.endswith("/ffmpeg"):
            from ffmpeg_image_transport_msgs.msg import FFMPEGPacket  # of whoever publishes such a topic

            node.create_subscription(FFMPEGPacket, topic, self.on_packet, qos_profile_sensor_data)
        elif topic.endswith("/compressed"):
            node.create_subscription(CompressedImage, topic, self.on_compressed, qos_profile_sensor_data)
        elif topic:
            node.create_subscription(Image, topic, self.on_image, qos_profile_sensor_data)
        camera_info = node.text(f"{name}.camera_info")
        if camera_info:
            node.create_subscription(CameraInfo, camera_info, self.on_camera_info, qos_profile_sensor_data)
        self.tokens = node.create_publisher(TokenGroup, f"{ours}/tokens", RELIABLE) if TokenGroup else None
        self.grid = node.create_publisher(Image, f"{ours}/grid", RELIABLE)
        self.picture = node.create_publisher(CompressedImage, f"{ours}/image/compressed", RELIABLE)
        self.picture_info = node.create_publisher(CameraInfo, f"{ours}/image/camera_info", RELIABLE)

    # Camera topics to frames.

    def on_image(self, message: Image) -> None:
        def read() -> Any:
            size = (message.height, message.width)
            encoding, data = raw_image(message.encoding, *size, message.step, bool(message.is_bigendian), message.data)
            return encoding, size, data

        self._send(message.header, read)

    def on_compressed(self, message: CompressedImage) -> None:
        known = self.calibration
        size = (known.height, known.width) if known is not None else None
        self._send(message.header, lambda: compressed_image(message.data, message.format, size))

    def on_packet(self, message: Any) -> None:
        size = (message.height, message.width)
        self._send(message.header, lambda: compressed_image(message.data, message.encoding, size))

    def on_camera_info(self, message: CameraInfo) -> None:
        self.calibration = message

    def _send(self, header: Any, read: Callable[[], Any]) -> None:
        self.frame = header.frame_id or self.name
        try:
            picture = read()
        except ValueError as error:
            self.counts["unreadable"] += 1
            self.node.get_logger().warning(f"{self.name}: {error}", throttle_duration_sec=10.0)
            return
        now_ns = self.node.get_clock().now().nanoseconds
        parts = pack_frame(self.name, self.numbers, nanoseconds(header.stamp) or now_ns, now_ns, picture)
        if parts is not None:
            self.node.frames.send_multipart(parts)

    # Tokens and pictures to topics.

    def take_tokens(self, header: dict[str, Any], payload: bytes) -> None:
        """Publish what a group that is whole makes sure of."""
        check_group(header, payload)
        self._publish(self.continuity.take(header, payload))

    def take_info(self, info: dict[str, Any], _: bytes) -> None:
        """Keep what a stream says of itself, and publish the group that it makes sure of."""
        self.info = info
        self._publish(self.continuity.take_info(info))

    def _publish(self, groups: list[Taken]) -> None:
        clock = self.info.get("clock") if self.info else None
        for taken, data, lost, decodable in groups:
            stamps = stamps_of(taken, self.numbers.stamps, clock)
            if self.tokens is not None:
                self.tokens.publish(self._group(taken, data, stamps, lost, decodable))
            if taken["dtype"] == "uint16" and len(taken["grid"]) == 2:
                self.grid.publish(self._grid(taken, data, stamps[-1]))

    def take_picture(self, header: dict[str, Any], payload: bytes) -> None:
        """Publish a decoded picture, and how the camera sees it."""
        message = CompressedImage(format=header["encoding"], data=array.array("B", payload))
        header["frame_ids"], header["capture_ns"] = [header["frame_id"]], [header["capture_ns"]]
        clock = self.info.get("clock") if self.info else None
        [stamp] = stamps_of(header, self.numbers.stamps, clock)
        message.header.stamp, message.header.frame_id = time_of(stamp), self.frame
        self.picture.publish(message)
        self.counts["pictures"] += 1
        if self.calibration is not None and self.info is not None and self.info.get("source_size"):
            self.picture_info.publish(self._calibration(self.info, message.header))

    def _calibration(self, info: dict[str, Any], header: Any) -> CameraInfo:
        known = self.calibration
        k, p = scale_camera(known.k, known.p, info)
        height, width = info["image_size"]
        made = CameraInfo(height=height, width=width, distortion_model=known.distortion_model, d=known.d)
        made.k, made.r, made.p, made.header = k, known.r, p, header
        return made

    def _group(self, header: dict[str, Any], payload: bytes, stamps: list[int], lost: int, decodable: bool) -> Any:
        message = TokenGroup(lost=lost, decodable=decodable, data=array.array("B", payload))
        message.header.stamp, message.header.frame_id = time_of(stamps[-1]), self.frame
        message.stamps = [time_of(stamp) for stamp in stamps]
        for name in ("stream", "session", "epoch", "seq", "keyframe", "tokenizer", "frame_ids", "dropped", "repeated"):
            setattr(message, name, header[name])
        for name in ("grid", "dtype", "levels", "image_size", "encode_ns"):
            setattr(message, name, header[name])
        return message

    def _grid(self, header: dict[str, Any], payload: bytes, stamp: int) -> Image:
        """The grid as a picture of 16 bits, for rqt and Foxglove."""
        height, width = header["grid"]
        message = Image(height=height, width=width, encoding="mono16", step=2 * width)
        message.data = array.array("B", payload)
        message.header.stamp, message.header.frame_id = time_of(stamp), self.frame
        return message

    def status(self) -> DiagnosticStatus:
        """What the camera and its stream have counted, and a warning of what went wrong since it was told last."""
        values = {**self.numbers.counts, **self.continuity.counts, **self.counts}
        wrong = [name for name in ("unreadable", "malformed", "lost") if values[name] > self.told.get(name, 0)]
        self.told = values
        status = DiagnosticStatus(name=f"streamtok: {self.name}", hardware_id=self.frame)
        status.level = DiagnosticStatus.WARN if wrong else DiagnosticStatus.OK
        status.message = ", ".join(f"{name} {values[name]}" for name in wrong) or "ok"
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        return status


class Bridge(Node):
    """All cameras. One thread reads ZeroMQ; ROS's executor calls the rest."""

    def __init__(self) -> None:
        super().__init__("streamtok_bridge")
        self._zmq = zmq.Context()
        self.frames = self._zmq.socket(zmq.PUB)
        self.frames.set(zmq.SNDHWM, FRAMES_WAITING)
        self.frames.set(zmq.LINGER, 0)
        endpoint = self.text("frames_endpoint", "tcp://127.0.0.1:5570")
        if not LOCAL.fullmatch(endpoint) and not self.declare_parameter("insecure", False).value:
            raise ValueError(
                f"frames_endpoint {endpoint} can be reached by others: use loopback or ipc, or insecure: true"
            )
        self.frames.bind(endpoint)
        names = list(self.declare_parameter("streams", ["front"]).value)
        wrong = [name for name in names if not STREAM.fullmatch(name)]
        if wrong:
            raise ValueError(f"streams {wrong}: expected letters, digits, _ and -")
        self.cameras = {name: Camera(self, name, topics) for name, topics in name_topics(names).items()}
        self._sockets = {}
        for kinds, parameter, default in (
            (("tokens", "info"), "tokens_endpoint", "tcp://127.0.0.1:5555"),
            (("frames",), "pictures_endpoint", ""),
        ):
            endpoint = self.text(parameter, default)
            if endpoint:
                self._sockets[self._connect(endpoint, kinds)] = kinds
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)
        self.create_timer(1.0, self._tell)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        if TokenGroup is None:
            self.get_logger().warning("streamtok_msgs is not built: token grids go out as mono16 pictures only")

    def text(self, name: str, default: str = "") -> str:
        """A parameter that is text."""
        return str(self.declare_parameter(name, default).value)

    def close(self) -> None:
        """End the thread and the sockets."""
        self._stop.set()
        self._thread.join()
        self._zmq.destroy(0)

    def _connect(self, endpoint: str, kinds: Any) -> zmq.Socket:
        socket = self._zmq.socket(zmq.SUB)
        socket.set(zmq.RCVHWM, 64)
        socket.set(zmq.MAXMSGSIZE, MAX_FRAME)
        socket.set(zmq.TCP_KEEPALIVE, 1)
        socket.set(zmq.RECONNECT_IVL_MAX, 200)
        for kind in kinds:
            for name in self.cameras:
                socket.subscribe(f"{kind}/{name}")
        socket.connect(endpoint)
        return socket

    def _read(self) -> None:
        poller = zmq.Poller()
        for socket in self._sockets:
            poller.register(socket, zmq.POLLIN)
        while not self._stop.is_set():
            for socket, _ in poller.poll(100):
                self._take(socket.recv_multipart())

    def _take(self, parts: list[bytes]) -> None:
        kind = parts[0].split(b"/")[0].decode(errors="replace")
        try:
            name, header, payload = read_message(parts, kind, list(self.cameras))
            camera = self.cameras[name]
        except KeyError:
            return
        except ValueError as error:
            self.get_logger().warning(f"a message is left out: {error}", throttle_duration_sec=10.0)
            return
        try:
            takers = {"tokens": camera.take_tokens, "frames": camera.take_picture, "info": camera.take_info}
            takers[kind](header, payload)
        except Exception as error:  # whatever a message holds, this thread goes on
            camera.counts["malformed"] += 1
            self.get_logger().warning(f"{name}: a message is left out: {error}", throttle_duration_sec=10.0)

    def _tell(self) -> None:
        message = DiagnosticArray(status=[camera.status() for camera in self.cameras.values()])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def nanoseconds(stamp: Time) -> int:
    """A stamp in ns; 0 for one that was not set."""
    return stamp.sec * 10**9 + stamp.nanosec


def time_of(nanoseconds: int) -> Time:
    """ns as a stamp; ROS's stamps end in 2038 and begin in 1901."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return Time(sec=max(min(seconds, 2**31 - 1), -(2**31)), nanosec=rest)


def main() -> None:
    """Run until told to stop."""
    rclpy.init()
    try:
        bridge = Bridge()
    except (ValueError, ImportError, zmq.ZMQError) as error:
        sys.exit(f"streamtok_ros: {error}")
    with contextlib.suppress(KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        rclpy.spin(bridge)
    bridge.close()


if __name__ == "__main__":
    main()
