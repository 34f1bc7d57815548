"""CURVE keys, which decide who may read a stream. Key files are ZeroMQ certificates, one folder of them per role.

A server folder holds `server.key_secret` and `allowed/`, one `.key` file per client; a client folder holds
`NAME.key_secret` and `server.key`. `streamtok keys generate` makes both in one folder.
"""

import logging
import re
import shutil
import stat
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from streamtok.event_log import EventLog
from streamtok.names import NAME, name_errors

log = logging.getLogger("streamtok.wire")
DOMAIN = "streamtok"
MAKE = "make one with `streamtok keys generate`"
COPY = "copy server.key and READER.key_secret, the latter as {}, from the node's folder of keys"


@dataclass(frozen=True)
class CurveServer:
    """Keys of a publishing node, and the folder of client keys that it accepts (re-read when it changes)."""

    public: bytes
    secret: bytes = field(repr=False)
    allowed: Path

    @classmethod
    def load(cls, folder: str | Path, name: str = "server") -> "CurveServer":
        """Read `NAME.key_secret` and `allowed/` of a folder; raises ValueError saying which file is missing."""
        public, secret = _load_secret(Path(folder) / f"{name}.key_secret")
        allowed = Path(folder) / "allowed"
        if not allowed.is_dir():
            raise ValueError(
                f"no allow list at {allowed}; make one with `streamtok keys allow CLIENT.key --out {folder}`"
            )
        return cls(public, secret, allowed)

    def apply(self, socket: zmq.Socket) -> None:
        """Make `socket` require keys; without a running authenticator it refuses everyone."""
        socket.curve_publickey, socket.curve_secretkey, socket.curve_server = self.public, self.secret, True
        socket.set_string(zmq.ZAP_DOMAIN, DOMAIN)
        socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)


@dataclass(frozen=True)
class CurveClient:
    """Keys of a reader and the public key of the node it trusts."""

    public: bytes
    secret: bytes = field(repr=False)
    server: bytes

    @classmethod
    def load(cls, folder: str | Path, name: str = "client") -> "CurveClient":
        """Read `NAME.key_secret` and `server.key` of a folder; raises ValueError saying which file is missing."""
        own = Path(folder) / f"{name}.key_secret"
        advice = COPY.format(own.name)
        return cls(*_load_secret(own, advice), load_public(Path(folder) / "server.key", advice))

    def apply(self, socket: zmq.Socket) -> None:
        """Give `socket` the keys, before it connects."""
        socket.curve_publickey, socket.curve_secretkey = self.public, self.secret
        socket.curve_serverkey = self.server


Keys = TypeVar("Keys", CurveServer, CurveClient)


def load_keys(kind: type[Keys], folder: str | Path | None) -> Keys | None:
    """Load the keys that a `curve` setting names, if it names a folder; raises ValueError as `load` does."""
    return kind.load(folder) if folder else None


class Authenticator(ThreadAuthenticator):
    """Checks the clients of a context against the allow list in a folder, until it is stopped."""

    def __init__(self, context: zmq.Context, allowed: Path) -> None:
        super().__init__(context, log=logging.getLogger("streamtok.wire.auth"))
        self.allow_list = AllowList(allowed)
        self.start()
        self.configure_curve_callback(domain=DOMAIN, credentials_provider=self.allow_list)

    def stop(self) -> None:
        super().stop()
        self.allow_list.events.finish()


class AllowList:
    """The client keys in a folder of `.key` files; it is read again when the folder changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: tuple[tuple[str, int], ...] | None = None
        self._keys: set[bytes] = set()
        self.events = EventLog("publish", log, "socket")

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether the z85 `key` of a connecting client is on the list (called by the authenticator)."""
        try:
            allowed = key in self._current()
        except OSError as error:  # an error here would end the authenticator, and with it every handshake
            self._note("allow_list_unreadable", logging.ERROR, error=error)
            allowed = False
        if not allowed:
            self._note("denied", logging.WARNING, key=key.decode("ascii", "replace"))
        return allowed

    def _note(self, event: str, level: int, **facts: object) -> None:
        self.events.add(time.monotonic_ns(), event, {"tries": 1}, level, allow_list=self.folder, **facts)

    def _current(self) -> set[bytes]:
        files = sorted(self.folder.glob("*.key"))
        seen = tuple((path.name, path.stat().st_mtime_ns) for path in files)
        if seen != self._seen:
            self._keys = set(filter(None, map(self._read, files)))
            self._seen = seen
        return self._keys

    def _read(self, path: Path) -> bytes | None:
        try:
            return load_public(path)
        except (ValueError, OSError) as error:
            log.error("event=bad_key_file path=%s error=%s", path, error)
            return None


def generate(folder: str | Path, client: str = "client") -> list[Path]:
    """Make a server and a client key pair in `folder`, and allow the client.

    An existing server pair is kept, so that calling again with another `client` name adds one; a lost server.key
    is made again. Returns the files made. Raises ValueError if the client's keys exist, so that no key in use is
    overwritten, or if server.key is there without its secret key.
    """
    folder = Path(folder)
    if not re.fullmatch(NAME, client) or client == "server":
        raise ValueError(f"client name {client!r}: expected letters, digits, _ or -, and not 'server'")
    if (folder / "server.key").exists() and not (folder / "server.key_secret").exists():
        raise ValueError(
            f"{folder} has server.key but no server.key_secret: it is a reader's folder, or the secret key is lost. "
            "Restore it from a backup, or remove server.key to make a new pair, and give every reader the new one"
        )
    (folder / "allowed").mkdir(parents=True, exist_ok=True)
    made = _make_pair(folder, client)
    if not made:
        raise ValueError(f"{folder / client}.key_secret exists; choose another --name, or remove it first")
    server = _make_pair(folder, "server") or _restore_public(folder / "server.key_secret")
    return [*server, *made, allow(folder / f"{client}.key", folder)]


def allow(public_key: str | Path, folder: str | Path) -> Path:
    """Copy a client's public key file onto the allow list in `folder`; running nodes see it at once."""
    public_key = Path(public_key)
    key = load_public(public_key)
    if b"secret-key" in public_key.read_bytes():  # in any form, also in a comment
        raise ValueError(f"{public_key} holds a secret key; give the public file (.key) instead")
    target = Path(folder) / "allowed" / (public_key.stem + ".key")
    if target.exists() and load_public(target) != key:
        raise ValueError(f"{target} holds another key; rename {public_key.name}, or remove the old one first")
    target.parent.mkdir(parents=True, exist_ok=True)
    with name_errors(target), tempfile.TemporaryDirectory(dir=target.parent) as private:
        return Path(shutil.copyfile(public_key, Path(private) / target.name)).rename(target)


def load_public(path: Path, advice: str = MAKE) -> bytes:
    """The z85 public key in a key file; raises ValueError, with `advice`, if there is no such file or key."""
    return _load(path, advice)[0]


def _load_secret(path: Path, advice: str = MAKE) -> tuple[bytes, bytes]:
    public, secret = _load(path, advice)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning("event=readable_secret path=%s advice='chmod 600'", path)
    if not secret:
        raise ValueError(f"{path} holds no secret key; it must be the .key_secret file")
    if zmq.curve_public(_checked(secret, path)) != public:
        raise ValueError(f"{path}: its public and its secret key are of different pairs; {advice}")
    return public, secret


def _load(path: Path, advice: str) -> tuple[bytes, bytes | None]:
    if not path.is_file():
        raise ValueError(f"key file {path} does not exist; {advice}")
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (ValueError, IndexError) as error:  # IndexError: a line that is cut before its "="
        raise ValueError(f"{path} holds no public key, or is cut off; {advice}") from error
    return _checked(public, path), secret


def _checked(key: bytes, path: Path) -> bytes:
    if len(key) != 40:
        raise ValueError(f"{path}: key of {len(key)} characters, expected 40 (z85)")
    try:
        zmq.curve_public(key)
    except zmq.ZMQError as error:
        raise ValueError(f"{path}: its key is not written in z85") from error
    return key


def _make_pair(folder: Path, name: str) -> list[Path]:
    """Write a key pair, never readable by others; returns no files if there is a secret one, which is kept."""
    with name_errors(folder / f"{name}.key_secret"), tempfile.TemporaryDirectory(dir=folder) as private:
        public, secret = (Path(path) for path in zmq.auth.create_certificates(private, name))
        secret.chmod(0o600)
        try:
            (folder / secret.name).touch(0o600, exist_ok=False)  # claim the name: a rename alone would overwrite
        except FileExistsError:
            return []
        secret = secret.rename(folder / secret.name)
        return [public.rename(folder / public.name), secret]


def _restore_public(secret: Path) -> list[Path]:
    """Write the public key file beside a secret one, which holds both, if there is none; returns what was made."""
    public = secret.with_suffix(".key")
    if public.exists() or not secret.stat().st_size:  # another process has claimed the name, and writes both
        return []
    key, _ = _load_secret(secret)
    public.write_text(f'metadata\ncurve\n    public-key = "{key.decode()}"\n')
    return [public]
