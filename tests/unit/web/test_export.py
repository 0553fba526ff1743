"""Runs as one file."""

import re

from click.testing import CliRunner

from conjure.cli.commands.web import command
from conjure.core.home import Home
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.web.export import export_page
from support.casting import add_run
from support.web_homes import HOSTILE, log_points, print_lines, print_pieces, small_home


def test_a_file_holds_runs_without_scripts_or_requests(conjure_home, tmp_path):
    small_home(conjure_home)
    done = CliRunner().invoke(command, ["export", "1", "6", "-o", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page.html").read_text()
    for text in ("Runs 1, 6", "python train.py --lr 0.001", "UserWarning", "2.13.0", "<svg"):
        assert text in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=|url\(|@import", page)
    assert "default-src 'none'" in page


def test_what_is_hostile_stays_text(conjure_home, tmp_path):
    home = Home(conjure_home)
    with SqliteDatabase.open(home) as store:
        for text in HOSTILE:
            number = add_run(store, text, description=text).number
            print_lines(home, number, [text])
            log_points(home, number, "".join(filter(str.isprintable, text))[:100], [1.0, 2.0])
    page = export_page(home, range(1, len(HOSTILE) + 1))
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_a_run_that_is_not_there_is_said(conjure_home, tmp_path):
    small_home(conjure_home)
    done = CliRunner().invoke(command, ["export", "99", "-o", str(tmp_path / "page.html")])
    assert "there is no run 99" in str(done.exception)
    assert not (tmp_path / "page.html").exists()


def test_a_progress_bar_is_one_line_beside_the_others(conjure_home):
    home = Home(conjure_home)
    with SqliteDatabase.open(home) as store:
        number = add_run(store).number
    print_lines(home, number, (f"line {count}" for count in range(20)))
    print_pieces(home, number, (f"\r{percent}%" for percent in range(700)), stream="stderr")
    print_pieces(home, number, ["wait", ".", ".", "\n"])
    page = export_page(home, [number])
    lines = re.findall(r'<div class="line(?: \w+)?">([^<]*)</div>', page)
    assert lines == [*(f"line {count}" for count in range(20)), "wait..", "699%"]
