"""Certificates of cameras and servers that speak TLS are verified by every client, unless the URL says otherwise."""

import contextlib

import pytest

from streamtok.io.images.stills import encode_jpeg
from streamtok.io.source import open_source
from tests.kit.rtsp import Camera, to_rtp
from tests.kit.videos import PLAIN, noisy, write_video
from tests.kit.web import Server, make_certificate, part_of

COUNT = 10
ANOTHER = "192.0.2.1"  # of documentation: nobody has it


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Files of a key and its certificate, by the address that they are for."""
    return {address: make_certificate(tmp_path_factory.mktemp("tls"), address) for address in ("127.0.0.1", ANOTHER)}


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    """What a server has: a video and a picture."""
    path = write_video(tmp_path_factory.mktemp("video") / "a.mp4", noisy(COUNT), range(0, COUNT * 512, 512), **PLAIN)
    return {"mp4": (path.read_bytes(), "video/mp4"), "jpg": (encode_jpeg(noisy(1)[0]), "image/jpeg")}


@contextlib.contextmanager
def serve(kind, certificate, bodies):
    """The URL of a camera, a video or a picture, on a server with a certificate."""
    if kind == "rtsps":
        with Camera(to_rtp(noisy(COUNT), **PLAIN), certificate=certificate) as camera:
            yield camera.url()
        return
    data, words = bodies[kind]
    with Server(lambda path, headers: part_of(data, headers, words), certificate=certificate) as web:
        yield f"{web.base}/a.{kind}"


def count_frames(url):
    with open_source(url, max_frames=3) as source:
        return len(list(source))


KINDS = pytest.mark.parametrize(("kind", "more"), [("mp4", ""), ("jpg", "&fps=50"), ("rtsps", "")])


@KINDS
def test_a_certificate_that_nobody_trusts_is_refused_with_what_to_do(certificates, bodies, kind, more, caplog):
    with serve(kind, certificates["127.0.0.1"], bodies) as url:
        with pytest.raises(OSError, match=r"certificate is not trusted .*self-signed.*: SSL_CERT_FILE=.*#verify=no"):
            count_frames(url)
        assert "not_verified" not in caplog.text
        assert count_frames(f"{url}#verify=no{more}") == 3
        assert caplog.text.count("event=certificate_not_verified") == 1
        with pytest.raises(ValueError, match=r"option verify.*expected yes or no"):
            count_frames(f"{url}#verify=maybe")


@KINDS
def test_one_that_is_trusted_is_for_its_address_alone(certificates, bodies, kind, more, monkeypatch):
    for address, certificate in certificates.items():
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with serve(kind, certificate, bodies) as url:
            if address != ANOTHER:
                assert count_frames(f"{url}#verify=yes{more}") == 3
                continue
            with pytest.raises(OSError, match=r"certificate is not trusted .*mismatch"):
                count_frames(url)


@pytest.mark.parametrize("kind", ["mp4", "jpg"])
def test_an_empty_name_of_authorities_trusts_nobody_else(certificates, bodies, monkeypatch, kind):
    """As a compose file gives it by `${SSL_CERT_FILE:-}`."""
    monkeypatch.setenv("SSL_CERT_FILE", "")
    with serve(kind, certificates["127.0.0.1"], bodies) as url, pytest.raises(OSError, match="certificate"):
        count_frames(url)


def test_authorities_that_are_not_there_are_no_reason_to_trust_all(certificates, bodies, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    for kind in ("mp4", "jpg", "rtsps"):
        with serve(kind, certificates["127.0.0.1"], bodies) as url, pytest.raises(OSError, match=r"none\.pem"):
            count_frames(url)
