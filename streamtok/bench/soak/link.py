"""A TCP relay between a reader and a node on this machine that can be cut, frozen and restored."""

import select
import socket
import threading
from contextlib import suppress


class BreakableLink:
    """Relays connections to the port of a node's endpoint while it is up; readers connect to `endpoint`.

    `cut` closes all connections and refuses new ones, like a machine that restarts. `freeze` keeps connections open but
    passes nothing on, like a radio out of reach. `restore` undoes both.
    """

    def __init__(self, endpoint: str) -> None:
        self._port = int(endpoint.rpartition(":")[2])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        self._up, self._closed = threading.Event(), threading.Event()
        self._generation = 0
        self._up.set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """Close every connection, and refuse new ones."""
        self._generation += 1
        self._listener.close()
        self._threads[0].join()

    def freeze(self) -> None:
        """Stop passing data on, with connections left open."""
        self._up.clear()

    def restore(self) -> None:
        """Accept connections and pass data on again."""
        self._up.set()
        if not self._threads[0].is_alive():
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._threads[0] = threading.Thread(target=self._accept)
            self._threads[0].start()

    def __enter__(self) -> "BreakableLink":
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed.set()
        self._up.set()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        self._listener.settimeout(0.01)
        while True:
            try:
                client = self._listener.accept()[0]
                node = socket.create_connection(("127.0.0.1", self._port))
            except TimeoutError:
                continue
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._relay, args=(client, node, self._generation)))
            self._threads[-1].start()

    def _relay(self, client: socket.socket, node: socket.socket, generation: int) -> None:
        others = {client: node, node: client}
        with client, node, suppress(OSError):
            while generation == self._generation and self._pass_on(others):
                self._up.wait()

    def _pass_on(self, others: dict[socket.socket, socket.socket]) -> bool:
        """Pass on what has come to each of two sockets; False once one is closed."""
        for end in select.select([*others], [], [], 0.01)[0]:
            data = end.recv(1 << 16)
            if not data:
                return False
            self._up.wait()
            others[end].sendall(data)
        return True
