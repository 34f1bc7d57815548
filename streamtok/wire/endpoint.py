"""Endpoints and sockets: which addresses need keys, ipc permissions and locks, and the options that sockets share."""

import errno
import fcntl
import grp
import os
import re
import resource
import socket as net
import threading
from pathlib import Path

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
_UMASK = threading.Lock()
WHAT_TO_DO = {  # after a failed bind
    errno.EADDRINUSE: "is another node running there?",
    errno.ENODEV: "name an address or a network interface of this machine (`ip address` lists them), or * for all",
    errno.EADDRNOTAVAIL: "name an address of this machine (`ip address` lists them), or * for all",
    errno.EACCES: "take a port of 1024 or more",
}


class InsecureBindError(ValueError):
    """A bind would expose the stream to anyone on the network."""


class BindError(OSError):
    """An address cannot be bound; the message has the reason."""


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
        without = [endpoint for endpoint in ipc or endpoints if not _has_path(endpoint)]
        if without:
            raise ValueError(
                f"ipc_group is {ipc_group!r}, but {' and '.join(without)} has no file that a group could be given: "
                "bind ipc://PATH, or leave ipc_group out"
            )
    return control


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


def probe_endpoints(*endpoints: str) -> None:
    """Raise BindError for an endpoint that another process holds, before a model is loaded in vain.

    Nobody can connect during the probe. Endpoints that it cannot check (an interface's name, any port) are left to the
    real bind.
    """
    for endpoint in filter(None, endpoints):
        if _has_path(endpoint):
            path = _ipc_path(endpoint)
            PathLock(path.with_name(path.name + ".lock"), endpoint).release()
        elif endpoint.startswith("tcp://") and endpoint.rpartition(":")[2].isdecimal():
            _probe_port(endpoint)


def _probe_port(endpoint: str) -> None:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]").replace("*", "0.0.0.0")
    try:
        family, kind, number, _, address = net.getaddrinfo(host, int(port), type=net.SOCK_STREAM)[0]
    except OSError:
        return
    with net.socket(family, kind, number) as probe:
        probe.setsockopt(net.SOL_SOCKET, net.SO_REUSEADDR, 1)  # as libzmq does: a port that was just closed is free
        try:
            probe.bind(address)
        except OSError as error:
            raise make_bind_error(endpoint, error.errno or 0) from error


def make_bind_error(endpoint: str, number: int) -> BindError:
    """The error of a bind that failed with an errno of the system or libzmq."""
    advice = WHAT_TO_DO.get(number)
    return BindError(number, f"cannot bind {endpoint}: {zmq.strerror(number)}" + (f"; {advice}" if advice else ""))


class Binding:
    """Binds one socket; holds the lock of an ipc path while bound, and removes path and lock in `release`.

    Only its owner may connect to an ipc path, and `group` (a name or number) if given. Raises BindError or ValueError.
    """

    def __init__(self, socket: zmq.Socket, endpoint: str, group: str | None = None) -> None:
        self._path: Path | None = None
        self._lock: PathLock | None = None
        if _has_path(endpoint):
            self._path = _ipc_path(endpoint)
            if self._path.exists() and not self._path.is_socket():  # libzmq would delete the file
                raise BindError(errno.EEXIST, f"cannot bind {endpoint}: there is a file of that name; choose another")
            self._lock = PathLock(self._path.with_name(self._path.name + ".lock"), endpoint)
        try:
            _bind_owner_only(socket, endpoint)
        except zmq.ZMQError as error:
            self.release()
            raise make_bind_error(endpoint, error.errno or 0) from error
        if group is not None and self._path is not None:
            self._share(self._path, group)
        self.endpoint: str = socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0") or endpoint

    def _share(self, path: Path, group: str) -> None:
        """Let one group connect, after changing the socket file to it."""
        try:
            os.chown(path, -1, find_group_id(group))
            os.chmod(path, 0o660)
        except OSError as error:
            self.release()
            raise BindError(
                error.errno,
                f"cannot give {path} to the group {group!r} (ipc_group): {error.strerror}; the node's user must be a "
                f"member of it: `usermod -aG {group} USER`, or SupplementaryGroups={group} in its systemd unit",
            ) from error

    def release(self) -> None:
        """Remove the binding's files; call it after the context was terminated."""
        if self._lock is None or self._path is None:
            return
        if self._lock.is_ours():  # else the path is that of another node, or of the parent process
            self._path.unlink(missing_ok=True)
        self._lock.release()
        self._lock = None


class PathLock:
    """An exclusive lock file of an ipc path, which a second bind would silently take over.

    The kernel frees it when its process dies, so a crash leaves nothing to clean up. Raises BindError if it is held.
    """

    def __init__(self, path: Path, endpoint: str) -> None:
        self.path, self._owner = path, os.getpid()
        while True:
            try:  # not through a link, which others can make in a shared folder
                self._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                reason = f"cannot bind {endpoint}: no lock at {path} ({error.strerror}); choose another path"
                raise BindError(error.errno, reason) from error
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._fd)
                raise BindError(error.errno, f"{endpoint} is in use: another process holds {path}") from error
            if self.is_ours():
                return
            os.close(self._fd)

    def is_ours(self) -> bool:
        """Whether the file at the path still is the one that this process, not its parent, has locked."""
        try:
            return self._owner == os.getpid() and os.path.samestat(os.fstat(self._fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the file, if it is ours, while the lock is held, then unlock."""
        if self.is_ours():
            self.path.unlink(missing_ok=True)
        os.close(self._fd)


def _has_path(endpoint: str) -> bool:
    """Whether an endpoint is an ipc socket with a file: neither a wildcard nor an abstract one."""
    return endpoint.startswith("ipc://") and endpoint[6:7] not in ("*", "@")


def _ipc_path(endpoint: str) -> Path:
    path = Path(endpoint[6:])
    longest = zmq.IPC_PATH_MAX_LEN
    if not endpoint[6:] or len(os.fsencode(path)) > longest:
        raise ValueError(f"ipc path {str(path)!r} is {len(os.fsencode(path))} bytes long, expected 1 to {longest}")
    if not path.parent.is_dir():
        raise ValueError(f"ipc path {path}: folder {path.parent} does not exist; create it first")
    return path


def _bind_owner_only(socket: zmq.Socket, endpoint: str) -> None:
    """Bind; a socket file is created without rights for others, so that there is no moment when they can connect."""
    if not endpoint.startswith("ipc://"):
        socket.set(zmq.IPV6, int("[" in endpoint))
        socket.bind(endpoint)
        return
    socket.set(zmq.RCVHWM, LOCAL_QUEUE)
    with _UMASK:  # the umask is that of the whole process
        before = os.umask(0o177 if endpoint != "ipc://*" else 0o077)
        try:
            socket.bind(endpoint)
        finally:
            os.umask(before)


def receive(socket: zmq.Socket, most: int = 3) -> list[memoryview]:
    """Receive one message without waiting, else zmq.Again; of more than `most` parts, the first `most` + 1 are kept."""
    parts = [socket.recv(zmq.NOBLOCK, copy=False).buffer]
    while socket.get(zmq.RCVMORE):
        part = socket.recv(zmq.NOBLOCK, copy=False).buffer
        if len(parts) <= most:
            parts.append(part)
    return parts
