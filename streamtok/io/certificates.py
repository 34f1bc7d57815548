"""Verification of TLS certificates of cameras and servers (https://, rtsps://).

A certificate is trusted if a certificate authority of this machine signed it: one of Python's list, or of the file
SSL_CERT_FILE. Many cameras use self-signed ones: a URL that ends with `#verify=no` accepts any certificate, which lets
a man in the middle pose as the camera.
"""

import functools
import logging
import os
import socket
import ssl
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from streamtok.io.spec import parse_switch
from streamtok.redaction import without_password

log = logging.getLogger("streamtok.io")

PORTS = {"https": 443, "rtsps": 322}
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")  # of systems
OPTION = "verify"
ADVICE = "SSL_CERT_FILE=FILE.pem trusts who signed it, and #verify=no at the end of the URL accepts any"


def verifies(url: str) -> bool:
    """Whether the certificate of a URL's server is verified; ValueError if `verify` is neither yes nor no."""
    try:
        return all(parse_switch(value) for key, value in parse_qsl(urlsplit(url).fragment) if key == OPTION)
    except ValueError as error:
        raise ValueError(f"source {without_password(url)!r}: option {OPTION}: {error}") from error


def make_context(url: str) -> ssl.SSLContext:
    """The TLS context of Python's clients for a URL."""
    if verifies(url):
        return ssl.create_default_context(cafile=_find_authorities())
    _warn_unverified(url)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def without_option(url: str) -> str:
    """The URL without the options of its fragment, as its server knows it."""
    parts = urlsplit(url)
    return parts._replace(fragment="").geturl() if parts.scheme in PORTS and parts.fragment else url


def tls_options(url: str) -> dict[str, str]:
    """FFmpeg's TLS options for a URL. FileNotFoundError if this machine has no file of certificate authorities."""
    if urlsplit(url).scheme not in PORTS:
        return {}
    if not verifies(url):
        _warn_unverified(url)
        return {}
    authorities = _find_authorities()
    if authorities is None:
        raise FileNotFoundError(f"this machine has no file of authorities to verify a certificate by: {ADVICE}")
    return {"tls_verify": "1", "ca_file": authorities}


def find_tls_fault(url: str, timeout: float) -> str:
    """Why a server's certificate is not trusted, and what to do; empty if it is trusted, or none is needed."""
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
        return f"its certificate is not trusted ({error.verify_message}): {ADVICE}"
    except OSError:
        return ""


@functools.lru_cache(maxsize=64)
def _warn_unverified(url: str) -> None:
    """Warn once of a URL whose certificate is not verified."""
    reason = f"#{OPTION}=no: whoever stands between can pose as the camera"
    log.warning("device=%s event=certificate_not_verified reason=%r", without_password(url), reason)


def _find_authorities() -> str | None:
    """The file of trusted certificate authorities, or None. FileNotFoundError if SSL_CERT_FILE names a missing file."""
    named = os.environ.get("SSL_CERT_FILE")
    if named and not Path(named).is_file():
        raise FileNotFoundError(f"SSL_CERT_FILE is {named!r}: no such file")
    files = [named] if named else [ssl.get_default_verify_paths().openssl_cafile, *BUNDLES]
    return next((file for file in files if Path(file).is_file()), None)
