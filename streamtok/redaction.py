"""Takes secrets and control characters out of text, before it goes to logs, messages and recordings."""

import re

NETWORK_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "srt", "udp")  # whose paths may hold a key
NO_LOGIN = "".join(rf"(?<!\b{scheme}:)" for scheme in ("s3", "gs", "az", "hf", "file", "ipc", "inproc"))
LOGIN = re.compile(  # up to the last @: a password or a token may hold one, and a slash; else a path is hidden
    rf"(?i)((?<=:){NO_LOGIN}//+|(?<![\w./:])//|\b(?:{'|'.join(NETWORK_SCHEMES)}):/?)[^\s/]\S*@"
    rf"|(?<=://)(?:[^\s/:]*:\S*|[^\s/]+)@"  # of any scheme: with a colon, or before a slash
)
HOST = re.compile(  # which begins no password: an address, or a name before its port; then a path
    r"(?i)(\d{1,3}(?:\.\d{1,3}){3}|localhost|\[(?:[\da-f]{0,4}:){2,7}[\da-f.]*\]|(?:[\w-]+\.)+\w+(?=:\d))"
    r"(?::\d{1,5})?[/?#]"
)
SECRET = r"password|passwd|passphrase|api[-_]?key|authorization|cookies?"  # which a colon may follow, too
OPTION_OF_PASSWORD = re.compile(
    rf"(?i)((?<![a-z0-9])(?:(?:{SECRET}|user-pw|pass|pwd|token|secret|auth|signature)\s*=\s*(?:\(string\))?"
    rf"|(?:{SECRET}):\s*))(?:\"[^\"]*\"?|(?:(?:basic|bearer|digest)\s+)?[^\s&'\"]+)"
)
URL = re.compile(r"(zmq:)?\b([A-Za-z][A-Za-z0-9+.-]{0,20})://(\S*?)(?=['\"]?[\]}),:;.!]*(?:\s|$))")
VALUE = re.compile(r"(?<![^&?#;/])([^=&?#;/]*)=[^&?#;/]*")
WORD = r"(?:[A-Z]?[a-z]{1,12}\d{0,3}|\d{1,6}|20\d{6})(?![A-Za-z0-9])"  # of an ordinary name, or a date
KEY_IN_PATH = re.compile(  # group 1; or else such a name, whole. The first keeps the time short that others take
    rf"([\w-]{{100,}})|(?<![\w-])(?!\w{{4}}(?:-\w{{4}}){{3,}}(?![\w-])){WORD}(?:[_-]{WORD})*(?![\w-])"
    r"|((?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{20,}|(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{16,}|\w{4,}(?:-\w{4,}){3,}"
    r"|(?=[a-z]*[A-Z])(?=[A-Z]*[a-z])[A-Za-z]{24,})"
)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
MOST_TEXT = 4000  # characters of what is told at a time: a peer's words may be in it
OUR_OPTIONS = ("stream", "curve", "freeze_after", "size", "fps", "seed", "frames", "format")


def clean_text(text: str) -> str:
    """Text, whoever wrote a part of it, as it may be told: at most MOST_TEXT characters, without secrets, of which none
    moves a cursor or changes a colour; lines stay lines."""
    if len(text) > 2 * MOST_TEXT:  # half a URL would not be known as one
        text = text[: 2 * MOST_TEXT].rpartition(" ")[0] + " ..."
    known = without_password(text)
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), known[:MOST_TEXT])


def without_password(text: str) -> str:
    """Text without secrets, for logs, messages and recordings.

    URLs lose all that may be user and password, every value of their query and what looks like a key in their path or
    fragment. A path with an @ may be the rest of a password that has a slash: of what is before, only a host with a
    port, an address or localhost is told. Other options lose the value of a password.
    """
    return OPTION_OF_PASSWORD.sub(r"\1***", URL.sub(_mask_url, LOGIN.sub(_mask_login, text)))


def _mask_login(match: re.Match[str]) -> str:
    host = HOST.match(match[0].removeprefix(match[1] or ""))
    return (match[1] or "") + (f"{host[1]}/***@" if host else "")


def _mask_url(match: re.Match[str]) -> str:
    ours, scheme, rest = match[1] or "", match[2], match[3]
    place, mark, options = rest.partition("?" if "?" in rest else "#")
    if not ours and scheme.lower() in NETWORK_SCHEMES:
        host, slash, path = place.partition("/")
        place = host + slash + _mask_keys(VALUE.sub(r"\1=***", path))
    if mark == "?":
        kept = OUR_OPTIONS if ours else ()
        parts = options.split("&")
        options = "&".join(part if part.partition("=")[0] in kept else _mask_option(part) for part in parts)
    return f"{ours}{scheme}://{place}{mark}{options if mark == '?' else _mask_keys(options)}"


def _mask_keys(path: str) -> str:
    """A path, or what stands behind #, without what looks like a key."""
    return KEY_IN_PATH.sub(lambda match: "***" if match.lastindex else match[0], path)


def _mask_option(part: str) -> str:
    """A part of a query, "key=value" or only a value, without the value."""
    name, equals, _ = part.partition("=")
    return f"{name}=***" if equals else "***"
