"""What the pages say, asked for as a browser would, without one."""

import html
import itertools
import math
import os
import re
from pathlib import Path

import pytest
from starlette.responses import FileResponse

from conjure.core.home import Home
from conjure.errors import NotFoundError
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.inspect.code_diff import CodeDiff
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from conjure.runs.telemetry import metric_column_cache
from conjure.web.rendering import piece
from conjure.web.routes import files
from support.casting import add_run, advance, finish
from support.web_homes import HOSTILE, log_points, loss_curve, print_lines, save_file
from support.web_sites import unpack_curves, visiting


def numbers(page):
    return [int(number) for number in re.findall(r'<tr data-run="(\d+)"', page)]


class TestTable:
    def test_newest_first(self, visitor):
        assert numbers(visitor.page("/runs")) == [9, 8, 7, 6, 5, 4, 3, 2, 1]

    def test_a_description_is_below_the_command_or_in_a_column_of_its_own(self, visitor):
        assert '<span class="note" title="learning rate 0.01">learning rate 0.01</span>' in visitor.page(
            "/runs"
        )
        page = visitor.page("/runs?column=command&column=description")
        assert '<td class="c-description">learning rate 0.01</td>' in page
        assert 'class="note"' not in page

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("q=evaluate", [5]),
            ("q=EVALUATE", [5]),
            ("q=best", [3]),
            ("q=lr%3D0.001", [6, 1]),
            ("q=train+fp8", [7]),
            ("q=%2312", []),
            ("q=3", [9, 8, 7, 6, 5, 4, 3, 2, 1]),
            ("q=loss%3C0.1", None),
            ("q=%25", []),
            ("q=_%5C", []),
            ("status=complete", [4, 3, 2, 1]),
            ("status=running&status=queued", [9, 8]),
        ],
    )
    def test_search(self, visitor, query, expected):
        found = numbers(visitor.page(f"/runs?{query}"))
        if expected is None:
            assert 0 < len(found) < 9
        elif query == "q=3":
            assert 3 in found
        else:
            assert found == expected

    @pytest.mark.parametrize(
        ("sort", "expected"),
        [
            ("number", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
            ("param:lr", [6, 1, 2, 3, 8, 9, 7, 5, 4]),
            ("-param:lr", [8, 3, 2, 6, 1, 9, 7, 5, 4]),
            ("-param:batch", [8, 6, 3, 2, 1, 9, 7, 5, 4]),
        ],
    )
    def test_order(self, visitor, sort, expected):
        assert numbers(visitor.page(f"/runs?sort={sort}")) == expected

    def test_order_by_a_metric_puts_runs_without_it_last(self, visitor):
        upwards = numbers(visitor.page("/runs?sort=metric:loss"))
        downwards = numbers(visitor.page("/runs?sort=-metric:loss"))
        assert set(upwards[:5]) == set(downwards[:5]) == {1, 2, 3, 6, 8}
        assert upwards[:5] == downwards[:5][::-1]
        assert upwards[5:] == downwards[5:] == [9, 7, 5, 4]

    def test_projects(self, tmp_path):
        with SqliteDatabase.open(Home(tmp_path).create()) as store:
            for project in ("jokes", None, "a & b"):
                add_run(store, project=project)
        with visiting(tmp_path) as visitor:
            assert numbers(visitor.page("/runs")) == [3, 2, 1]
            assert numbers(visitor.page("/runs?project=")) == [3, 2, 1]
            page = visitor.page("/runs?project=a+%26+b")
            assert numbers(page) == [3]
            assert "<option selected>a &amp; b</option>" in page
            assert '<td class="c-project">a &amp; b' in page
            assert "1 run of 3" in page

    def test_without_projects_there_is_nothing_of_them(self, visitor):
        page = visitor.page("/runs")
        assert 'name="project"' not in page
        assert "c-project" not in page

    @pytest.mark.parametrize(
        "sort", ["status", "kind", "command", "description", "project", "label", "-duration"]
    )
    def test_every_order_works(self, visitor, sort):
        assert len(numbers(visitor.page(f"/runs?sort={sort}"))) == 9

    def test_chosen_columns(self, visitor):
        page = visitor.page("/runs?column=param:lr&column=metric:loss")
        heads = re.findall(r"<th[^>]*>(?:<a[^>]*>)?([^<]*)<", page)
        assert heads[-2:] == ["lr", "loss"]

    @pytest.mark.parametrize(
        "query",
        ["sort=nope", "sort=number;--", "column=nope", "status=nope", "page=0", "page=x", "q=" + "a" * 501],
    )
    def test_what_there_is_not_is_said(self, visitor, query):
        answer = visitor.get(f"/runs?{query}")
        assert answer.status == 400
        assert "There is no" in answer.content.decode() or "<h1>" in answer.content.decode()

    def test_changes_are_told_once(self, visitor):
        first = visitor.get("/runs.json").json
        assert first["order"] == [9, 8, 7, 6, 5, 4, 3, 2, 1]
        assert first["active"] == 2
        again = visitor.get(f"/runs.json?since={first['cursor']}").json
        assert again == {"cursor": first["cursor"], "active": 2}


def test_only_changed_rows_are_sent(tmp_path):
    with SqliteDatabase.open(Home(tmp_path)) as store:
        for _ in range(3):
            finish(store, add_run(store).number, Ending(EndReason.COMPLETED, 0))
        with visiting(tmp_path) as visitor:
            cursor = visitor.get("/runs.json").json["cursor"]
            add_run(store, "sleep 9", labels=("new",))
            told = visitor.get(f"/runs.json?since={cursor}&shown=status&shown=command").json
    assert told["order"] == [4, 3, 2, 1]
    assert set(told["changed"]) == {"4"} or set(told["changed"]) == {"4", "3", "2", "1"}
    assert "sleep 9" in "".join(told["changed"]["4"])


def test_what_stands_around_the_rows_is_told_though_no_row_changed(tmp_path):
    with SqliteDatabase.open(Home(tmp_path)) as store:
        add_run(store, "python a.py")
        with visiting(tmp_path) as visitor:
            page = visitor.page("/runs?q=a.py")
            assert ">1 run of 1</p>" in page
            (cursor,) = re.findall(r'data-cursor="(\w+)"', page)
            add_run(store, "python b.py")
            told = visitor.get(f"/runs.json?q=a.py&since={cursor}").json
            assert (told["heading"], told["pager"], told["order"]) == ("1 run of 2", "", [1])
            for _ in range(100):
                add_run(store, "python b.py")
            told = visitor.get(f"/runs.json?q=b.py&since={cursor}").json
            assert told["heading"] == "101 runs of 102"
            assert "1–100 of 101" in told["pager"]
            assert 'href="/runs?q=b.py&amp;page=2"' in told["pager"]


def test_pages_of_the_table(tmp_path):
    with SqliteDatabase.open(Home(tmp_path)) as store:
        for _ in range(103):
            add_run(store)
        with visiting(tmp_path) as visitor:
            assert numbers(visitor.page("/runs"))[0] == 103
            assert numbers(visitor.page("/runs?page=2")) == [3, 2, 1]
            assert "There is no page 3" in visitor.page("/runs?page=3")


def test_an_empty_home_says_what_to_type(tmp_path):
    with visiting(tmp_path) as visitor:
        for path in ("/", "/runs"):
            assert "conjure run &#34;echo hello&#34;" in visitor.page(path)
        assert "conjure run -m" in visitor.page("/lineage")


class TestOverview:
    @pytest.fixture
    def store(self, tmp_path):
        with SqliteDatabase.open(Home(tmp_path)) as store:
            yield store

    def test_a_run_that_is_older_than_a_page_of_the_table_changes_its_digest(self, tmp_path, store):
        oldest, *_ = [add_run(store).number for _ in range(105)]
        with visiting(tmp_path) as visitor:
            before = visitor.get("/overview.json").json
            assert before == visitor.get("/overview.json").json
            assert before["active"]
            finish(store, oldest, Ending(EndReason.COMPLETED, 0))
            assert visitor.get("/overview.json").json["cursor"] != before["cursor"]

    def test_a_metric_changes_its_digest(self, tmp_path, store):
        number = add_run(store).number
        with visiting(tmp_path) as visitor:
            before = visitor.get("/overview.json").json["cursor"]
            log_points(Home(tmp_path), number, "loss", [0.5])
            store.refresh_summaries(number)
            assert visitor.get("/overview.json").json["cursor"] != before

    def test_its_link_leads_to_all_that_it_counts(self, tmp_path, store):
        for _ in range(10):
            add_run(store)
        advance(store, 1, RunStatus.RUNNING)
        with visiting(tmp_path) as visitor:
            (address,) = re.findall(r'href="([^"]*)">All active runs', visitor.page("/"))
            assert len(numbers(visitor.page(html.unescape(address)))) == 10


class TestRun:
    def test_the_page(self, visitor):
        page = visitor.page("/runs/1")
        for text in ("Run 1", "python train.py --lr 0.001", "2,500 points", "torch", "812 MB", "sweep"):
            assert text in page or text == "torch"
        assert "UserWarning" in page

    @pytest.mark.parametrize(
        "path", ["/runs/99", "/runs/99/log", "/runs/99/files", "/runs/99/live.json", "/runs/99/lineage"]
    )
    def test_a_run_that_is_not_there(self, visitor, path):
        answer = visitor.get(path)
        assert answer.status == 404
        assert "there is no run 99" in answer.content.decode().lower()

    @pytest.mark.parametrize(
        "path", ["/runs/0", "/runs/x", "/runs/-1", "/runs/1e3", "/runs/99999999999999999999"]
    )
    def test_what_is_no_number_of_a_run(self, visitor, path):
        assert visitor.get(path).status in (400, 404)

    def test_live_is_short_where_nothing_is_new(self, visitor):
        first = visitor.get("/runs/8/live.json?log=0&have=0:0").json
        assert first["active"]
        assert first["curves"]["0"]["points"] == 900
        end = first["log"]["end"]
        again = visitor.get(f"/runs/8/live.json?log={end}&have=0:900&head={first['digest']}")
        assert again.json == {
            "active": True,
            "metrics": 1,
            "log": {"start": end, "end": end, "size": end, "lines": [], "attempt": 1},
        }
        assert len(again.content) < 200

    @pytest.mark.parametrize(
        "query",
        [
            "have=x",
            "have=0:",
            "have=0:-1",
            "have=0:" + "9" * 40,
            "log=",
            "log=x",
            "log=-1",
            "log=" + "9" * 40,
        ],
    )
    def test_live_refuses_rubbish(self, visitor, query):
        assert visitor.get(f"/runs/8/live.json?{query}").status == 400

    def test_the_log_in_parts(self, visitor):
        end = visitor.get("/runs/1/log.json").json
        assert len(end["lines"]) == 801
        assert end["lines"][-1][2:] == ["stderr", "UserWarning: the tokenizer has no padding token", 1]
        before = visitor.get(f"/runs/1/log.json?before={end['lines'][10][0]}").json
        assert before["end"] == end["lines"][10][0]
        assert visitor.get("/runs/1/log.json?before=x").status == 400

    def test_searching_the_log(self, visitor):
        found = visitor.get("/runs/1/log/search.json?text=padding").json
        assert [line[3] for line in found["lines"]] == ["UserWarning: the tokenizer has no padding token"]
        assert visitor.get("/runs/1/log/search.json?text=").status == 400

    def test_the_whole_log(self, visitor):
        answer = visitor.get("/runs/5/log.txt")
        assert answer.content.decode().splitlines()[-1] == "KeyError: 'label'"
        assert "attachment" in answer.headers["Content-Disposition"]

    def test_code_and_packages(self, visitor):
        page = visitor.page("/runs/3/code")
        assert "1f3c9d2e1f3c" in page
        assert "2.12.1" in page

    def test_what_was_not_compared_is_said_below_the_changes(self):
        shown = piece("macros.html", "diff", CodeDiff("+a", left_out=("submodule <x> is not here",)))
        assert shown.endswith('<p class="quiet">Submodule &lt;x&gt; is not here.</p>')


class TestCurves:
    def test_of_several_runs(self, visitor):
        told = visitor.curves("runs=1,2&metric=loss&parts=100")
        assert told.keys() == {1, 2}
        assert told[1]["total"] == 2500
        assert len(told[1]["x"]) == len(told[1]["y"]) <= 510
        assert told[1]["smooth"] == ()

    def test_a_gap_is_not_a_number(self, visitor):
        told = visitor.curves("runs=6&metric=loss&smoothing=0.5")[6]
        assert told["gaps"] == 2
        for name in ("y", "smooth"):
            assert [place for place, value in enumerate(told[name]) if math.isnan(value)] == [300, 301]

    def test_a_metric_that_is_not_there_has_no_points(self, visitor):
        assert visitor.curves("runs=1&metric=nope")[1]["x"] == ()

    def test_runs_that_take_long_to_read_are_given_when_they_are_ready(self, tmp_path, monkeypatch):
        home = Home(tmp_path)
        with SqliteDatabase.open(home) as store:
            for number in (1, 2, 3):
                add_run(store)
                log_points(home, number, "loss", loss_curve(9000, number))
                store.refresh_summaries(number)
                finish(store, number, Ending(EndReason.COMPLETED, 0))
        # Each look finds time for one piece of a file.
        monkeypatch.setattr(metric_column_cache, "monotonic", itertools.cycle([0.0, math.inf]).__next__)
        with visiting(home.root) as visitor:
            for path in ("/compare?runs=1,2,3", "/runs/1"):  # without waiting
                assert 'data-metric="loss"' in visitor.page(path)
            seen, missing = {}, [1, 2, 3]
            while missing:
                answer = visitor.get(f"/curves.bin?runs={','.join(map(str, missing))}&metric=loss")
                given, missing = unpack_curves(answer.content)
                seen |= given
        assert [seen[number]["points"] for number in (1, 2, 3)] == [9000] * 3

    @pytest.mark.parametrize(
        "query",
        [
            "runs=",
            "runs=x",
            "runs=1&parts=0",
            "runs=1&parts=1000000000000",
            "runs=1&lower=nan",
            "runs=1&upper=1e999",
            "runs=1&smoothing=1",
            "runs=" + ",".join(map(str, range(1, 60))),
        ],
    )
    def test_bad_values(self, visitor, query):
        assert visitor.get(f"/curves.bin?metric=loss&{query}").status == 400

    def test_csv_has_every_point(self, visitor):
        lines = visitor.get("/metrics.csv?runs=1,6&metric=loss").content.decode().splitlines()
        assert lines[0] == "run,metric,step,seconds,value"
        assert len(lines) == 1 + 2500 + 502
        assert sum(line.endswith(",nan") for line in lines) == 2

    def test_svg_has_a_line_for_each_run(self, visitor):
        picture = visitor.get("/curves.svg?runs=1,2,3&metric=loss").content.decode()
        assert picture.count("stroke-linejoin") == 6
        assert "run 3" in picture


class TestFiles:
    def test_folders_and_previews(self, visitor):
        assert "model/" in visitor.page("/runs/1/files")
        assert "model.safetensors" in visitor.page("/runs/1/files/model")
        assert "<td>held out</td>" in visitor.page("/runs/1/files/scores.csv")
        assert "n_layer" in visitor.page("/runs/1/files/model/config.json")
        assert "not text" in visitor.page("/runs/1/files/model/model.safetensors")

    def test_files_are_saved_not_shown(self, visitor):
        answer = visitor.get("/runs/1/raw/model/config.json")
        assert answer.content.startswith(b'{"n_layer"')
        assert answer.headers["Content-Disposition"].startswith("attachment")
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Security-Policy"].startswith("sandbox")

    @pytest.mark.parametrize(
        "path",
        [
            "../../../conjure.db",
            "%2e%2e/%2e%2e/run.json",
            "..%2f..%2frun.json",
            "%2Fetc%2Fpasswd",
            "/etc/passwd",
            "..%5c..%5crun.json",
            "model/%00",
            "a%0ab",
            "file:%2f%2f%2fetc/passwd",
            "model/config.json/..%2f..%2f..%2frun.json",
            "x" * 5000,
        ],
    )
    @pytest.mark.parametrize("route", ["raw", "files"])
    def test_nothing_outside_is_given_out(self, visitor, route, path):
        answer = visitor.get(f"/runs/1/{route}/{path}")
        assert answer.status in (400, 404)
        assert b"root:" not in answer.content

    def test_links_that_lead_out_are_refused(self, tmp_path):
        home = Home(tmp_path / "home")
        (tmp_path / "secret").write_text("secret")
        with SqliteDatabase.open(home) as store:
            number = add_run(store).number
            save_file(home, number, "out/inside.txt", "fine")
            (home.run_folder(number) / "outputs" / "link").symlink_to(tmp_path / "secret")
            (home.run_folder(number) / "outputs-beside").mkdir()
            finish(store, number, Ending(EndReason.COMPLETED, 0))
        with visiting(home.root) as visitor:
            assert visitor.get("/runs/1/raw/link").status == 400
            assert "link" in visitor.page("/runs/1/files")
            assert visitor.get("/runs/1/raw/../outputs-beside").status in (400, 404)

    def test_odd_names_are_found_again(self, tmp_path):
        home = Home(tmp_path / "home")
        names = ["a b & c.txt", "100%.txt", "?x#y.txt", "\u00e9\u4e2d.txt", "latin-\udce9.txt", "'\"<b>.txt"]
        with SqliteDatabase.open(home) as store:
            number = add_run(store).number
            for name in names:
                save_file(home, number, name, "content of it")
            finish(store, number, Ending(EndReason.COMPLETED, 0))
        with visiting(home.root) as visitor:
            addresses = re.findall(r'href="(/runs/1/files/[^"]+)"', visitor.page("/runs/1/files"))
            assert len(addresses) == len(names)
            for address in addresses:
                assert "content of it" in visitor.page(address)

    def test_a_picture_is_a_picture_and_svg_is_not(self, tmp_path):
        home = Home(tmp_path / "home")
        with SqliteDatabase.open(home) as store:
            number = add_run(store).number
            save_file(home, number, "plot.png", b"\x89PNG\r\n\x1a\n")
            save_file(home, number, "plot.svg", "<svg onload='alert(1)'/>")
            save_file(home, number, "report.html", "<script>alert(1)</script>")
            finish(store, number, Ending(EndReason.COMPLETED, 0))
        with visiting(home.root) as visitor:
            assert visitor.get("/runs/1/raw/plot.png").headers["Content-Type"] == "image/png"
            for name in ("plot.svg", "report.html"):
                assert (
                    visitor.get(f"/runs/1/raw/{name}").headers["Content-Type"] == "application/octet-stream"
                )
            frame = visitor.get("/runs/1/report/page")
            assert frame.headers["Content-Security-Policy"].startswith("sandbox;")
            assert "sandbox" in visitor.page("/runs/1/report")

    def test_a_file_that_grows_while_it_is_sent_is_sent_as_it_was(self, tmp_path, monkeypatch):
        home = Home(tmp_path / "home")
        with SqliteDatabase.open(home) as store:
            number = add_run(store).number
            save_file(home, number, "loss.txt", "then")
            finish(store, number, Ending(EndReason.COMPLETED, 0))
        set_stat_headers = FileResponse.set_stat_headers

        def grow(self, stat_result):
            set_stat_headers(self, stat_result)
            with Path(self.path).open("ab") as file:
                file.write(b", and more" * 20_000)

        monkeypatch.setattr(FileResponse, "set_stat_headers", grow)
        with visiting(home.root) as visitor:
            answer = visitor.get("/runs/1/raw/loss.txt")
            assert (answer.status, answer.content) == (200, b"then")
            longer = visitor.get("/runs/1/raw/loss.txt").content
            assert longer == b"then" + b", and more" * 20_000
            part = visitor.get("/runs/1/raw/loss.txt", {"Range": "bytes=6-8"})
            assert (part.status, part.content) == (206, b"and")

    def test_a_named_pipe_is_not_waited_for(self, tmp_path):
        home = Home(tmp_path / "home")
        with SqliteDatabase.open(home) as store:
            number = add_run(store).number
            for name in ("pipe", "pipe.csv", "report.html", "samples.json"):
                save_file(home, number, name, "")
                path = home.run_folder(number) / "outputs" / name
                path.unlink()
                os.mkfifo(path)
            other = add_run(store).number
            finish(store, number, Ending(EndReason.COMPLETED, 0))
            finish(store, other, Ending(EndReason.COMPLETED, 0))
        with visiting(home.root) as visitor:
            for name in ("pipe", "pipe.csv"):
                assert "No preview" in visitor.page(f"/runs/1/files/{name}")
                assert visitor.get(f"/runs/1/raw/{name}").status == 404
            assert visitor.get("/runs/1/report/page").status == 404
            assert visitor.get("/compare?runs=1,2").status == 200

    @pytest.mark.parametrize(
        ("content", "shown"), [("", '<pre class="file"'), ("\n\n", '<pre class="file"'), ("a,b", "<th scope")]
    )
    @pytest.mark.parametrize("name", ["table.csv", "table.tsv"])
    def test_a_table_without_rows_is_shown_as_text(self, tmp_path, name, content, shown):
        home = Home(tmp_path / "home")
        with SqliteDatabase.open(home) as store:
            number = add_run(store).number
            save_file(home, number, name, content)
            finish(store, number, Ending(EndReason.COMPLETED, 0))
        with visiting(home.root) as visitor:
            assert shown in visitor.page(f"/runs/1/files/{name}")

    def test_a_run_without_files_says_so(self, visitor):
        assert "has no files" in visitor.page("/runs/7/files")

    def test_why_files_cannot_be_had_is_said_as_it_is(self, visitor, monkeypatch):
        def list_contents(*_):
            raise NotFoundError("run 8 is running on ada@gpu-2", fix="conjure wait 8")

        monkeypatch.setattr(files, "list_contents", list_contents)
        page = visitor.page("/runs/8/files")
        assert "Run 8 is running on ada@gpu-2." in page
        assert ">conjure wait 8<" in page


class TestCompare:
    def test_only_what_differs(self, visitor):
        page = visitor.page("/compare?runs=1,3")
        for text in ("0.001", "0.01", "torch", "2.12.1"):
            assert text in page
        assert "numpy" not in page

    def test_curves_and_whose_they_are_come_before_what_differs(self, visitor):
        page = visitor.page("/compare?runs=1,3")
        legend = page[page.index('class="runs-legend"') : page.index("</ol>")]
        assert re.findall(r"run \d", legend) == ["run 1", "run 3"]
        assert "python train.py --lr 0.01 --data data.txt" in legend
        assert '<span class="label">best</span>' in legend
        assert page.index("</ol>") < page.index("data-curves") < page.index("What differs")

    def test_as_a_form_sends_it(self, visitor):
        assert "run 2" in visitor.page("/compare?runs=1&runs=2")

    def test_without_runs_it_says_how(self, visitor):
        assert "Choose runs" in visitor.page("/compare")

    @pytest.mark.parametrize("runs", ["1,x", ",".join(map(str, range(1, 52)))])
    def test_what_cannot_be_compared(self, visitor, runs):
        assert visitor.get(f"/compare?runs={runs}").status == 400

    def test_many_runs_differ_in_colour_or_dash(self, tmp_path):
        home = Home(tmp_path)
        with SqliteDatabase.open(home) as store:
            for number in range(1, 21):
                add_run(store, f"python train.py {number}")
                log_points(home, number, "loss", [3.0, 2.0])
        runs = ",".join(map(str, range(1, 21)))
        with visiting(home.root) as visitor:
            page = visitor.page(f"/compare?runs={runs}")
            picture = visitor.get(f"/curves.svg?runs={runs}&metric=loss").content.decode()
        keys = re.findall(r'<path class="(s\d d\d)" d="M0 4h22"/>', page)
        assert len(set(keys)) == len(keys) == 20
        lines = re.findall(r'd="(M\d+ \d+)h18" (fill="none".*?)/>', picture)
        assert len({place for place, _ in lines}) == len({look for _, look in lines}) == len(lines) == 20

    def test_samples_of_the_same_prompt_and_seed(self, tmp_path):
        home = Home(tmp_path)
        with SqliteDatabase.open(home) as store:
            for text in ("to the other side", "to the moon"):
                number = add_run(store).number
                sample = f'{{"samples": [{{"prompt": "Why?", "seed": 7, "index": 0, "text": "{text}"}}]}}'
                save_file(home, number, "samples.json", sample)
                finish(store, number, Ending(EndReason.COMPLETED, 0))
        with visiting(home.root) as visitor:
            page = visitor.page("/compare?runs=1,2")
        assert "to the other side" in page
        assert "to the moon" in page


class TestLineage:
    def test_of_a_run(self, visitor):
        page = visitor.page("/runs/3/lineage")
        for number in (3, 4, 5):
            assert f'<a href="/runs/{number}"><rect' in page
        assert 'class="tie mount"' in page

    def test_of_a_run_alone(self, visitor):
        assert 'class="box here"' in visitor.page("/runs/7/lineage")

    def test_of_all(self, visitor):
        page = visitor.page("/lineage")
        assert 'class="tie rerun"' in page


def test_hostile_strings_stay_texts(tmp_path):
    home = Home(tmp_path)
    with SqliteDatabase.open(home) as store:
        for place, text in enumerate(HOSTILE):
            printable = "".join(one for one in text if one.isprintable())[:79].strip()
            record = add_run(
                store, text, description=text, labels=(printable,), params={"p": text}, variables={"V": text}
            )
            log_points(home, record.number, printable, loss_curve(5, place))
            print_lines(home, record.number, [text])
            name = text.replace("/", "_").replace("\0", "")
            save_file(home, record.number, f"{name}.csv", f"{text},b\n1,2\n")
            finish(store, record.number, Ending(EndReason.NONZERO_EXIT, 1, message=text))
            store.refresh_summaries(record.number)
    with visiting(tmp_path) as visitor:
        paths = ["/", "/runs", "/runs?column=param:p&column=description&column=labels", "/compare?runs=1,2,3"]
        for number in range(1, len(HOSTILE) + 1):
            paths += [f"/runs/{number}{part}" for part in ("", "/log", "/files", "/code", "/lineage")]
            files = re.findall(rf'href="(/runs/{number}/files/[^"]+)"', visitor.page(f"/runs/{number}/files"))
            paths += files
        for path in paths:
            page = visitor.page(path)
            assert "<script>alert" not in page
            assert "<img src=x" not in page
            assert "</svg>" not in page.replace("</svg>", "", page.count("<svg"))
            assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", page)
            assert 'href="javascript:' not in page
