import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from conjure.runs.telemetry.logs import STDERR, STDOUT, LogTail, LogWriter
from conjure.runs.telemetry.metrics import MetricTail

STREAMS = st.sampled_from([STDOUT, STDERR])
# Without carriage returns: what a progress bar drops is another matter.
PIECES = st.lists(
    st.tuples(STREAMS, st.binary(max_size=60).map(lambda data: data.replace(b"\r", b"")), st.booleans()),
    max_size=30,
)


@given(pieces=PIECES)
@settings(max_examples=150)
def test_entries_put_together_are_what_was_written(pieces):
    with tempfile.TemporaryDirectory() as folder:
        path, now = Path(folder) / "log.jsonl", 0.0
        log = LogWriter(path, clock=lambda: now, timer=lambda: now)
        for stream, data, wait in pieces:
            log.write(stream, data)
            now += 1.0 if wait else 0.01
            log.flush_waiting()
        log.close()
        entries = list(LogTail(path).read())
    for stream in (STDOUT, STDERR):
        written = b"".join(data for name, data, _ in pieces if name == stream)
        assert b"".join(entry.content for entry in entries if entry.stream == stream) == written


LINES = st.lists(
    st.one_of(
        st.integers(0, 9).map(lambda step: b'{"name": "a", "step": %d, "value": 1.0, "time": 0}\n' % step),
        st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"") + b"\n"),
    ),
    max_size=12,
)


@given(lines=LINES, cuts=st.lists(st.integers(0, 600), max_size=8))
@settings(max_examples=150)
def test_any_split_of_a_file_gives_the_same_points(lines, cuts):
    content = b"".join(lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_bytes(content)
        at_once = list(MetricTail(path).read())
        tail, in_pieces = MetricTail(path), []
        for end in [*sorted(cuts), len(content)]:
            path.write_bytes(content[:end])
            in_pieces += tail.read()
    assert in_pieces == at_once
