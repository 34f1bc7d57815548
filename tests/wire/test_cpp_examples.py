"""The C++ examples, which know only the protocol page and the exported step, against what Python reads and decodes."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq

from streamtok.wire.message import compute_checksum, pack
from tests.kit.wire import Served, make_group, make_header, make_info

SOURCES = Path(__file__).parents[2] / "examples" / "cpp"
HEADERS = ("zmq.hpp", "zmq_addon.hpp", "nlohmann/json.hpp", "zlib.h", "zstd.h")
PACKAGES = "g++ cppzmq-dev nlohmann-json3-dev zlib1g-dev libzstd-dev"


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    """The reader, compiled as its CMakeLists says; skipped where the compiler or Debian's packages are missing."""
    missing = [name for name in HEADERS if not Path("/usr/include", name).is_file()]
    compiler = shutil.which("g++")
    if compiler is None or missing:
        pytest.skip(f"needs: apt-get install {PACKAGES} ({', '.join(missing)})")
    program = tmp_path_factory.mktemp("cpp") / "reader"
    command = [compiler, "-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", str(SOURCES / "reader.cpp")]
    subprocess.run([*command, "-lzmq", "-lz", "-lzstd", "-o", str(program)], check=True)
    return program


def lines_of(process: subprocess.Popen) -> list[dict]:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def start(*command: object) -> subprocess.Popen:
    return subprocess.Popen(map(str, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_reader_in_cpp_joins_and_follows_every_kind_of_grid(reader):
    """It fetches the epoch, skips what it has, is not fooled by a stream of a longer name, and sees a loss."""
    rng = np.random.default_rng(0)
    kinds = {"uint16": ([4, 6], [8, 8, 8, 5, 5, 5]), "uint32": ([2, 4, 6], [1024, 1024]), "float16": ([16, 4, 6], [])}
    for (dtype, (grid, levels)), compression in zip(kinds.items(), ("zstd", "none", "zstd"), strict=True):
        grids = [(rng.integers(0, 4096, grid) / 16).astype(dtype) for _ in range(6)]
        with Served("front_left", bind="tcp://127.0.0.1:*", compression=compression) as node:
            info = make_info("front", dtype=dtype, grid=grid, levels=levels)
            node.do(lambda publisher, info=info: publisher.add_stream(info))
            node.publish(*(make_group(number, tokens=tokens) for number, tokens in enumerate(grids[:3])))
            client = start(reader, node.endpoint, "front", 6)
            node.wait_subscribers(1)
            node.publish(make_group(0, "front_left"))
            node.publish(*(make_group(3 + number, tokens=tokens) for number, tokens in enumerate(grids[3:])))
            *lines, counts = lines_of(client)
        assert [line["seq"] for line in lines] == list(range(6))
        assert all(line["decodable"] for line in lines)
        assert counts == {"messages": 6, "lost": 0, "malformed": 0}
        for line, tokens in zip(lines, grids, strict=True):
            if dtype == "float16":
                assert line["latent"] == tokens.view(np.uint16).ravel().tolist()
            else:
                assert line["tokens"] == tokens.ravel().tolist()


@pytest.mark.slow
@pytest.mark.parametrize("both", range(4))
def test_a_reader_in_cpp_skips_what_came_with_the_epoch_and_reads_on_through_losses(reader, both):
    """So many messages come live and with the epoch; then every second is lost, and the last has an info behind it."""
    grid = np.zeros((4, 6), "<u2").tobytes()
    headers = [
        msgspec.structs.replace(make_header(seq, interval=6), checksum=compute_checksum(grid)) for seq in range(17)
    ]
    messages = [[bytes(part) for part in pack(header, grid)] for header in headers]
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket, context.socket(zmq.ROUTER) as control:
        port, beside = (each.bind_to_random_port("tcp://127.0.0.1") for each in (socket, control))
        client = start(reader, f"tcp://127.0.0.1:{port}", "front")
        assert [socket.recv() for _ in range(2)]
        facts = {"version": 1, "stream": "front", "session": headers[0].session, "control": f"tcp://127.0.0.1:{beside}"}

        def tell(last_seq: int, ended: bool) -> None:
            info = facts | {"last_seq": last_seq, "ended": ended}
            socket.send_multipart([b"info/front", msgspec.msgpack.encode(info), b""])

        tell(3, ended=False)
        asker, asked = control.recv_multipart()
        for message in messages[4 : 4 + both]:
            socket.send_multipart(message)
        reply = {"version": 1, "id": msgspec.msgpack.decode(asked)["id"], "ok": True}
        wrong = [bytes(part) for part in pack(msgspec.structs.replace(headers[4], seq=2**62), grid)]
        reply["result"] = {"messages": [*messages[: 4 + both], wrong]}
        control.send_multipart([asker, msgspec.msgpack.encode(reply)])
        for message in messages[4 + both : 9] + messages[10::2]:
            socket.send_multipart(message)
        tell(16, ended=True)
        *lines, counts = lines_of(client)
    assert [(line["seq"], line["lost"]) for line in lines] == [
        *((n, 0) for n in range(9)),
        *((n, 1) for n in (10, 12, 14, 16)),
    ]
    assert [line["seq"] for line in lines if line["decodable"]] == [*range(9), 12]
    assert counts == {"messages": 13, "lost": 4, "malformed": 0}


@pytest.mark.slow
def test_a_reader_in_cpp_survives_nonsense_and_names_what_it_cannot_read(reader):
    """What breaks the protocol is counted, in every field; coded payloads end it with what to do."""
    grid = np.zeros((4, 6), "<u2").tobytes()
    header = msgspec.structs.replace(make_header(0), checksum=compute_checksum(grid))
    plain = pack(header, grid)
    fields = msgspec.to_builtins(header)
    names = ("version", "session", "seq", "epoch", "keyframe", "frame_ids", "grid", "dtype", "levels", "checksum")
    broken = [fields | {name: value} for name in names for value in ({}, "x")]
    broken += [fields | {"grid": [4, -6]}, fields | {"checksum": 1}, fields | {"compression": "zstd"}]
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        client = start(reader, f"tcp://127.0.0.1:{port}", "front", 1)
        assert {socket.recv(), socket.recv()} == {b"\x01tokens/front", b"\x01info/front"}
        info = msgspec.to_builtins(make_info("front", grid=[4, 6])) | {"control": None}
        for fault in ({"ended": "x"}, {"version": []}, {}):
            socket.send_multipart([b"info/front", msgspec.msgpack.encode(info | fault), b""])
        for each in [*map(msgspec.msgpack.encode, broken), b"\x91" * 60_000 + b"\x90"]:
            socket.send_multipart([b"tokens/front", each, grid])
        socket.send_multipart(plain)
        line, counts = lines_of(client)
        assert line["tokens"] == [0] * 24
        assert counts["malformed"] == len(broken) + 3
        client = start(reader, f"tcp://127.0.0.1:{port}", "front", 1)
        assert [socket.recv() for _ in range(4)]
        socket.send_multipart([b"info/front", msgspec.msgpack.encode(info), b""])
        socket.send_multipart([b"tokens/front", msgspec.msgpack.encode(fields | {"compression": "coded"}), grid])
        _, told = client.communicate(timeout=200)
        assert client.returncode == 1
        assert "coded" in told
        assert "--compression none or zstd" in told


@pytest.mark.slow
def test_a_decoder_in_cpp_shows_the_pictures_that_python_shows(tmp_path):
    """ONNXRUNTIME_ROOT names a release of ONNX Runtime with include/ and lib/."""
    root = os.environ.get("ONNXRUNTIME_ROOT")
    if not root or shutil.which("cmake") is None:
        pytest.skip("needs cmake, and ONNXRUNTIME_ROOT: a folder with include/ and lib/ of ONNX Runtime's release")
    pytest.importorskip("onnxscript", reason="exporting needs: pip install onnx onnxscript")
    from streamtok.commands.ingest import make_node
    from streamtok.exporting.formats import export_step
    from streamtok.exporting.step import ExportedStep
    from streamtok.model.decoding import GridDecoder
    from tests.kit.models import VIDEO, build
    from tests.kit.nodes import RunningNode, read_all, rig

    build_folder = tmp_path / "build"
    subprocess.run(["cmake", "-S", SOURCES, "-B", build_folder, f"-DONNXRUNTIME_ROOT={root}"], check=True)
    subprocess.run(["cmake", "--build", build_folder], check=True)
    tokenizer, step, out = build(VIDEO), tmp_path / "step.onnx", tmp_path / "out.rgb"
    export_step(ExportedStep(tokenizer, "decode", (48, 64)), step, "onnx")
    settings = rig("tcp://127.0.0.1:*", ["synthetic:48x64@30?seed=1&frames=30"], wait_subscribers=2)
    with RunningNode(make_node(settings, tokenizer)) as running:
        while running.node.unready():
            pass
        endpoint = running.node.publisher.endpoint
        client = start(build_folder / "decoder", endpoint, "a", step, out)
        messages = read_all(endpoint)
        [told] = lines_of(client)
    decoder, expected = GridDecoder(tokenizer), []
    for message in messages:
        expected += list(decoder.step(message.tokens, message.header.keyframe)[: len(message.header.frame_ids)])
    found = np.frombuffer(out.read_bytes(), np.uint8).reshape(-1, 48, 64, 3)
    assert told == {"pictures": len(expected), "lost": 0}
    assert np.abs(found.astype(int) - np.stack(expected)).max() <= 1
