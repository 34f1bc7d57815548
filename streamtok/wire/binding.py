"""Binds sockets: ipc paths are locked, and open to their owner only; errors say what to do."""

import contextlib
import errno
import fcntl
import logging
import os
import socket as net
import struct
from pathlib import Path

import zmq

from streamtok.wire.endpoint import LOCAL_QUEUE, find_group_id, has_path
from streamtok.wire.tcp import shield_listener

WHAT_TO_DO = {
    errno.EADDRINUSE: "is another node running there?",
    errno.ENODEV: "name an address or a network interface of this machine (`ip address` lists them), or * for all",
    errno.EADDRNOTAVAIL: "name an address of this machine (`ip address` lists them), or * for all",
    errno.EACCES: "take a port of 1024 or more",
}
HOSTS = {"*": "0.0.0.0", "localhost": "127.0.0.1"}
BACKLOG = 100  # connections that wait to be accepted, as libzmq has it
SIOCGIFADDR = 0x8915  # Linux
log = logging.getLogger("streamtok.wire")


class BindError(OSError):
    """An address cannot be bound; the message has the reason."""


class Binding:
    """Binds one socket; holds the lock of an ipc path while bound, and removes path and lock in `release`.

    Only its owner may connect to an ipc path, and `group` (a name or number) if given. Raises BindError or ValueError.
    """

    def __init__(self, socket: zmq.Socket, endpoint: str, group: str | None = None) -> None:
        self._socket, self._asked, self._group = socket, endpoint, group
        self._lock: PathLock | None = None
        self._bind()
        self.endpoint: str = socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0") or endpoint

    def restore(self) -> None:
        """Bind again if somebody removed the ipc path: readers stay connected, but others find nothing to connect to.

        To be called in the socket's thread. If another process holds the path by now, that is logged, once.
        """
        if not has_path(self._asked) or (self._lock and self._lock.is_ours() and os.path.exists(self._lock.path)):
            return
        was_lost = self._lock is None
        self.release()
        with contextlib.suppress(zmq.ZMQError):  # it was unbound before
            self._socket.unbind(self._asked)
        try:
            self._bind()
        except (BindError, ValueError) as error:
            if not was_lost:
                log.error("event=unreachable reason=%r", str(error))
        else:
            log.warning("event=bound_again endpoint=%s reason='its file was removed'", self._asked)

    def release(self) -> None:
        """Remove the binding's files; call it after the context was terminated."""
        if self._lock is not None:
            if self._lock.is_ours():
                self._lock.path.unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def _bind(self) -> None:
        """Bind to a socket of our making: one of libzmq's listens before it can be shielded, or closed to others."""
        if self._asked.startswith("ipc://"):
            self._socket.set(zmq.RCVHWM, LOCAL_QUEUE)
        try:
            if has_path(self._asked):
                self._lock = PathLock(self._asked)
                self._listen(_open_path(self._lock.path, self._group))
            elif self._asked.startswith("tcp://"):
                self._listen(_open_port(self._asked))
            else:
                self._socket.bind(self._asked)
        except BindError:
            self.release()
            raise
        except (zmq.ZMQError, OSError) as error:
            self.release()
            raise make_bind_error(self._asked, error.errno or 0) from error

    def _listen(self, opened: net.socket) -> None:
        with opened:
            opened.setblocking(False)
            opened.listen(BACKLOG)
            self._socket.set(zmq.USE_FD, opened.fileno())
            self._socket.bind(self._asked)
            opened.detach()  # libzmq closes it


class PathLock:
    """Holds an ipc path by a lock file beside it, since a second bind would silently take it over.

    The kernel frees the lock when its process dies, so a crash leaves nothing to clean up. Raises BindError if another
    process holds it, or if the path is that of a file.
    """

    def __init__(self, endpoint: str) -> None:
        self.path = _ipc_path(endpoint)
        self._file, self._owner = self.path.with_name(self.path.name + ".lock"), os.getpid()
        if self.path.exists() and not self.path.is_socket():
            raise BindError(errno.EEXIST, f"cannot bind {endpoint}: there is a file of that name; choose another")
        while True:
            try:  # not through a link, which others can make in a shared folder
                self._fd = os.open(self._file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                reason = f"cannot bind {endpoint}: no lock at {self._file} ({error.strerror}); choose another path"
                raise BindError(error.errno, reason) from error
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._fd)
                raise BindError(error.errno, f"{endpoint} is in use: another process holds {self._file}") from error
            if self.is_ours():
                return
            os.close(self._fd)

    def is_ours(self) -> bool:
        """Whether the lock file still is the one that this process, not its parent, has locked."""
        try:
            return self._owner == os.getpid() and os.path.samestat(os.fstat(self._fd), os.stat(self._file))
        except OSError:
            return False

    def release(self) -> None:
        """Remove the lock file, unless it is another's by now, then unlock."""
        if self.is_ours():
            self._file.unlink(missing_ok=True)
        os.close(self._fd)


def probe_endpoints(*endpoints: str) -> None:
    """Raise BindError for an endpoint that another process holds, before a model is loaded in vain.

    Nobody can connect during the probe.
    """
    for endpoint in filter(None, endpoints):
        if has_path(endpoint):
            PathLock(endpoint).release()
        elif endpoint.startswith("tcp://"):
            try:
                _open_port(endpoint).close()
            except OSError as error:
                raise make_bind_error(endpoint, error.errno or 0) from error


def make_bind_error(endpoint: str, number: int) -> BindError:
    """The error of a bind that failed with an errno of the system, of getaddrinfo (below 0), or of libzmq."""
    number = number if number >= 0 else errno.ENODEV
    advice = WHAT_TO_DO.get(number)
    return BindError(number, f"cannot bind {endpoint}: {zmq.strerror(number)}" + (f"; {advice}" if advice else ""))


def _ipc_path(endpoint: str) -> Path:
    path = Path(endpoint[6:])
    longest = zmq.IPC_PATH_MAX_LEN
    if not endpoint[6:] or len(os.fsencode(path)) > longest:
        raise ValueError(f"ipc path {str(path)!r} is {len(os.fsencode(path))} bytes long, expected 1 to {longest}")
    if not path.parent.is_dir():
        raise ValueError(f"ipc path {path}: folder {path.parent} does not exist; create it first")
    return path


def _open_port(endpoint: str) -> net.socket:
    """A bound socket that does not listen yet, of tcp://HOST:PORT: an address, an interface's name, or * for all."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    family = net.AF_INET6 if "[" in host else net.AF_INET
    with contextlib.ExitStack() as on_error:
        opened = on_error.enter_context(net.socket(family, net.SOCK_STREAM))
        opened.setsockopt(net.SOL_SOCKET, net.SO_REUSEADDR, 1)  # a port that was just closed is free
        if family == net.AF_INET6:
            opened.setsockopt(net.IPPROTO_IPV6, net.IPV6_V6ONLY, 0)
        shield_listener(opened)
        host = _find_interface(opened, host) or HOSTS.get(host, host.strip("[]"))
        number = int(port) if port.isdecimal() else 0
        opened.bind(net.getaddrinfo(host, number, family, net.SOCK_STREAM, flags=net.AI_NUMERICHOST)[0][4])
        on_error.pop_all()
    return opened


def _find_interface(opened: net.socket, name: str) -> str | None:
    """The IPv4 address of a network interface; None if it has none, or there is no such interface."""
    try:
        return net.inet_ntoa(fcntl.ioctl(opened, SIOCGIFADDR, struct.pack("=256s", os.fsencode(name)))[20:24])
    except OSError:
        return None


def _open_path(path: Path, group: str | None) -> net.socket:
    """A bound socket that does not listen yet, for its owner and `group`; replaces a dead socket at `path`."""
    with contextlib.ExitStack() as on_error:
        opened = on_error.enter_context(net.socket(net.AF_UNIX))
        path.unlink(missing_ok=True)
        opened.bind(os.fspath(path))
        os.chmod(path, 0o600)
        if group is not None:
            _share(path, group)
        on_error.pop_all()
    return opened


def _share(path: Path, group: str) -> None:
    """Let one group connect, by changing the socket file to it."""
    try:
        os.chown(path, -1, find_group_id(group))
        os.chmod(path, 0o660)
    except OSError as error:
        raise BindError(
            error.errno,
            f"cannot give {path} to the group {group!r} (ipc_group): {error.strerror}; the node's user must be a "
            f"member of it: `usermod -aG {group} USER`, or SupplementaryGroups={group} in its systemd unit",
        ) from error
