"""Whose certificates are trusted of cameras and servers that speak TLS (https://, rtsps://).

Those that an authority of this machine has signed: of Python's own list of them, or of the file SSL_CERT_FILE. Cameras
sign their own; a URL that ends with `#verify=no` accepts any, and whoever stands between can pose as the camera.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

log = logging.getLogger("streamtok.io")

PORTS = {"https": 443, "rtsps": 322}
OPTION = "verify"
ADVICE = "SSL_CERT_FILE=FILE.pem trusts who signed it, and #verify=no at the end of the URL accepts any"


def parse_verify(text: str) -> bool:
    """Whether certificates are verified, as an option says it."""
    if text not in ("yes", "no"):
        raise ValueError(f"{OPTION} is {text!r}: expected yes or no")
    return text == "yes"


def verifies(url: str) -> bool:
    """Whether a URL asks for a certificate that is trusted; ValueError where its option is none."""
    return all(parse_verify(value) for key, value in parse_qsl(urlsplit(url).fragment) if key == OPTION)


def make_context(url: str) -> ssl.SSLContext:
    """What Python's clients need for a URL."""
    context = ssl.create_default_context()
    if not verifies(url) or _authorities() is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def without_option(url: str) -> str:
    """A URL as its server knows it."""
    parts = urlsplit(url)
    return parts._replace(fragment="").geturl() if parts.scheme in PORTS and parts.fragment else url


def tls_options(url: str) -> dict[str, str]:
    """What FFmpeg needs for a URL."""
    authorities = _authorities() if urlsplit(url).scheme in PORTS and verifies(url) else None
    return {"tls_verify": "1", "ca_file": authorities} if authorities else {}


def find_fault(url: str, timeout: float) -> str:
    """Why the certificate of a server is not trusted, and what to do; empty if it is, or there is none."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not verifies(url):
        return ""
    try:
        address = parts.hostname or "", parts.port or PORTS[parts.scheme]
        with (
            socket.create_connection(address, timeout) as plain,
            make_context(url).wrap_socket(plain, server_hostname=parts.hostname),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return explain(error)
    except OSError:
        return ""


def explain(error: ssl.SSLCertVerificationError) -> str:
    """What is wrong with a certificate, and what to do."""
    return f"its certificate is not trusted ({error.verify_message}): {ADVICE}"


def _authorities() -> str | None:
    """The file of authorities that are trusted, None where this machine has none; OSError where it is not there."""
    named = os.environ.get("SSL_CERT_FILE")
    if named and not Path(named).is_file():
        raise FileNotFoundError(f"SSL_CERT_FILE is {named!r}: no such file")
    file = ssl.get_default_verify_paths().cafile
    if file is None:
        log.warning(
            "event=certificates_not_verified reason='this machine has no authorities: SSL_CERT_FILE names them'"
        )
    return file
