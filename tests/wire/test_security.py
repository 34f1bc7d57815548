"""Who may bind, who may read: refusals, ipc permissions and locks, CURVE with an allow list."""

import grp
import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from streamtok.commands import keys
from streamtok.wire import connection
from streamtok.wire.binding import BindError, probe_endpoints
from streamtok.wire.control import ControlClient
from streamtok.wire.endpoint import InsecureBindError, check_bind, control_beside, is_private, reachable
from streamtok.wire.publisher import Publisher
from streamtok.wire.security import AllowList, CurveClient, CurveServer, allow, generate, load_public
from streamtok.wire.subscriber import subscribe
from tests.kit.disk import full_disk
from tests.kit.wire import Served, eventually, make_group, make_info


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://127.0.0.1:5555",
        "tcp://127.8.9.10:*",
        "tcp://localhost:5555",
        "tcp://[::1]:5555",
        "ipc:///tmp/x",
        "inproc://x",
    ],
)
def test_private_addresses_need_no_keys(endpoint):
    check_bind(endpoint, secure=False, insecure=False)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://*:5555",
        "tcp://0.0.0.0:5555",
        "tcp://10.0.0.2:5555",
        "tcp://eth0:5555",
        "tcp://[::]:5555",
        "tcp://127.evil.org:1",
        "tcp://localhost.evil.org:1",
        "ipc://@abstract",
    ],
)
def test_open_addresses_are_refused_without_keys(endpoint):
    with pytest.raises(InsecureBindError, match="streamtok keys generate"):
        Publisher(endpoint)
    check_bind(endpoint, secure=True, insecure=False)
    check_bind(endpoint, secure=False, insecure=True)


def test_an_open_control_address_is_refused_too():
    with pytest.raises(InsecureBindError, match=r"tcp://\*:5556"):
        Publisher("tcp://127.0.0.1:*", "tcp://*:5556")


def test_insecure_is_a_choice():
    with Publisher("tcp://0.0.0.0:*", insecure=True) as publisher:
        assert publisher.endpoint.startswith("tcp://0.0.0.0:")


@pytest.mark.parametrize("endpoint", ["", "tcp://127.0.0.1", "tcp://:5555", "udp://127.0.0.1:1", "pgm://x:1", "front"])
def test_what_is_no_endpoint_says_what_one_looks_like(endpoint):
    with pytest.raises(ValueError, match="expected tcp://HOST:PORT"):
        Publisher(endpoint)


@given(st.text(max_size=40))
def test_any_text_is_private_open_or_an_error(text):
    try:
        private = is_private(text)
    except ValueError:
        return
    assert isinstance(private, bool)
    assert not private or text.startswith(("tcp://127.", "tcp://localhost:", "tcp://[::1]:", "ipc://", "inproc://"))


def test_a_wildcard_control_host_is_reached_where_the_stream_is():
    assert reachable("tcp://0.0.0.0:7", "tcp://rig.local:5") == "tcp://rig.local:7"
    assert reachable("tcp://[::]:7", "tcp://[fe80::1]:5") == "tcp://[fe80::1]:7"
    assert reachable("tcp://10.0.0.2:7", "tcp://rig.local:5") == "tcp://10.0.0.2:7"
    assert reachable("ipc:///tmp/x.control", "ipc:///tmp/x") == "ipc:///tmp/x.control"
    assert control_beside("ipc:///tmp/x") == "ipc:///tmp/x.control"
    assert control_beside("tcp://127.0.0.1:5555") == "tcp://127.0.0.1:*"


def test_an_ipc_socket_is_its_owners_only_and_leaves_nothing(ipc_path):
    before = os.umask(0)
    try:
        publisher = Publisher(f"ipc://{ipc_path}")
        kept = {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in ipc_path.parent.iterdir()}
        publisher.close()
        publisher.close()
    finally:
        assert os.umask(before) == 0
    assert kept == {"s": 0, "s.lock": 0, "s.control": 0, "s.control.lock": 0}
    assert list(ipc_path.parent.iterdir()) == []


def own_group() -> str:
    return grp.getgrgid(os.getegid()).gr_name


def test_an_ipc_socket_may_be_that_of_a_group_too(ipc_path):
    before = os.umask(0)
    try:
        with Publisher(f"ipc://{ipc_path}", ipc_group=own_group()):
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in ipc_path.parent.iterdir()}
            assert {path.stat().st_gid for path in ipc_path.parent.iterdir()} == {os.getegid()}
    finally:
        os.umask(before)
    assert modes == {"s": 0o660, "s.lock": 0o600, "s.control": 0o660, "s.control.lock": 0o600}
    assert list(ipc_path.parent.iterdir()) == []


READER_OF_A_GROUP = """
import os, sys
from streamtok.wire.control import ControlClient
from streamtok.wire.subscriber import subscribe
endpoint, groups = sys.argv[1], [int(group) for group in sys.argv[2:]]
os.setgroups(groups)
os.setgid(65534)
os.setuid(65534)
with subscribe(endpoint) as reader:
    message = reader.get(60 if groups else 4)
    print(message and message.header.seq)
if groups:
    with ControlClient(reader.infos["front"].control) as control:
        print(control.request("info", "front")["stream"])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a reader as another user")
def test_another_user_reads_an_ipc_socket_if_his_group_may(ipc_path):
    group = 54321
    ipc_path.parent.chmod(0o755)
    with Served("front", bind=f"ipc://{ipc_path}", ipc_group=str(group)) as node:
        run = [sys.executable, "-c", READER_OF_A_GROUP, node.endpoint]
        stranger = subprocess.run(run, capture_output=True, text=True, timeout=200)
        assert stranger.stdout == "None\n", stranger.stderr
        assert "this user may not connect to that socket; start the node with an ipc_group" in stranger.stderr
        member = subprocess.Popen([*run, str(group)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        node.wait_subscribers(1)
        node.publish(make_group(0))
        output, errors = member.communicate(timeout=200)
    assert output == "0\nfront\n", errors


@pytest.mark.parametrize(
    ("bind", "control", "group", "text"),
    [
        (
            "ipc://{}",
            None,
            "no-such-group",
            "expected the name or number of a group: make it .`groupadd no-such-group`",
        ),
        ("ipc://{}", None, "4294967295", "expected the name or number of a group"),
        ("tcp://127.0.0.1:*", None, None, r"tcp://127.0.0.1:\* and tcp://127.0.0.1:\* has no file that a group could"),
        ("ipc://*", "", None, r"ipc://\* has no file that a group could be given: bind ipc://PATH"),
        ("ipc://{}", "ipc://*", None, r"but ipc://\* has no file"),
    ],
)
def test_a_group_that_cannot_be_let_in_is_an_error(bind, control, group, text, ipc_path):
    with pytest.raises(ValueError, match=text):
        Publisher(bind.format(ipc_path), control, ipc_group=group or own_group())
    assert list(ipc_path.parent.iterdir()) == []


def test_a_group_of_others_says_who_may_give_a_socket_to_it(ipc_path):
    program = f"""
import os
from streamtok.wire.publisher import Publisher
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
Publisher("ipc://{ipc_path}", ipc_group="54321")
"""
    ipc_path.parent.chmod(0o777)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert "BindError" in done.stderr
    assert f"cannot give {ipc_path} to the group '54321' (ipc_group): Operation not permitted" in done.stderr
    assert "usermod -aG 54321 USER" in done.stderr
    assert list(ipc_path.parent.iterdir()) == []


def test_a_second_bind_of_an_ipc_path_is_refused_and_the_first_goes_on(ipc_path):
    endpoint = f"ipc://{ipc_path}"
    with Served("front", bind=endpoint) as node, subscribe(endpoint, timeout=60) as reader:
        node.wait_subscribers(1)
        with pytest.raises(BindError, match="in use: another process holds"):
            Publisher(endpoint)
        program = f"from streamtok.wire.publisher import Publisher; Publisher({endpoint!r})"
        other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
        assert other.returncode == 1
        assert "in use" in other.stderr
        node.publish(make_group(0))
        assert next(reader).header.seq == 0
    with Publisher(endpoint):
        pass


@pytest.mark.parametrize("removed", [("s", "s.control"), ("s", "s.lock", "s.control", "s.control.lock")])
def test_an_ipc_socket_whose_file_was_removed_is_bound_again(removed, ipc_path, caplog):
    """By somebody, or by a service that cleans folders. Its readers stay connected, and new ones can join."""
    with Served("front", bind=f"ipc://{ipc_path}") as node, subscribe(node.endpoint, timeout=60) as reader:
        node.wait_subscribers(1)
        for name in removed:
            ipc_path.with_name(name).unlink()
        assert eventually(lambda: caplog.text.count("event=bound_again") == 2)
        with subscribe(node.endpoint, timeout=60) as newcomer, ControlClient(f"{node.endpoint}.control") as client:
            node.wait_subscribers(2)
            node.publish(make_group(0))
            assert next(reader).header.seq == next(newcomer).header.seq == 0
            assert client.request("info", "front", timeout=60)["last_seq"] == 0
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in ipc_path.parent.iterdir()}
        assert modes == {"s": 0, "s.lock": 0, "s.control": 0, "s.control.lock": 0}
    assert list(ipc_path.parent.iterdir()) == []


def test_a_node_removes_no_socket_of_another_that_took_its_path(ipc_path):
    """Somebody, or a service that cleans folders, removed the first node's files."""
    first = Publisher(f"ipc://{ipc_path}", control="")  # nothing polls it
    for file in ipc_path.parent.iterdir():
        file.unlink()
    with Served("front", bind=f"ipc://{ipc_path}") as node:
        first.close()
        with subscribe(node.endpoint, timeout=60) as reader:
            node.wait_subscribers(1)
            node.publish(make_group(0))
            assert next(reader).header.seq == 0
    assert list(ipc_path.parent.iterdir()) == []


def test_a_node_whose_path_another_has_taken_says_so_and_takes_it_again_when_it_is_free(ipc_path, caplog):
    with Served("front", bind=f"ipc://{ipc_path}", control="") as node:

        def take(publisher: Publisher) -> Publisher:
            for file in ipc_path.parent.iterdir():
                file.unlink()
            return Publisher(f"ipc://{ipc_path}", control="")

        with node.do(take):
            assert eventually(lambda: "event=unreachable" in caplog.text)
        assert eventually(lambda: "event=bound_again" in caplog.text)
        with subscribe(node.endpoint, timeout=60) as reader:
            node.wait_subscribers(1)
            node.publish(make_group(0))
            assert next(reader).header.seq == 0
    assert caplog.text.count("event=unreachable") == 1


def test_a_probe_leaves_the_socket_of_another_program(ipc_path):
    with zmq.Context() as context, context.socket(zmq.PUB) as other:
        other.bind(f"ipc://{ipc_path}")
        probe_endpoints(f"ipc://{ipc_path}")
        assert list(ipc_path.parent.iterdir()) == [ipc_path]


def test_a_forked_process_removes_no_socket_of_its_parent(ipc_path):
    program = f"""
import os, sys
from streamtok.wire.publisher import Publisher
with Publisher("ipc://{ipc_path}"):
    if (child := os.fork()) == 0:
        sys.exit(0)
    os.waitpid(child, 0)
    print(sorted(os.listdir("{ipc_path.parent}")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    name = ipc_path.name
    assert eval(done.stdout) == [name, f"{name}.control", f"{name}.control.lock", f"{name}.lock"], done.stderr
    assert list(ipc_path.parent.iterdir()) == []


def test_a_crashed_node_leaves_a_path_that_can_be_bound_again(ipc_path):
    program = (
        "import os; from streamtok.wire.publisher import Publisher\n"
        f"publisher = Publisher('ipc://{ipc_path}')\nos.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=200)
    assert ipc_path.exists()
    with Served("front", bind=f"ipc://{ipc_path}") as node, subscribe(node.endpoint, timeout=60) as reader:
        node.wait_subscribers(1)
        node.publish(make_group(0))
        assert next(reader).header.seq == 0
    assert list(ipc_path.parent.iterdir()) == []


def test_refused_readers_do_not_flood_the_log(tmp_path, caplog, monkeypatch):
    generate(tmp_path, "planner")
    allowed = AllowList(tmp_path / "allowed")
    with caplog.at_level(logging.WARNING):
        assert not any(allowed.callback("streamtok", b"%040d" % number) for number in range(500))
        assert caplog.text.count("event=denied tries=1 ") == 1
        monkeypatch.setattr("streamtok.event_log.EVERY_NS", 0)
        assert not allowed.callback("streamtok", b"y" * 40)
        assert f"event=denied tries=500 allow_list={tmp_path / 'allowed'} key=" + "y" * 40 in caplog.text


def test_a_node_that_ends_says_how_often_it_refused(tmp_path, caplog):
    generate(tmp_path)
    (tmp_path / "allowed" / "client.key").unlink()
    with Served("front", curve=CurveServer.load(tmp_path)) as node:
        for tries in (1, 2):
            with subscribe(node.endpoint, curve=CurveClient.load(tmp_path)):
                assert eventually(lambda tries=tries: caplog.text.count("event=refused") == tries)
        assert caplog.text.count("event=denied") == 1
    assert caplog.text.count("event=denied") == 2


def test_a_file_of_the_name_is_left_alone(ipc_path):
    ipc_path.write_text("a recording")
    with pytest.raises(BindError, match="there is a file of that name"):
        Publisher(f"ipc://{ipc_path}")
    assert ipc_path.read_text() == "a recording"
    assert [path.name for path in ipc_path.parent.iterdir()] == [ipc_path.name]


@pytest.mark.parametrize("lock", ["link", "folder"])
def test_a_lock_is_never_a_link_nor_a_folder(lock, ipc_path):
    """In a folder that others may write to, a link could name any file of the node's user."""
    path, other = ipc_path.with_name(ipc_path.name + ".lock"), ipc_path.with_name("of_the_user")
    path.mkdir() if lock == "folder" else path.symlink_to(other)
    with pytest.raises(BindError, match=f"cannot bind ipc://{ipc_path}: no lock at {path} .*choose another path"):
        Publisher(f"ipc://{ipc_path}")
    assert [entry.name for entry in ipc_path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("insecure", [False, True])
def test_a_port_that_libzmq_would_take_for_another_is_refused(insecure):
    with pytest.raises(ValueError, match="up to 65535"):
        Publisher("tcp://127.0.0.1:99999", insecure=insecure)


def test_ipc_paths_that_cannot_work_say_why(tmp_path):
    with pytest.raises(ValueError, match=f"expected 1 to {zmq.IPC_PATH_MAX_LEN}"):
        Publisher("ipc:///tmp/" + "x" * 120)
    with pytest.raises(ValueError, match="does not exist"):
        Publisher("ipc:///tmp/no/such/folder/s")


def test_a_tcp_port_in_use_names_it():
    with Publisher("tcp://127.0.0.1:*") as publisher, pytest.raises(BindError, match="cannot bind tcp://127"):
        Publisher(publisher.endpoint)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.7"])
@pytest.mark.parametrize("port", ["*", "5555"])
def test_an_address_of_no_interface_is_told_as_such(host, port):
    with pytest.raises(BindError, match=rf"cannot bind tcp://{host}:.*; name an address") as caught:
        Publisher(f"tcp://{host}:{port}", insecure=True)
    assert "another node" not in str(caught.value)


@pytest.fixture
def folder(tmp_path) -> Path:
    generate(tmp_path)
    return tmp_path


def got_nothing(node: Served, **options) -> bool:
    """Whether a reader with these options gets nothing of what the node sends, while an allowed one gets it all."""
    with subscribe(node.endpoint, **options) as reader:
        node.publish(*[make_group(number) for number in range(3)])
        return reader.get(0.7) is None and not reader.infos


def test_only_a_key_on_the_list_gets_the_stream(folder, tmp_path_factory):
    stranger = tmp_path_factory.mktemp("stranger")
    generate(stranger)
    (stranger / "server.key").write_bytes((folder / "server.key").read_bytes())
    server, client = CurveServer.load(folder), CurveClient.load(folder)
    with Served("front", curve=server) as node, subscribe(node.endpoint, curve=client, timeout=60) as reader:
        node.wait_subscribers(1)
        assert got_nothing(node)
        assert got_nothing(node, curve=CurveClient.load(stranger))
        assert [next(reader).header.seq for _ in range(6)] == list(range(6))
        assert node.do(lambda publisher: publisher.subscribers()) == 1
        with ControlClient(node.publisher.control_endpoint) as plain, pytest.raises(TimeoutError):
            plain.request("info", timeout=0.5)
        with ControlClient(node.publisher.control_endpoint, client) as allowed:
            assert allowed.request("info", "front")["stream"] == "front"


def test_a_client_that_expects_another_server_gets_nothing_and_is_told(folder, tmp_path_factory, monkeypatch, caplog):
    monkeypatch.setattr(connection, "SILENCE_S", 0.2)
    other = tmp_path_factory.mktemp("other")
    generate(other)
    mistaken = CurveClient.load(folder)
    mistaken = CurveClient(mistaken.public, mistaken.secret, load_public(other / "server.key"))
    with Served("front", curve=CurveServer.load(folder)) as node:
        assert got_nothing(node, curve=mistaken)
    assert "completes no handshake: it is stopped, no node, or of another server.key" in caplog.text
    caplog.clear()
    with socket.create_server(("127.0.0.1", 0)) as left, subscribe(f"tcp://127.0.0.1:{left.getsockname()[1]}"):
        left.accept()[0].close()
        left.close()
        assert eventually(lambda: "event=waiting" in caplog.text)
    assert "no node answers there yet" in caplog.text


@pytest.mark.parametrize(("kind", "name"), [(CurveServer, "server"), (CurveClient, "client")])
def test_a_key_file_with_halves_of_two_pairs_is_refused(folder, tmp_path_factory, kind, name):
    other = tmp_path_factory.mktemp("other")
    generate(other)
    secret = (other / f"{name}.key_secret").read_text().partition("secret-key")[2]
    own = folder / f"{name}.key_secret"
    own.write_text(own.read_text().partition("secret-key")[0] + "secret-key" + secret)
    with pytest.raises(ValueError, match=rf"{name}.key_secret: its public and its secret key are of different pairs"):
        kind.load(folder)


@pytest.mark.parametrize(("kind", "name"), [(CurveServer, "server"), (CurveClient, "client")])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no public key, or is cut off; (make|copy)"),
        ("public-key", "holds no public key, or is cut off; (make|copy)"),
        ('secret-key = "{}"', "holds no public key, or is cut off; (make|copy)"),
        ('public-key = "{}"', "holds no secret key"),
        (f'public-key = "{"~" * 40}"', "its key is not written in z85"),
    ],
)
def test_a_key_file_that_lacks_a_half_is_refused_by_name(folder, kind, name, text, told):
    (folder / f"{name}.key_secret").write_text("curve\n" + text.format(load_public(folder / "server.key").decode()))
    with pytest.raises(ValueError, match=rf"{name}\.key_secret.* {told}"):
        kind.load(folder)


@pytest.mark.parametrize("line", ['secret-key = "{}"', '# secret-key = "{}"', '"secret-key" = "{}"'])
def test_no_secret_is_copied_to_the_allow_list(folder, line):
    key = (folder / "client.key").rename(folder / "spare.key")
    secret = CurveClient.load(folder).secret.decode()
    key.write_text(key.read_text() + f"    {line.format(secret)}\n")
    with pytest.raises(ValueError, match=r"spare\.key holds a secret key; give the public file"):
        allow(key, folder)
    assert [path.name for path in (folder / "allowed").iterdir()] == ["client.key"]


def test_a_cut_file_on_the_allow_list_shuts_no_other_key_out(folder):
    for name, text in (("cut", "curve\n    public-key"), ("blank", f'public-key = "{"~" * 40}"')):
        (folder / "allowed" / f"{name}.key").write_text(text)
    client = CurveClient.load(folder)
    assert AllowList(folder / "allowed").callback("", client.public)


def test_keys_are_let_in_and_shut_out_while_the_node_runs(folder):
    with Served("front", curve=CurveServer.load(folder)) as node:
        generate(folder, "laptop")
        laptop = CurveClient.load(folder, "laptop")
        with subscribe(node.endpoint, curve=laptop, timeout=60) as reader:
            node.wait_subscribers(1)
            node.publish(make_group(0))
            assert next(reader).header.seq == 0
            (folder / "allowed" / "laptop.key").unlink()
            assert eventually(lambda: not reader.connected)  # also the one that was let in
        assert got_nothing(node, curve=laptop)


def test_an_unreadable_list_lets_nobody_in_and_the_node_lives(folder):
    with Served("front", curve=CurveServer.load(folder)) as node:
        for path in (folder / "allowed").iterdir():
            path.write_text("not a key")
        assert got_nothing(node, curve=CurveClient.load(folder))
        (folder / "allowed" / "client.key").write_bytes((folder / "client.key").read_bytes())
        with subscribe(node.endpoint, curve=CurveClient.load(folder)):
            node.wait_subscribers(1)


def test_a_reader_that_is_refused_says_so_and_comes_in_once_it_is_allowed(folder, caplog):
    caplog.set_level(logging.WARNING, "streamtok.wire")
    client = CurveClient.load(folder)
    (folder / "allowed" / "client.key").unlink()
    with Served("front", curve=CurveServer.load(folder)) as node, subscribe(node.endpoint, curve=client) as reader:
        assert eventually(lambda: any("event=refused" in record.message for record in caplog.records))
        assert not reader.connected
        allow(folder / "client.key", folder)
        node.wait_subscribers(1)
        assert eventually(lambda: reader.connected)


def test_join_by_epoch_works_with_keys(folder):
    server, client = CurveServer.load(folder), CurveClient.load(folder)
    with Served("front", curve=server) as node:
        node.publish(*[make_group(number) for number in range(3)])
        with subscribe(node.endpoint, curve=client, join="epoch", timeout=60) as reader:
            assert [next(reader).header.seq for _ in range(3)] == [0, 1, 2]


def test_keys_on_the_command_line(tmp_path, capsys):
    out = tmp_path / "keys"
    assert keys.main(["generate", "--out", str(out)]) == 0
    made = {Path(line).relative_to(out).as_posix() for line in capsys.readouterr().out.split()}
    assert made == {"server.key", "server.key_secret", "client.key", "client.key_secret", "allowed/client.key"}
    secrets = list(out.rglob("*.key_secret"))
    assert [stat.S_IMODE(path.stat().st_mode) for path in secrets] == [0o600, 0o600]

    server = (out / "server.key").read_bytes()
    assert keys.main(["generate", "--out", str(out)]) == 1
    assert "choose another --name" in capsys.readouterr().err
    assert keys.main(["generate", "--out", str(out), "--name", "laptop"]) == 0
    assert (out / "server.key").read_bytes() == server
    assert {path.name for path in (out / "allowed").iterdir()} == {"client.key", "laptop.key"}

    elsewhere = tmp_path / "robot"
    keys.main(["generate", "--out", str(elsewhere), "--name", "robot"])
    assert keys.main(["allow", str(elsewhere / "robot.key"), "--out", str(out)]) == 0
    assert load_public(out / "allowed" / "robot.key") == load_public(elsewhere / "robot.key")
    capsys.readouterr()
    assert keys.main(["allow", str(elsewhere / "robot.key_secret"), "--out", str(out)]) == 1
    assert "holds a secret key" in capsys.readouterr().err
    assert keys.main(["allow", str(tmp_path / "none.key"), "--out", str(out)]) == 1
    with pytest.raises(SystemExit) as wrong:
        keys.main([])
    assert wrong.value.code == 2


def test_a_reader_is_told_that_its_node_left_and_that_another_key_came_back(ipc_path, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(connection, "SILENCE_S", 0.1)
    for name in ("before", "after"):
        generate(tmp_path / name)
    bind = f"ipc://{ipc_path}"
    with subscribe(bind, curve=CurveClient.load(tmp_path / "before")):
        with Served("front", bind=bind, curve=CurveServer.load(tmp_path / "before")) as node:
            node.wait_subscribers(1)
            caplog.clear()
        assert eventually(lambda: "no node answers there yet" in caplog.text)
        with Served("front", bind=bind, curve=CurveServer.load(tmp_path / "after")):
            assert eventually(lambda: "or of another server.key" in caplog.text)


@pytest.mark.parametrize("name", ["server", "../client", "a b", ""])
def test_names_of_keys_stay_in_their_folder(tmp_path, name):
    with pytest.raises(ValueError, match="client name"):
        generate(tmp_path, name)


def test_a_lost_secret_key_of_the_server_is_told_before_readers_are_shut_out(tmp_path):
    generate(tmp_path)
    (tmp_path / "server.key_secret").unlink()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"Restore it from a backup, or remove server\.key"):
        generate(tmp_path, "laptop")
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "server.key").unlink()
    assert tmp_path / "server.key_secret" in generate(tmp_path, "laptop")


def test_a_lost_server_key_is_made_again(tmp_path):
    generate(tmp_path)
    lost, secret = tmp_path / "server.key", (tmp_path / "server.key_secret").read_bytes()
    key = load_public(lost)
    lost.unlink()
    assert lost in generate(tmp_path, "laptop")
    assert load_public(lost) == key
    assert (tmp_path / "server.key_secret").read_bytes() == secret


@pytest.mark.parametrize("room", [0, 320, 350])
def test_keys_are_written_whole_or_not_at_all(tmp_path, room):
    with full_disk(room), pytest.raises(OSError, match=r"\.key"):
        generate(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    generate(tmp_path)
    with full_disk(room), pytest.raises(OSError, match="allowed"):
        allow(tmp_path / "client.key", tmp_path / "other")
    assert not list((tmp_path / "other" / "allowed").iterdir())


def test_two_who_make_the_same_keys_at_once_overwrite_nothing(tmp_path):
    for number in range(20):
        folder = tmp_path / str(number)
        with ThreadPoolExecutor() as pool:
            made = [pool.submit(generate, folder) for _ in range(4)]
        assert sum(future.exception() is None for future in made) == 1
        for name in ("server", "client"):
            pair = [load_public(folder / f"{name}{suffix}") for suffix in (".key", ".key_secret")]
            assert pair[0] == pair[1]
        assert load_public(folder / "allowed" / "client.key") == pair[0]


def test_key_files_that_are_wrong_say_so(folder):
    with pytest.raises(ValueError, match=r"nobody\.key_secret does not exist; copy .* READER\.key_secret, .* nobody"):
        CurveClient.load(folder, "nobody")
    (folder / "server.key").rename(folder / "server.pub")
    with pytest.raises(ValueError, match=r"server\.key does not exist; copy server\.key"):
        CurveClient.load(folder)
    with pytest.raises(ValueError, match=r"node\.key_secret does not exist; make one with `streamtok keys generate`"):
        CurveServer.load(folder, "node")
    generate(folder / "b")
    with pytest.raises(ValueError, match="holds another key"):
        allow(folder / "b" / "client.key", folder)
    (folder / "server.key_secret").write_text('curve\n    public-key = "short"\n')
    with pytest.raises(ValueError, match="expected 40"):
        CurveServer.load(folder)
    shutil.rmtree(folder / "b" / "allowed")
    with pytest.raises(ValueError, match="no allow list"):
        CurveServer.load(folder / "b")


def test_secrets_are_not_shown(folder):
    for loaded in (CurveServer.load(folder), CurveClient.load(folder)):
        assert loaded.secret.decode() not in repr(loaded)


def test_two_nodes_with_keys_in_one_process_do_not_share_their_lists(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    generate(other)
    with Served("front", curve=CurveServer.load(folder)) as one, Served("front", curve=CurveServer.load(other)) as two:
        mixed = CurveClient(*_pair(other), load_public(folder / "server.key"))
        assert got_nothing(one, curve=mixed)
        with subscribe(two.endpoint, curve=CurveClient.load(other)):
            assert eventually(lambda: two.do(lambda publisher: publisher.subscribers()) == 1)


def _pair(folder: Path) -> tuple[bytes, bytes]:
    client = CurveClient.load(folder)
    return client.public, client.secret


def test_info_never_names_a_stream_before_it_is_announced():
    with Publisher("tcp://127.0.0.1:*") as publisher:
        with pytest.raises(ValueError, match="there are none yet"):
            publisher.publish(make_group(0))
        assert publisher.add_stream(make_info()).session == publisher.session
