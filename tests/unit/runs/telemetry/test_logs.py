import json
import os

import pytest

from conjure.runs.telemetry.logs import (
    NOTE,
    STDERR,
    STDOUT,
    LineAssembler,
    LogEntry,
    LogTail,
    LogWriter,
    last_state,
    lines,
)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.jsonl"


@pytest.fixture
def log(path, clock):
    return LogWriter(path, clock=clock, timer=clock)


def entries(path):
    return list(LogTail(path).read())


def texts(path):
    return [(entry.stream, entry.text) for entry in entries(path)]


def test_lines_are_written_as_they_come(log, path):
    log.write(STDOUT, b"one\ntwo\n")
    log.write(STDERR, b"oh\n")
    assert texts(path) == [(STDOUT, "one\ntwo\n"), (STDERR, "oh\n")]
    assert entries(path)[0].time == 100.0


def test_a_line_is_written_when_its_end_comes(log, path):
    log.write(STDOUT, b"be")
    assert texts(path) == []
    log.write(STDOUT, b"gin\nand")
    assert texts(path) == [(STDOUT, "begin\n")]
    log.close()
    assert texts(path) == [(STDOUT, "begin\n"), (STDOUT, "and")]


def test_a_line_whose_end_is_long_in_coming_is_shown_without_it(log, path, clock):
    log.write(STDOUT, b"Password: ")
    log.flush_waiting()
    assert texts(path) == []
    clock.now += 0.2
    log.flush_waiting()
    assert texts(path) == [(STDOUT, "Password: ")]


def test_a_character_is_never_cut_in_two(log, path, clock):
    log.write(STDOUT, "é".encode()[:1])
    clock.now += 1
    log.flush_waiting()
    assert texts(path) == []
    log.write(STDOUT, "é".encode()[1:])
    clock.now += 1
    log.flush_waiting()
    assert texts(path) == [(STDOUT, "é")]


def test_a_progress_bar_keeps_its_newest_state_only(log, path, clock):
    for percent in range(100):
        log.write(STDERR, f"\r{percent}%".encode())
        clock.now += 0.01
        log.flush_waiting()
    log.write(STDERR, b"\n")
    assert len(entries(path)) < 5
    assert [line.text for line in lines(entries(path))] == ["99%"]


def test_line_ends_of_windows_are_no_progress_bar(log, path):
    log.write(STDOUT, b"a\r\nb\r\nc\r\nd\r\n")
    assert texts(path) == [(STDOUT, "a\r\nb\r\nc\r\nd\r\n")]


def test_bytes_that_are_not_utf8_are_kept_exactly(log, path):
    content = b"caf\xe9 \\x41 'q' \"q\" \xff\x00\n"
    log.write(STDOUT, content)
    (entry,) = entries(path)
    assert entry.text == "caf\ufffd \\x41 'q' \"q\" \ufffd\x00\n"
    assert entry.content == content
    assert json.loads(path.read_text())["escaped"].startswith("caf\\xe9")


def test_a_line_without_end_stays_in_bounded_memory(log, path):
    for _ in range(100):
        log.write(STDOUT, b"x" * 65536)
    pending = sum(len(line) for line in path.read_bytes().splitlines())
    assert pending >= 99 * 65536
    assert max(len(entry.text) for entry in entries(path)) <= 65536
    log.close()
    assert sum(len(entry.text) for entry in entries(path)) == 100 * 65536


def test_the_supervisors_notes_are_a_stream_of_their_own(log, path):
    log.note("resolving tqdm")
    assert texts(path) == [(NOTE, "resolving tqdm\n")]


class Disk:
    """A disk with room for so many bytes."""

    room = 1 << 20

    def write(self, file, data):
        return os.write(file, data[: self.room])


@pytest.fixture
def disk():
    return Disk()


@pytest.fixture
def log_on_disk(path, clock, disk):
    return LogWriter(path, clock=clock, timer=clock, write=disk.write)


def loss(size):
    return NOTE, f"{size} bytes of output were lost: they could not be written (is the disk full?)\n"


def test_a_full_disk_costs_whole_entries_and_says_so(path, disk, log_on_disk):
    log_on_disk.write(STDOUT, b"one\n")
    disk.room = 10
    log_on_disk.write(STDOUT, b"two\n")
    disk.room = Disk.room
    log_on_disk.write(STDOUT, b"three\n")
    assert texts(path) == [(STDOUT, "one\n"), loss(4), (STDOUT, "three\n")]


def test_all_that_was_lost_on_a_full_disk_is_counted_and_nothing_else(path, disk, log_on_disk):
    disk.room = 0
    for _ in range(3):
        log_on_disk.write(STDOUT, b"two\n")
    log_on_disk.note("a note of the supervisor's is no output")
    disk.room = 60
    log_on_disk.write(STDOUT, b"a\n")  # there is room for this one, and not for the note of the loss
    disk.room = Disk.room
    log_on_disk.write(STDOUT, b"three\n")
    assert texts(path) == [(STDOUT, "a\n"), loss(12), (STDOUT, "three\n")]


def test_a_loss_at_the_end_is_told(path, disk, log_on_disk):
    disk.room = 0
    log_on_disk.write(STDOUT, b"two\n")
    disk.room = Disk.room
    log_on_disk.close()
    assert texts(path) == [loss(4)]


def test_a_torn_last_entry_waits_and_a_foreign_line_is_passed_over(path):
    whole = b'{"time": 1, "stream": "stdout", "text": "a\\n"}\n'
    path.write_bytes(whole + b"nonsense\n[]\n" + whole + whole[:20])
    tail = LogTail(path)
    assert [entry.text for entry in tail.read()] == ["a\n", "a\n"]
    with path.open("ab") as file:
        file.write(whole[20:])
    assert [entry.text for entry in tail.read()] == ["a\n"]


def test_pieces_are_put_together_by_stream():
    pieces = [
        LogEntry(1, STDOUT, "a"),
        LogEntry(2, STDERR, "x\n"),
        LogEntry(3, STDOUT, "b\nc\nd"),
        LogEntry(4, STDOUT, ""),
        LogEntry(5, STDOUT, "e"),
    ]
    assert [(line.time, line.stream, line.text) for line in lines(pieces)] == [
        (2, STDERR, "x"),
        (1, STDOUT, "ab"),
        (3, STDOUT, "c"),
        (3, STDOUT, "de"),
    ]


def test_a_line_without_end_is_given_in_pieces():
    assembler = LineAssembler()
    found = [line for _ in range(10) for line in assembler.feed(LogEntry(1, STDOUT, "x" * 50_000))]
    assert len(found) >= 4
    found += assembler.begun()
    assert sum(len(line.text) for line in found) == 500_000


@pytest.mark.parametrize("form", ["\r{}%|####", "{}%|####\r"])
def test_a_progress_bar_of_any_length_is_one_line(form):
    assembler = LineAssembler()
    for percent in range(20_000):
        assert list(assembler.feed(LogEntry(percent, STDERR, form.format(percent)))) == []
    assert [(line.time, line.text) for line in assembler.begun()] == [(0, "19999%|####")]
    assert len(assembler._begun[STDERR].text) < 20
    found = list(assembler.feed(LogEntry(20_000, STDERR, "\rdone\nnext\n")))
    assert [line.text for line in found] == ["done", "next"]


@pytest.mark.parametrize(
    ("line", "state"),
    [("abc", "abc"), ("a\rb", "b"), ("a\rb\r", "b"), ("abc\r", "abc"), ("\r", ""), ("", "")],
)
def test_the_last_state_of_a_line(line, state):
    assert last_state(line) == state
