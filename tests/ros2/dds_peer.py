"""A camera and a reader of the bridge's topics by Cyclone DDS, which shares no code with the bridge's Fast DDS.

dds_peer.py SECONDS publishes 48x64 images at 20 Hz on /cam/front/image_raw (odd step, every 50th late) and prints a
JSON line for each token grid that comes back: its CRC-32, whether its stamp was sent, its frame, and how old it is.
"""

import json
import os
import sys
import time
import zlib
from dataclasses import dataclass

os.environ["CYCLONEDDS_URI"] = (
    '<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo" multicast="false"/></Interfaces></General>'
    "<Discovery><ParticipantIndex>auto</ParticipantIndex><Peers><Peer address='127.0.0.1'/></Peers></Discovery>"
    # Fast DDS announces type objects that Cyclone calls invalid: without this no data ever comes. 1.15 is eProsima.
    "<Compatibility><IgnoreTypeInformation>1.15</IgnoreTypeInformation></Compatibility></Domain></CycloneDDS>"
)
from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import int32, sequence, uint8, uint32
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration


@dataclass
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    sec: int32
    nanosec: uint32


@dataclass
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    stamp: Time
    frame_id: str


@dataclass
class Image(IdlStruct, typename="sensor_msgs::msg::dds_::Image_"):
    header: Header
    height: uint32
    width: uint32
    encoding: str
    is_bigendian: uint8
    step: uint32
    data: sequence[uint8]


def main() -> None:
    participant = DomainParticipant(int(os.environ["ROS_DOMAIN_ID"]))
    best = Qos(Policy.Reliability.BestEffort, Policy.Durability.Volatile, Policy.History.KeepLast(10))
    reliable = Qos(Policy.Reliability.Reliable(duration(milliseconds=100)), Policy.History.KeepLast(50))
    writer = DataWriter(participant, Topic(participant, "rt/cam/front/image_raw", Image, qos=best), qos=best)
    topic = Topic(participant, "rt/streamtok/front/grid", Image, qos=reliable)
    reader = DataReader(participant, topic, qos=reliable)
    sent, number, until = [], 0, time.time() + float(sys.argv[1])
    while time.time() < until:
        now = time.time_ns() - (10**9 if number % 50 == 49 else 0)
        pixels = [(7 * number + 3 * (i % 192) + i // 192) % 256 for i in range(48 * 195)]
        header = Header(Time(now // 10**9, now % 10**9), "front_optical")
        writer.write(Image(header, 48, 64, "rgb8", 0, 195, pixels))
        sent.append(now)
        number += 1
        due = time.time() + 0.05
        while time.time() < due:
            for grid in reader.take(50):
                stamp = grid.header.stamp.sec * 10**9 + grid.header.stamp.nanosec
                facts = {"crc": zlib.crc32(bytes(grid.data)), "known": stamp in sent, "frame": grid.header.frame_id}
                print(json.dumps(facts | {"age_ns": time.time_ns() - stamp}), flush=True)
            time.sleep(0.002)
    del writer, reader, participant


main()
