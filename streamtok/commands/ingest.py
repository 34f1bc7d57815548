"""Cameras, files or a synthetic drive to a token stream over ZeroMQ.

    streamtok ingest --source 'synthetic:256x448@30?seed=7' --model nano --bind tcp://127.0.0.1:5555
    streamtok ingest --source /dev/video0 --stream front --size 256x448 --bind ipc:///tmp/front.ipc
    streamtok ingest --config configs/rig_six_cameras.yaml --metrics 9464

Read it in another terminal with `streamtok subscribe tcp://127.0.0.1:5555`. Ctrl-C ends it with a summary.
"""

import argparse
import json
import sys
from typing import Any

from streamtok.commands.command import command, new_node_parser
from streamtok.settings.errors import SettingsError


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = new_node_parser("ingest", __doc__)
    add = parser.add_argument
    add(
        "--source",
        action="append",
        metavar="SRC",
        help="a path (in /dev: a camera), a URL, gst:PIPELINE, images:DIR, "
        "zmq:ENDPOINT or synthetic:HxW@FPS?seed=S&frames=N; repeat it for several cameras",
    )
    add("--stream", action="append", metavar="NAME", help="name of each source, in order (default cam0, cam1, ...)")
    add("--model", help="preset name or checkpoint folder (default nano)")
    add("--bind", metavar="ENDPOINT", help="where to publish (default tcp://127.0.0.1:5555)")
    add("--control", metavar="ENDPOINT", help="control socket (default: beside --bind, named in info)")
    add("--size", metavar="HxW", help="resize to this height and width (default: the source's, padded to the grid)")
    add("--fit", choices=["stretch", "crop", "pad"], help="how --size treats another aspect ratio (default stretch)")
    add("--realtime", action=argparse.BooleanOptionalAction, help="play recordings at their own pace (default: no)")
    add("--policy", choices=["latest", "lossless"], help="latest: never behind; lossless: wait (default: by source)")
    add("--on-gap", choices=["reset", "bridge"], help="missing frames: new keyframe, or go on (default reset)")
    add("--keyframe-interval", type=float, metavar="SECONDS", help="of capture time, 0 for never (default 10)")
    add("--wait-subscribers", type=int, metavar="N", help="hold the first frame until N readers have joined")
    add("--max-frames", type=int, metavar="N", help="end each source after N frames")
    add("--tail", choices=["pad", "drop"], help="the last, partial group (default pad)")
    add("--device", help="where the network runs: auto, cpu, cuda or cuda:N (default auto)")
    add(
        "--engine",
        metavar="auto|eager|FILE",
        help="auto: as measured once for this machine (default on a GPU); "
        "eager: PyTorch's layers; FILE: what auto has left (default on a CPU: our own layers in float32)",
    )
    add("--deterministic", action="store_true", help="bit-identical tokens however the frames are cut")
    add("--publish-frames", action="store_true", help="also send the camera images, on frames/<stream>")
    add("--record", metavar="FILE|DIR", help="also write the token stream to an MCAP file, or a new one in a folder")
    add(
        "--record-frames",
        choices=["none", "lossless", "lossy"],
        help="camera images in --record: lossless (default) replays to the same tokens",
    )
    add("--metrics", type=int, metavar="PORT", help="Prometheus on 127.0.0.1:PORT, with /healthz and /readyz")
    add("--curve", metavar="DIR", help="keys of this node, from `streamtok keys generate`")
    add("--insecure", action="store_true", help="allow a network address without keys")
    add("--ipc-group", metavar="GROUP", help="who may connect to ipc sockets besides this user (default: nobody)")
    add("--compression", choices=["none", "zstd"], help="of the tokens that are sent (default none)")
    add("--threads", type=int, metavar="N", help="of PyTorch on a CPU (default: PyTorch's choice); tokens depend on it")
    add("--context", type=int, metavar="STEPS", help="attention window in groups (default: the model's)")
    add("--node", metavar="NAME", help="name of this process in info and status (default ingest)")
    add("--set", action="append", metavar="KEY=VALUE", help="override any key: --set streams.0.fit=crop")
    return parser


def settings_from(given: dict[str, Any]) -> Any:
    """The rig: the configuration file with the flags on top."""
    from streamtok.settings.rig import StreamDefaults, load_rig
    from streamtok.settings.yaml_file import parse_set

    path, changes = given.pop("config", None), parse_set(given.pop("set", []))
    names, sources = given.pop("stream", []), given.pop("source", [])
    if len(names) > len(sources):
        raise SettingsError(f"{len(names)} --stream for {len(sources)} --source: each name belongs to one source")
    if sources:
        names += [f"cam{index}" for index in range(len(names), len(sources))]
        given["streams"] = [{"name": name, "source": source} for name, source in zip(names, sources, strict=True)]
    elif path is None:
        raise SettingsError("nothing to read: give --source SRC or --config FILE (streamtok ingest --help)")
    every_stream = {name: given.pop(name) for name in StreamDefaults.model_fields if name in given}
    return load_rig(path, given | changes, every_stream)


@command("ingest")
def main(argv: list[str] | None = None) -> int:
    """Run the node; 0 when its sources have ended or it was told to stop, 1 if one failed, 2 for wrong use."""
    return run(settings_from(vars(build_parser().parse_args(argv))))


def run(settings: Any) -> int:
    """Start, show and end the node."""
    from streamtok.node.display import LiveDisplay, log_to_stderr
    from streamtok.node.ingest import IngestNode, describe_summary
    from streamtok.node.process import stop_on_signals

    log_to_stderr(log_format=settings.log_format)
    node = IngestNode(settings, on_update=lambda node: display.update())
    title = f"{settings.node}: {settings.model} on {settings.bind}"

    def last_words() -> None:
        print(json.dumps(node.summary()) if settings.as_json else describe_summary(node.summary()), flush=True)

    with stop_on_signals(node.stop, last_words), LiveDisplay(node.metrics, list(node.streams), title) as display:
        summary = node.run()
    print(json.dumps(summary) if settings.as_json else describe_summary(summary))
    for failure in node.failures:
        print(f"streamtok ingest: {failure}", file=sys.stderr)
    return 1 if node.failures else 0


if __name__ == "__main__":
    sys.exit(main())
