"""A web server of this process."""

import contextlib
import http.server
import ssl
import subprocess
import threading


class Server:
    """Answers with what `answer(path, headers)` gives: status, headers and body, in bytes or in parts without end.

    Files keep the connection open. `certificate` is a file of a key and its certificate: then it speaks HTTPS.
    """

    def __init__(self, answer, certificate=None, port=0):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                status, headers, body = answer(self.path, self.headers)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.writelines([body] if isinstance(body, bytes) else body)
                self.close_connection = self.close_connection or "Content-Length" not in headers

            def handle(self):
                with contextlib.suppress(ConnectionError):
                    super().handle()

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if certificate:
            speak_tls(self._server, certificate)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.base = f"http{'s' * bool(certificate)}://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._server.shutdown()
        self._server.server_close()


def part_of(data, headers, kind="video/mp4"):
    """What a server answers that sends a file from any place on."""
    first = int((headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
    span = {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
    return 206, span | {"Content-Length": str(len(data) - first), "Content-Type": kind}, data[first:]


def make_certificate(folder, address="127.0.0.1"):
    """A file of a key and a certificate that it signed itself, which is an authority, too."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=camera"]
    made += ["-addext", f"subjectAltName=IP:{address}", "-keyout", key, "-out", certificate]
    subprocess.run(made, check=True, capture_output=True)
    both = folder / f"{address}.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return both


def speak_tls(server, certificate):
    """Have a server of `socketserver` speak TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
