import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conjure.runs.telemetry import log_window
from conjure.runs.telemetry.log_window import read_after, read_before, search
from conjure.runs.telemetry.logs import LogWriter


def written(path, *texts, stream="stdout"):
    with path.open("a") as file:
        for text in texts:
            entry = {"time": 1.0, "stream": stream, "text": text}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return path


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.jsonl"


def texts(window):
    return [piece.text for piece in window.pieces]


def test_a_pipe_in_the_place_of_a_log_is_not_waited_for(log):
    os.mkfifo(log)
    with pytest.raises(OSError, match="not a regular file"):
        read_before(log)


def test_a_log_that_is_not_there_is_empty(log):
    assert read_before(log).pieces == ()
    assert read_after(log, 0).pieces == ()
    assert search(log, "x").lines == ()


def test_the_end_of_a_log(log):
    written(log, *(f"line {number}\n" for number in range(5000)))
    window = read_before(log, lines=10)
    assert texts(window) == [f"line {number}" for number in range(4990, 5000)]
    assert window.end == window.size == log.stat().st_size


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=40),
    st.integers(1, 7),
    st.integers(20, 90),
)
def test_windows_put_together_are_the_log_in_both_directions(tmp_path_factory, lines, at_once, block):
    log = tmp_path_factory.mktemp("log") / "log.jsonl"
    whole = [line.replace("\n", " ") for line in lines]
    written(log, *(f"{line}\n" for line in whole))
    patch = pytest.MonkeyPatch()
    patch.setattr(log_window, "_BLOCK_BYTES", block)
    forward, place = [], 0
    while (window := read_after(log, place, at_once)).pieces:
        forward += texts(window)
        place = window.end
    backward, place = [], None
    while (window := read_before(log, place, at_once)).pieces:
        backward = texts(window) + backward
        place = window.start
    patch.undo()
    assert forward == backward == whole


def test_pieces_of_a_line_say_that_they_do_not_end(log):
    written(log, "half", " and half\nnext\n")
    pieces = read_before(log).pieces
    assert [(piece.text, piece.ends) for piece in pieces] == [
        ("half", False),
        (" and half", True),
        ("next", True),
    ]


def lines_of(window):
    return [line.text for line in window.lines()]


def test_states_of_a_bar_take_the_place_of_no_lines(log):
    written(log, *(f"line {number}\n" for number in range(20)))
    written(log, *(f"\r{percent}%" for percent in range(50)), stream="stderr")
    assert lines_of(read_before(log, lines=10)) == [*(f"line {number}" for number in range(10, 20)), "49%"]
    assert len(read_before(log, lines=10).pieces) == 11
    written(log, "\r100%\n", stream="stderr")
    written(log, "done\n")
    assert lines_of(read_before(log, lines=4)) == ["line 18", "line 19", "100%", "done"]
    assert lines_of(read_after(log, 0)) == [*(f"line {number}" for number in range(20)), "100%", "done"]


def test_a_bar_that_returns_at_the_end_shows_its_newest_state_too(log):
    written(log, "before ", "10%\r", "20%\r", "\r", "30%\r")
    assert texts(read_before(log)) == ["30%\r"]


def test_a_state_still_says_that_it_overwrites_what_was_read_earlier(log):
    written(log, "\r1%")
    seen = read_after(log, 0)
    written(log, "\r2%", "\r3%")
    assert texts(read_after(log, seen.end)) == ["\r3%"]


def test_what_nothing_overwrites_stays_and_is_one_line(log):
    written(log, "ready", ".", ".", "\r", "\n", "next")
    window = read_before(log)
    assert texts(window) == ["ready", ".", ".", "\r", "", "next"]
    assert lines_of(window) == ["ready..", "next"]


def test_a_line_of_many_pieces_is_read_in_parts(log, monkeypatch):
    monkeypatch.setattr(log_window, "_MOST_UNENDED", 10)
    written(log, *("." for _ in range(100)))
    window = read_before(log)
    assert texts(window) == texts(read_after(log, 0)) == ["."] * 10
    assert 0 < window.start < window.end


def test_an_entry_still_being_written_waits(log):
    written(log, "one\n")
    with log.open("a") as file:
        file.write('{"time": 1.0, "str')
    assert texts(read_before(log)) == ["one"]
    window = read_after(log, 0)
    assert texts(window) == ["one"]
    assert window.end < window.size


def test_an_entry_longer_than_a_block(log, monkeypatch):
    monkeypatch.setattr(log_window, "_BLOCK_BYTES", 64)
    written(log, "first\n", "x" * 1000 + "\n", "last\n")
    assert texts(read_before(log)) == ["first", "x" * 1000, "last"]


def test_a_damaged_entry_costs_itself_only(log):
    written(log, "one\n")
    with log.open("a") as file:
        file.write("rubbish\n")
    written(log, "two\n")
    assert texts(read_before(log)) == ["one", "two"]


class TestSearch:
    def test_newest_first_whatever_the_case(self, log):
        written(log, "An Error\n", "fine\n", "error again\n")
        found = search(log, "ERROR")
        assert texts_of(found) == ["error again", "An Error"]
        assert found.before == 0

    @pytest.mark.parametrize(
        ("line", "text"),
        [("Fehler in Größe ÉTÉ", "été"), ("été", "ÉTÉ"), ("потеря", "ПОТЕРЯ"), ("ΛΟΓΟΣ", "λογος")],
    )
    def test_the_case_of_every_alphabet_is_alike(self, log, line, text):
        written(log, "first\n", f"{line}\n", "last\n")
        assert texts_of(search(log, text)) == [line]

    def test_bytes_that_are_not_utf8_move_nothing(self, log):
        written(log, "one\n")
        with log.open("ab") as file:
            file.write(b'{"time": 1, "stream": "stdout", "text": "\xff\xe2"}\n\xe2\n')
        written(log, "Éins\n", "zwei\n")
        found = search(log, "éINS")
        assert texts_of(found) == ["Éins"]
        assert read_after(log, found.lines[0].at, lines=1).pieces == found.lines

    def test_what_json_writes_in_another_way_is_found(self, log):
        written(log, 'say "hi" \\ there\n')
        assert len(search(log, '"hi" \\').lines) == 1

    def test_words_of_the_file_itself_are_not_found(self, log):
        written(log, "nothing\n")
        assert search(log, "stdout").lines == ()
        assert search(log, "stream").lines == ()

    def test_one_line_of_an_entry_with_many(self, log):
        written(log, "a\nb needle\nc\n")
        assert texts_of(search(log, "needle")) == ["b needle"]

    def test_it_goes_on_from_where_it_stopped(self, log):
        written(log, *(f"hit {number}\n" for number in range(10)))
        first = search(log, "hit", most=4)
        rest = search(log, "hit", first.before)
        assert texts_of(first) + texts_of(rest) == [f"hit {number}" for number in range(9, -1, -1)]

    def test_it_stops_when_its_time_is_over(self, log, monkeypatch):
        monkeypatch.setattr(log_window, "_SEARCH_BLOCK_BYTES", 200)
        written(log, "needle\n", *(f"hay {number}\n" for number in range(100)))
        found = search(log, "needle", seconds=0)
        assert found.lines == ()
        assert found.before > 0
        while found.before > 0:
            found = search(log, "needle", found.before, seconds=0)
        assert texts_of(found) == ["needle"]


def texts_of(found):
    return [piece.text for piece in found.lines]


def test_what_the_writer_wrote_is_read(log):
    writer = LogWriter(log)
    writer.write("stdout", b"caf\xc3\xa9 \xff\n")
    writer.note("saved")
    writer.close()
    assert [(piece.stream, piece.text) for piece in read_before(log).pieces] == [
        ("stdout", "caf\u00e9 \ufffd"),
        ("conjure", "saved"),
    ]
