"""The log as lines of JSON."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from datetime import datetime, timedelta

import pytest

from streamtok.commands import ingest
from streamtok.node.logs import JsonFormatter, TextFormatter, log_to_stderr
from streamtok.redaction import MOST_TEXT


@pytest.fixture
def written():
    """A logger whose lines of JSON `written()` gives back as objects."""
    out, log = io.StringIO(), logging.getLogger("test_log_format")
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter())
    log.addHandler(handler)
    yield lambda: [json.loads(line, parse_constant=pytest.fail) for line in out.getvalue().splitlines()]
    log.removeHandler(handler)


def test_a_node_logs_lines_of_json(model, endpoint, capsys):
    source = "synthetic:32x48@30?frames=5"
    arguments = ["--source", source, "--stream", "front", "--model", model, "--bind", endpoint, "--metrics", "0"]
    assert ingest.main([*arguments, "--log-format", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    events = {line["event"]: line for line in lines if "event" in line}
    bound = events["bound"]
    assert (bound["endpoint"], bound["control"]) == (endpoint, f"{endpoint}.control")
    assert (bound["level"], bound["logger"]) == ("INFO", "streamtok.ingest")
    assert bound["message"] == f"event=bound endpoint={endpoint} control={endpoint}.control"
    assert datetime.fromisoformat(bound["time"]).utcoffset() == timedelta()
    assert (events["end"]["stream"], events["end"]["reason"]) == ("front", "end of the recording")
    assert events["metrics"]["url"].startswith("http://127.0.0.1:")
    [opened] = [line for line in lines if "state_bytes" in line]
    assert opened["size"] == "32x48"
    assert opened["state_bytes"] > 0


def test_the_log_is_text_unless_json_is_asked_for(model, endpoint, capsys):
    for form, first in (("json", "{"), ("text", "2")):  # a year
        arguments = ["--source", "synthetic:32x48@30?frames=5", "--model", model, "--bind", endpoint]
        assert ingest.main([*arguments, "--set", f"log_format={form}"]) == 0
        lines = capsys.readouterr().err.splitlines()
        assert lines
        assert {line[0] for line in lines} == {first}


@pytest.mark.parametrize(
    ("message", "arguments", "expected"),
    [
        ("stream=%s event=gap lost=%d part=%g", ("a", 3, 0.5), {"stream": "a", "event": "gap", "lost": 3, "part": 0.5}),
        ("reason=%r error=%r", ("no cable", OSError(5, "x")), {"reason": "no cable", "error": "OSError(5, 'x')"}),
        ("event=lost reason='no cable' tries=%d", (2,), {"event": "lost", "reason": "no cable", "tries": 2}),
        ("frame_ids=%s action=reset", ([1, 2],), {"frame_ids": "[1, 2]", "action": "reset"}),
        ("%s of %d: size=%dx%d left=%s", ("a", 2, 32, 48, None), {"size": "32x48", "left": None}),
        ("path=%s: cut off after %g s", ("/a b/c", 0.5), {"path": "/a b/c: cut off after 0.5 s"}),
        ("seconds=%f", (float("nan"),), {"seconds": "nan"}),
        ("done=50% of=100%", (), {"done": "50%", "of": "100%"}),
        ("event=%(event)s", ({"event": "gap"},), {}),
        ("time=%s message=%s", ("now", "none"), {}),
        ("nothing to take apart", (), {}),
    ],
)
def test_what_a_message_says_by_key_becomes_fields(message, arguments, expected, written):
    logging.getLogger("test_log_format").warning(message, *arguments)
    [line] = written()
    for key in ("time", "level", "logger"):
        line.pop(key)
    text = logging.LogRecord("", 0, "", 0, message, arguments, None).getMessage()
    assert line == {"message": text, **expected}


def test_an_exception_stays_in_its_line(written):
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("test_log_format").exception("event=failed op=%s", "stats")
    [line] = written()
    assert (line["level"], line["event"], line["op"]) == ("ERROR", "failed", "stats")
    assert line["exception"].endswith("ValueError: two\nlines")


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_line_of_the_log_holds_the_secret_of_a_url(form, capsys):
    log_to_stderr(log_format=form)
    error = OSError("https://me:SECRET@h/live?sig=SECRET is silent")
    logging.getLogger("streamtok.ingest").warning(
        "stream=%s event=lost url=%s error=%r", "a", "rtsp://h/?SECRET", error
    )
    line = capsys.readouterr().err
    assert "https://h/live?sig=***" in line
    assert "SECRET" not in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_words_of_a_peer_are_one_line_of_bounded_length(form, capsys):
    log_to_stderr(form)
    words = "a\n2026 CRITICAL\x1b[2J http://h/" + "a" * 30_000
    logging.getLogger("streamtok.wire").warning("event=refused error=%s", words)
    logged = capsys.readouterr().err
    assert logged.count("\n") == 1
    assert "\x1b" not in logged
    assert len(logged) < 20_000


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_is_cut_off_shows_no_half_of_a_secret(form, capsys):
    log_to_stderr(form)
    secret = "https://me:" + 20 * "SECRET" + "@h/x"
    logger = logging.getLogger("streamtok.wire")
    for room in range(3900, 4000, 20):
        logger.warning("error=%s", room * "-" + " " + secret)
        try:
            raise OSError(secret + " " + room * "-")
        except OSError:
            logger.exception("event=failed")
    told = capsys.readouterr().err
    assert "https://h/" in told
    assert "SECRET" not in told


def test_a_traceback_hides_secrets_also_where_another_handler_was_first_and_is_told_to_its_end():
    first, second = (logging.StreamHandler(io.StringIO()) for _ in range(2))
    second.setFormatter(TextFormatter())
    logger = logging.getLogger("test_traceback")
    logger.handlers = [first, second]
    try:
        raise OSError("https://me:SECRET@h/x" + " words" * MOST_TEXT + " end")
    except OSError:
        logger.exception("event=failed", stack_info=True)
    line = logger.makeRecord("", logging.ERROR, "", 0, "event=stuck", (), None, sinfo="open('rtsp://me:SECRET@h/x')")
    told = second.stream.getvalue() + second.format(line)
    assert "SECRET" in first.stream.getvalue()
    assert "SECRET" not in told
    assert " words end\n" in told
    assert "open('rtsp://h/x')" in told


def test_a_log_that_nobody_reads_holds_up_nobody_and_says_what_it_lacks(monkeypatch):
    reading, writing = os.pipe()
    with open(reading) as taken, open(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        log_to_stderr()
        for number in range(500):
            logging.getLogger("streamtok.wire").warning("event=refused text=%s number=%d", 1000 * "x", number)
        numbers = []
        while (lost := re.search(r"event=log_lost characters=(\d+)", line := taken.readline())) is None:
            numbers.append(int(line.rpartition("=")[2]))
    assert numbers == list(range(len(numbers)))
    assert 1000 * (500 - len(numbers)) < int(lost[1]) < 1100 * (500 - len(numbers))


LAST = """
import sys
from streamtok.node.logs import log_to_stderr
log_to_stderr()
sys.stderr.write(300_000 * "x")
print("written", flush=True)
raise ValueError("the last word")
"""


FORKS = """
import logging, os, signal, sys, threading
from streamtok.node.logs import log_to_stderr
log_to_stderr()
logger = logging.getLogger("streamtok.node")
def log(): [logger.info("event=busy text=%s", 100 * "x") for _ in range(100_000)]
threading.Thread(target=log, daemon=True).start()
for number in range(20):
    if (child := os.fork()) == 0:
        signal.alarm(10)
        logger.info("event=child number=%d", number)
        sys.exit(0)
    os.waitpid(child, 0)
os._exit(0)
"""


def test_a_forked_process_logs_although_its_parent_was_logging():
    done = subprocess.run([sys.executable, "-c", FORKS], stderr=subprocess.PIPE, text=True)
    assert [int(number) for number in re.findall(r"event=child number=(\d+)\n", done.stderr)] == list(range(20))


def test_a_reader_that_lags_gets_the_last_word():
    """Of a process that ends by an error; its text is longer than all that may wait, and than a pipe takes."""
    command = [sys.executable, "-c", LAST]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        time.sleep(0.3)
        told = process.stderr.read()
    assert told.startswith(300_000 * "x")
    assert told.endswith("ValueError: the last word\n")
