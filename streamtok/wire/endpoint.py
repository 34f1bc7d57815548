"""Endpoints, which of them may be bound without keys, and the options that all sockets share."""

import grp
import re
import resource

import zmq

from streamtok.names import parse_endpoint

LINGER_MS = 1000
RECONNECT_MS = 100, 200  # first and longest wait: a reader that reconnects late misses the keyframe it waits for
KEEPALIVE = {  # seconds: idle before the first probe, between probes; and how many
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 5,
    zmq.TCP_KEEPALIVE_INTVL: 2,
    zmq.TCP_KEEPALIVE_CNT: 3,
}
SUBSCRIPTIONS = 64  # receive queue of an XPUB: libzmq processes all that wait in one call, so few may
LOCAL_QUEUE = 100_000  # on ipc: if a queue is full when its peer leaves, libzmq ends the process (see `tcp`)
HANDSHAKE_MS = 5000  # after which a connection that has not completed the handshake is closed
FEWEST_FILES = 256  # of which a node keeps 128 for its own files, and libzmq ends a process that has none left


class InsecureBindError(ValueError):
    """A bind would expose the stream to anyone on the network."""


def is_private(endpoint: str) -> bool:
    """Whether only this machine (tcp, inproc), or this user and ipc_group (ipc), can reach a bound endpoint."""
    try:
        scheme, _, rest = parse_endpoint(endpoint).partition("://")
    except ValueError as error:
        raise ValueError(f"endpoint {endpoint!r}: {error}") from error
    if scheme != "tcp":
        return scheme == "inproc" or not rest.startswith("@")
    host = rest.rpartition(":")[0]
    return host == "localhost" or host == "[::1]" or bool(re.fullmatch(r"127(\.\d{1,3}){3}", host))


def check_bind(endpoint: str, secure: bool, insecure: bool) -> None:
    """Raise InsecureBindError for a public address without keys, unless `insecure` allows it."""
    if not is_private(endpoint) and not secure and not insecure:
        raise InsecureBindError(
            f"refusing to bind {endpoint} without keys: anyone on the network could read the stream. Make keys with "
            "`streamtok keys generate` and pass them (--curve), bind tcp://127.0.0.1:PORT or ipc://PATH, or pass "
            "--insecure (insecure=True) on a network you trust"
        )


def check_endpoints(bind: str, control: str | None, *, secure: bool, insecure: bool, ipc_group: str | None) -> str:
    """Check the endpoints to bind; returns the control endpoint: one beside `bind` if it is None, "" for none.

    Raises InsecureBindError for a public address without keys, ValueError for contradicting options, OSError if this
    process may open too few files to serve readers.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= most < FEWEST_FILES:
        raise OSError(f"only {most} files may be open, expected {FEWEST_FILES} or more: raise the limit (ulimit -n)")
    control = control_beside(bind) if control is None else control
    endpoints = [bind, control] if control else [bind]
    if control == bind and not bind.endswith("*"):
        raise ValueError(f"control is {control!r}, which is what bind is: give it a port or path of its own")
    for endpoint in endpoints:
        check_bind(endpoint, secure, insecure)
    if ipc_group is not None:
        find_group_id(ipc_group)
        ipc = [endpoint for endpoint in endpoints if endpoint.startswith("ipc://")]
        without = [endpoint for endpoint in ipc or endpoints if not has_path(endpoint)]
        if without:
            raise ValueError(
                f"ipc_group is {ipc_group!r}, but {' and '.join(without)} has no file that a group could be given: "
                "bind ipc://PATH, or leave ipc_group out"
            )
    return control


def has_path(endpoint: str) -> bool:
    """Whether an endpoint is an ipc socket with a file: neither a wildcard nor an abstract one."""
    return endpoint.startswith("ipc://") and endpoint[6:7] not in ("*", "@")


def find_group_id(group: str) -> int:
    """The id of a group of this machine, by its name or number; ValueError if there is none."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        if re.fullmatch(r"\d{1,9}", group):  # excludes 2^32 - 1, by which chown leaves the group as it is
            return int(group)
        raise ValueError(
            f"ipc_group is {group!r}, expected the name or number of a group: make it (`groupadd {group}`), or take "
            "one that `getent group` lists"
        ) from error


def open_socket(context: zmq.Context, kind: int, high_water: int, max_part: int) -> zmq.Socket:
    """Open a socket with the options of all: LINGER, keep-alive, high-water marks (messages), part size (bytes).

    No socket uses ZeroMQ heartbeats: their timers let a peer crash this process (libzmq issues 3937, 4364, 4767). TCP
    keep-alive detects a dead host, and an `info` each second tells readers that the node lives.
    """
    socket = context.socket(kind)
    socket.linger = LINGER_MS
    for option, value in KEEPALIVE.items():
        socket.set(option, value)
    socket.set(zmq.SNDHWM, high_water)
    socket.set(zmq.RCVHWM, SUBSCRIPTIONS if kind == zmq.XPUB else high_water)
    socket.set(zmq.MAXMSGSIZE, max_part)
    socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.set(zmq.RECONNECT_IVL, RECONNECT_MS[0])
    socket.set(zmq.RECONNECT_IVL_MAX, RECONNECT_MS[1])
    return socket


def control_beside(endpoint: str) -> str:
    """The default control endpoint: any free port of the same host, or PATH.control."""
    if endpoint.startswith("tcp://"):
        return endpoint.rpartition(":")[0] + ":*"
    return endpoint if endpoint == "ipc://*" else endpoint + ".control"


def reachable(control: str, stream_endpoint: str) -> str:
    """The control endpoint for a reader: a wildcard host is replaced by the host that the reader is connected to."""
    host, _, port = control.partition("://")[2].rpartition(":")
    if control.startswith("tcp://") and host in ("0.0.0.0", "*", "[::]") and stream_endpoint.startswith("tcp://"):
        return stream_endpoint.rpartition(":")[0] + ":" + port
    return control


def receive(socket: zmq.Socket, most: int = 3) -> list[memoryview]:
    """Receive one message without waiting, else zmq.Again; of more than `most` parts, the first `most` + 1 are kept."""
    parts = [socket.recv(zmq.NOBLOCK, copy=False).buffer]
    while socket.get(zmq.RCVMORE):
        part = socket.recv(zmq.NOBLOCK, copy=False).buffer
        if len(parts) <= most:
            parts.append(part)
    return parts
