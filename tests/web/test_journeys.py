"""What people do on the pages, by mouse and by keys alone, in a real browser."""

import re
import time
import webbrowser

import pytest
from playwright.sync_api import expect

from conjure.core.home import Home
from conjure.http import browser as http_browser
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import OWNER, add_run, advance, finish, wait_until
from support.web_homes import log_points, loss_curve, print_lines, print_pieces, small_home
from support.web_sites import visiting

# What is asked for the lines after a place comes half a second late.
SLOW_BEGINNING = """() => {
    const fetchAtOnce = window.fetch;
    window.fetch = async (address, ...others) => {
        const late = String(address).includes("after=");
        if (late) await new Promise((done) => setTimeout(done, 500));
        const answer = await fetchAtOnce(address, ...others);
        if (late) document.body.dataset.answered = "";
        return answer;
    };
}"""


# What searches a log is answered with an error.
NO_SEARCH = """() => {
    const fetchAsIs = window.fetch;
    window.fetch = (address, ...others) => String(address).includes("search.json")
        ? Promise.resolve(Response.json({ error: { message: "the log cannot be read" } }, { status: 500 }))
        : fetchAsIs(address, ...others);
}"""


def test_the_file_that_a_browser_is_opened_with_leads_in(browser, small, monkeypatch):
    context = browser.new_context()
    page = context.new_page()
    monkeypatch.setattr(http_browser, "_REMOVED_AFTER_S", 0)
    monkeypatch.setattr(webbrowser, "open", page.goto)
    http_browser.open_in_browser(f"http://127.0.0.1:{small.port}/runs?token={small.session.token}")
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    expect(page).to_have_url(f"http://127.0.0.1:{small.port}/runs")
    context.close()


def test_from_the_table_to_a_comparison_by_mouse(window, small):
    page = window(small).page
    page.get_by_role("link", name="Runs", exact=True).click()
    for number in (1, 3):
        page.get_by_label(f"Select run {number}").check()
    expect(page.get_by_text("2 selected")).to_be_visible()
    page.get_by_role("button", name="Compare selected").click()
    expect(page).to_have_url(re.compile(r"/compare\?runs=3,1"))
    expect(page.get_by_role("cell", name="2.12.1")).to_be_visible()
    expect(page.locator(".uplot").first).to_be_visible()
    page.get_by_role("table").get_by_role("link", name="run 3").click()
    expect(page.get_by_role("heading", name="Run 3")).to_be_visible()


def test_a_dozen_runs_are_compared(window, tmp_path):
    home = Home(tmp_path)
    with SqliteDatabase.open(home) as store:
        for number in range(1, 13):
            add_run(store, f"python train.py {number}")
            log_points(home, number, "loss", loss_curve(50, number))
    with visiting(tmp_path) as visitor:
        opened = window(visitor)
        opened.open("/runs")
        page = opened.page
        for number in range(1, 13):
            page.get_by_label(f"Select run {number}", exact=True).check()
        page.get_by_role("button", name="Compare selected").click()
        expect(page.locator("figure figcaption")).to_have_text("600 points")
        expect(page.locator("figure canvas")).to_be_visible()
        page.locator("figure .plot").focus()
        page.keyboard.press("End")
        looks = page.locator(".readout path").evaluate_all("all => all.map(one => one.className.baseVal)")
        assert len(set(looks)) == len(looks) == 12


def test_the_same_by_keys_alone(window, small):
    page = window(small).page
    page.keyboard.press("g")
    page.keyboard.press("r")
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
    page.wait_for_load_state()  # the scripts are at work
    page.keyboard.press("/")
    page.keyboard.type("sweep lr=0.001")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(2)
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.keyboard.press("c")
    expect(page).to_have_url(re.compile(r"/compare\?runs=6,1"))
    page.go_back()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=re.compile("Run 6"))).to_be_visible()
    expect(page.get_by_label("Search the log")).to_be_visible()  # the scripts are at work
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("follow the log")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_everything_is_reached_by_tab(window, small):
    page = window(small).page
    page.goto(f"{page.url}runs")
    seen = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.textContent.trim()"))
    assert {"Skip to content", "Runs", "Columns", "Filter", "python train.py --gpus 4"} <= seen


def test_search_sort_and_columns_stay_in_the_address(window, small):
    page = window(small).page
    page.goto(f"{page.url}runs?q=train")
    page.get_by_role("link", name=re.compile("^lr")).click()
    expect(page).to_have_url(re.compile(r"q=train.*sort=-param%3Alr|sort=-param%3Alr.*q=train"))
    expect(page.locator("tbody tr").first).to_have_attribute("data-run", "8")
    page.get_by_role("link", name=re.compile("^lr")).click()
    expect(page.locator("tbody tr").first).to_have_attribute("data-run", "6")
    page.locator("summary", has_text="Columns").click()
    page.locator("label", has_text="tokens_per_s").click()
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_role("columnheader", name="tokens_per_s")).to_be_visible()
    expect(page).to_have_url(re.compile("q=train"))


def test_a_curve_is_read_zoomed_and_left_by_keys(window, small):
    opened = window(small)
    opened.open("/runs/1")
    page = opened.page
    plot = page.locator("figure[data-metric=loss] [data-plot]")
    expect(plot.locator("canvas")).to_be_visible()
    plot.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(page.locator("figure[data-metric=loss] .readout")).to_contain_text(re.compile("step [0-9]"))
    expect(page.locator("figure[data-metric=loss] figcaption")).to_contain_text(
        "of 2,500 points drawn, extremes included"
    )
    page.keyboard.press("+")
    page.keyboard.press("+")
    expect(page).to_have_url(re.compile("zoom="))
    expect(page.locator("figure[data-metric=loss] figcaption")).not_to_contain_text("2,500")
    page.keyboard.press("t")
    expect(page.locator("figure[data-metric=loss] .values tbody tr").first).to_be_visible()
    page.keyboard.press("0")
    expect(page).not_to_have_url(re.compile("zoom="))


def test_a_curve_is_zoomed_by_dragging_and_the_address_keeps_it(window, small):
    opened = window(small)
    opened.open("/runs/1")
    page = opened.page
    over = page.locator("figure[data-metric=loss] .u-over")
    box = over.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 60, steps=4)
    page.mouse.up()
    expect(page).to_have_url(re.compile("zoom="))
    page.reload()
    expect(page.get_by_role("button", name="Reset zoom")).to_be_visible()
    over.dblclick()
    expect(page).not_to_have_url(re.compile("zoom="))
    page.get_by_label("log y").first.check()
    page.get_by_label("Draw over").select_option("time")
    expect(page).to_have_url(re.compile("x=time.*logy=1|logy=1.*x=time"))
    page.get_by_label("Smoothing").fill("0.9")
    page.get_by_label("Smoothing").dispatch_event("change")
    expect(page).to_have_url(re.compile("smooth=0.9"))


def test_a_search_of_the_log_that_fails_says_so(window, small):
    opened = window(small)
    opened.open("/runs/1/log")
    page = opened.page
    page.evaluate(NO_SEARCH)
    field, found = page.get_by_label("Search the log"), page.locator("[data-found]")
    field.fill("padding")
    expect(found).to_have_text("the log cannot be read")
    field.fill("x" * 300)
    expect(found).to_have_text("the log cannot be read")
    assert small.get(f"/runs/1/log/search.json?text={field.input_value()}").status == 200


def test_the_log_is_searched_and_followed(window, small):
    opened = window(small)
    opened.open("/runs/1/log")
    page = opened.page
    page.get_by_label("Search the log").fill("step 5 ")
    expect(page.locator("[data-found]")).to_have_text("1 of 1")
    expect(page.locator(".line.hit")).to_contain_text("epoch 0 step 5 loss")
    expect(page.locator(".line.hit .f2")).to_have_text("epoch 0")
    page.get_by_label("times").check()
    expect(page.locator(".line.hit time")).to_be_visible()
    page.get_by_label("follow").check()
    expect(page.locator(".line.stderr")).to_be_in_viewport()


def _training_run(home):
    """The number of a run that is under way, with 50 points of its loss."""
    with SqliteDatabase.open(home) as store:
        number = add_run(store, "python train.py").number
        advance(store, number, RunStatus.RUNNING)
    log_points(home, number, "loss", loss_curve(50, 1))
    return number


def test_new_points_and_lines_are_seen_and_nothing_else_moves(window, writing, tmp_path):
    home = Home(tmp_path)
    number = _training_run(home)
    print_lines(home, number, ["begin"])
    with visiting(tmp_path) as visitor:
        opened = window(visitor)
        opened.open(f"/runs/{number}")
        page = opened.page
        expect(page.locator("figure figcaption")).to_contain_text("50 points")
        page.get_by_label("Search the log").focus()
        writer = writing(
            lambda count: (_add_point(home, number, 50 + count), print_lines(home, number, [f"line {count}"]))
        )
        expect(page.locator(".lines")).to_contain_text("line 5")
        expect(page.locator("figure figcaption")).to_contain_text(
            re.compile(r"\b(5[5-9]|[6-9]\d|\d{3,}) points")
        )
        assert page.evaluate("document.activeElement.dataset.search !== undefined")
        # What is written is on screen within a second; the machine may be busy, so three tries.
        delays = []
        for _ in range(3):
            mark, since = f"mark {time.time_ns()}", time.monotonic()
            print_lines(home, number, [mark])
            expect(page.locator(".lines")).to_contain_text(mark)
            delays.append(time.monotonic() - since)
        assert min(delays) < 5  # the page does not just look again after a while
        writer.stop()
        print(f"a line on screen after {min(delays):.2f} to {max(delays):.2f} s")
        log_points(home, number, "accuracy", [0.5, 0.6])
        expect(page.locator("figure[data-metric=accuracy] canvas")).to_be_visible()
        with SqliteDatabase.open(home) as store:
            store.move(number, RunStatus.SAVING)
            store.end_run(number, Ending(EndReason.COMPLETED, 0))
        expect(page.get_by_role("heading", name=re.compile("complete"))).to_be_visible()


def _add_point(home, number, step):
    with (home.run_folder(number) / "metrics.jsonl").open("a") as file:
        file.write(f'{{"name": "loss", "step": {step}, "value": 0.5, "time": {time.time():.6f}}}\n')


# New points that come are held back until they are released.
SLOW_POINTS = """() => {
    const fetchAtOnce = window.fetch;
    window.polls = 0;
    window.fetch = async (address, ...others) => {
        const answer = await fetchAtOnce(address, ...others);
        if (!String(address).includes("live.json")) return answer;
        window.polls += 1;
        const isHeld = !window.release && (await answer.clone().json()).curves;
        if (isHeld) await new Promise((done) => { window.release = done; });
        return answer;
    };
}"""


@pytest.mark.parametrize(
    "change",
    [
        lambda page: page.get_by_label("Draw over").select_option("time"),
        lambda page: page.get_by_label("log y").check(),
    ],
    ids=["other x", "same x"],
)
def test_new_points_are_not_added_to_a_curve_that_they_do_not_go_on_with(window, tmp_path, change):
    home = Home(tmp_path)
    number = _training_run(home)
    with visiting(tmp_path) as visitor:
        opened = window(visitor)
        opened.open(f"/runs/{number}")
        page = opened.page
        caption = page.locator("figure figcaption")
        expect(caption).to_contain_text("50 points")
        page.evaluate(SLOW_POINTS)
        for step in range(50, 60):
            _add_point(home, number, step)
        wait_until(lambda: page.evaluate("window.release !== undefined"), "an answer with new points")
        change(page)
        expect(caption).to_contain_text("60 points")
        page.evaluate("window.after = window.polls; window.release()")
        wait_until(lambda: page.evaluate("window.polls > window.after + 1"), "the questions after it")
        expect(caption).to_contain_text("60 points")
        drawn = page.evaluate("document.querySelector('figure').figure.data[1].x")
        assert len(drawn) == 60
        assert drawn == sorted(drawn)
        for step in range(60, 65):
            _add_point(home, number, step)
        expect(caption).to_contain_text("65 points")


def test_a_hidden_or_finished_page_asks_nothing(window, small):
    opened = window(small)
    opened.open("/runs/1")
    asked = []
    opened.page.on("request", lambda request: asked.append(request.url))
    opened.page.wait_for_timeout(2000)
    assert [url for url in asked if "live.json" in url] == []


def test_the_table_is_live_and_keeps_selection_focus_and_scroll(window, tmp_path):
    home = Home(tmp_path)
    with SqliteDatabase.open(home) as store:
        for _ in range(60):
            finish(store, add_run(store, "true").number, Ending(EndReason.COMPLETED, 0))
        active = add_run(store, "python long.py").number
        advance(store, active, RunStatus.RUNNING)
        with visiting(tmp_path) as visitor:
            opened = window(visitor)
            opened.open("/runs")
            page = opened.page
            page.get_by_label("Select run 20").check()
            page.get_by_label("Select run 20").focus()
            top = page.evaluate("window.scrollY")
            store.move(active, RunStatus.SAVING)
            expect(page.locator(f"tr[data-run='{active}'] .status")).to_have_text("saving")
            added = add_run(store, "python new.py").number
            expect(page.locator(f"tr[data-run='{added}']")).to_contain_text("python new.py")
            expect(page.locator("tbody tr").first).to_have_attribute("data-run", str(added))
            expect(page.get_by_label("Select run 20")).to_be_checked()
            expect(page.get_by_label("Select run 20")).to_be_focused()
            assert abs(page.evaluate("window.scrollY") - top) < 60


def test_twelve_tabs_of_a_live_run_work(window, tmp_path):
    home = Home(tmp_path)
    with SqliteDatabase.open(home) as store:
        number = add_run(store, "python train.py").number
        advance(store, number, RunStatus.RUNNING)
    print_lines(home, number, ["begin"])
    with visiting(tmp_path) as visitor:
        opened = window(visitor)
        tabs = [opened.tab() for _ in range(12)]
        for tab in tabs:
            tab.goto(f"{opened.origin}/runs/{number}")
        print_lines(home, number, ["all see this"])
        for tab in tabs:
            expect(tab.locator(".lines")).to_contain_text("all see this")


def test_runs_are_labelled_and_archived_in_bulk(window, tmp_path):
    small_home(tmp_path)
    with visiting(tmp_path, allow_actions=True) as visitor:
        opened = window(visitor)
        opened.open("/runs?q=sweep")
        page = opened.page
        page.get_by_label("Select run 1").check()
        page.get_by_label("Select run 2").check()
        page.get_by_role("button", name="Label…").click()
        page.get_by_role("textbox", name="Label for 2 runs").fill("keep me")
        page.keyboard.press("Enter")
        expect(page.locator("tr[data-run='2']")).to_contain_text("keep me")
        page.get_by_label("Select run 6").check()
        page.get_by_role("button", name="Archive").click()
        expect(page.locator("tr[data-run='6']")).to_have_count(0)
        opened.open("/runs/8")
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("button", name="OK").click()
        expect(page.get_by_role("status").last).to_contain_text("Stopping run 8")
    with SqliteDatabase.open(Home(tmp_path)) as store:
        assert store.get(8).end_request == "stop"


def test_a_run_that_was_stopped_can_be_rerun_at_once(window, tmp_path):
    home = Home(tmp_path)
    number = _training_run(home)
    with visiting(tmp_path, allow_actions=True) as visitor:
        opened = window(visitor)
        opened.open(f"/runs/{number}")
        page = opened.page
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("button", name="OK").click()
        expect(page.get_by_role("status").last).to_contain_text(f"Stopping run {number}")
        expect(page.get_by_role("button", name="Stop")).to_be_focused()
        with SqliteDatabase.open(home) as store:
            store.move(number, RunStatus.SAVING)
            store.end_run(number, Ending(EndReason.STOP_REQUESTED, 0))
        expect(page.get_by_role("button", name="Rerun", exact=True)).to_be_visible()
        expect(page.get_by_role("button", name="Stop")).to_have_count(0)
        assert page.evaluate("document.activeElement.closest('.asked') !== null")


def test_stopping_a_run_that_has_ended_says_so(window, tmp_path):
    small_home(tmp_path)
    with visiting(tmp_path, allow_actions=True) as visitor:
        opened = window(visitor)
        opened.open("/runs?q=evaluate")
        page = opened.page
        page.get_by_label("Select run 5").check()
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("button", name="OK").click()
        expect(page.get_by_role("status").last).to_contain_text("not active any more")


def test_a_page_says_while_nothing_comes_from_the_server(window, tmp_path):
    home = Home(tmp_path)
    number = _training_run(home)
    with visiting(tmp_path) as visitor:
        opened = window(visitor)
        opened.open(f"/runs/{number}")
        page, note = opened.page, opened.page.get_by_role("alert")
        opened.context.set_offline(True)
        expect(note).to_contain_text("No answer from the server", timeout=30_000)
        passed = page.locator(".run-title time[data-since]")
        before = passed.text_content()
        page.wait_for_timeout(1500)
        assert passed.text_content() == before
        opened.context.set_offline(False)
        expect(note).to_have_count(0, timeout=30_000)
        opened.context.clear_cookies()
        expect(note).to_contain_text("This page needs its token: open the address", timeout=30_000)
        opened.context.close()
        assert all("Failed to load resource" in each for each in opened.complaints)
        opened.complaints.clear()


def test_without_scripts_pages_say_what_they_show(browser, small):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{small.port}/?token={small.session.token}")
    page.goto(f"http://127.0.0.1:{small.port}/runs?q=evaluate")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name="python evaluate.py --split test").click()
    expect(page.locator(".lines")).to_contain_text("KeyError: 'label'")
    page.get_by_role("link", name="Lineage", exact=True).last.click()
    page.locator("svg.lineage a").first.click()
    expect(page.get_by_role("heading", name=re.compile("Run "))).to_be_visible()
    context.close()


@pytest.fixture
def long_log(window, tmp_path):
    """The page of a log of 30,000 lines, and the box with them, which shows the last ones."""
    home = Home(tmp_path)
    with SqliteDatabase.open(home) as store:
        number = add_run(store, "yes").number
        print_lines(home, number, (f"line {count}" for count in range(30_000)))
        finish(store, number, Ending(EndReason.COMPLETED, 0))
    with visiting(tmp_path) as visitor:
        opened = window(visitor)
        opened.open(f"/runs/{number}/log")
        lines = opened.page.locator(".lines")
        expect(lines).to_contain_text("line 29999")
        yield opened.page, lines


SCROLL_BACK = """(box, first) => {
    box.scrollTop = 0;
    return box.querySelector(".line").textContent !== first;
}"""


def test_a_long_log_stays_light(long_log):
    page, lines = long_log
    for _ in range(12):
        first = lines.locator(".line").first.text_content()
        wait_until(lambda first=first: lines.evaluate(SCROLL_BACK, first), "earlier lines", every_s=0.1)
    assert lines.locator(".line").count() <= 2100
    first = int(lines.locator(".line").first.inner_text().split()[1])
    assert first < 29_000
    lines.focus()
    page.keyboard.press("Home")
    expect(lines.locator(".line").first).to_have_text("line 0", use_inner_text=True)
    shown = [int(text.split()[1]) for text in lines.locator(".line").all_inner_texts()]
    assert shown == list(range(shown[0], shown[0] + len(shown)))
    page.keyboard.press("End")
    expect(lines).to_contain_text("line 29999")


def test_the_end_of_a_log_is_shown_though_its_beginning_is_still_on_the_way(long_log):
    page, lines = long_log
    page.evaluate(SLOW_BEGINNING)
    lines.focus()
    page.keyboard.press("Home")
    page.keyboard.press("End")
    expect(page.locator("body[data-answered]")).to_be_attached()
    page.wait_for_timeout(100)
    expect(lines).to_contain_text("line 29999")


@pytest.fixture
def bar_log(window, tmp_path):
    """The page of a log with a progress bar of more states than one answer has, and a way to print more."""
    home = Home(tmp_path)
    with SqliteDatabase.open(home) as store:
        number = add_run(store, "python train.py").number
        advance(store, number, RunStatus.RUNNING)
        print_lines(home, number, (f"line {count}" for count in range(5)))
        states = (f"\r{count}% {'#' * 2000}" for count in range(1500))
        print_pieces(home, number, states, stream="stderr")
    with visiting(tmp_path) as visitor:
        opened = window(visitor)
        opened.open(f"/runs/{number}/log")
        yield opened.page, lambda *pieces: print_pieces(home, number, pieces, stream="stderr")


def _begins(lines):
    return [text.partition(" #")[0] for text in lines.locator(".line").all_text_contents()]


def test_a_progress_bar_hides_no_lines(bar_log):
    page, printing = bar_log
    lines = page.locator(".lines")
    expect(lines.locator(".line").first).to_contain_text("line 0")
    shown = [*(f"line {count}" for count in range(5)), "1499%"]
    assert all(text.endswith(end) for text, end in zip(_begins(lines), shown, strict=True))
    printing("\r1500% #", "\r1501% #", "\ndone\n")
    expect(lines).to_contain_text("done")
    assert all(text.endswith(end) for text, end in zip(_begins(lines)[-2:], ["1501%", "done"], strict=True))


def test_what_follows_a_long_progress_bar_is_fetched_at_the_beginning_of_a_log(bar_log):
    page, printing = bar_log
    printing("\n", *(f"after {count}\n" for count in range(3)))
    lines = page.locator(".lines")
    expect(lines).to_contain_text("after 2")
    lines.focus()
    page.keyboard.press("Home")
    page.wait_for_timeout(500)
    expect(lines.locator(".line").first).to_contain_text("line 0")
    expect(lines).to_contain_text("after 2")
    assert lines.locator(".line").count() == 9


@pytest.mark.parametrize("lines", [3, 300], ids=["shorter", "longer"])
def test_the_log_of_another_attempt_takes_the_place_of_the_last_ones(window, tmp_path, lines):
    home = Home(tmp_path)
    with SqliteDatabase.open(home) as store:
        number = add_run(store, "python train.py", retry=1).number
        advance(store, number, RunStatus.RUNNING)
        print_lines(home, number, (f"first {count}" for count in range(100)))
        with visiting(tmp_path) as visitor:
            opened = window(visitor)
            opened.open(f"/runs/{number}/log")
            shown = opened.page.locator(".lines")
            expect(shown).to_contain_text("first 99")
            RunFolder.of(home, number).log.unlink()
            print_lines(home, number, (f"second {count}" for count in range(lines)))
            store.retry_run(number, Ending(EndReason.SUPERVISOR_DIED), OWNER, host="host", delay_s=0.0)
            expect(shown).to_contain_text(f"second {lines - 1}")
            expect(shown).not_to_contain_text("first")
            print_lines(home, number, ["goes on"])
            expect(shown).to_contain_text("goes on")


def test_a_log_that_is_not_followed_stays_light_and_goes_on_when_scrolled(window, tmp_path):
    home = Home(tmp_path)
    number = _training_run(home)
    print_lines(home, number, (f"line {count}" for count in range(100)))
    with visiting(tmp_path) as visitor:
        opened = window(visitor)
        opened.open(f"/runs/{number}/log")
        page, lines = opened.page, opened.page.locator(".lines")
        expect(lines).to_contain_text("line 99")
        page.get_by_label("follow").uncheck()
        for begin in range(100, 6000, 500):
            print_lines(home, number, (f"line {count}" for count in range(begin, min(begin + 500, 6000))))
            page.wait_for_timeout(600)  # in which a page without bounds would show these, too
        assert lines.locator(".line").count() <= 3000
        scroll = """box => {
            box.scrollTop = box.scrollHeight;
            return box.textContent.includes("line 5999");
        }"""
        # Each fetches a part only, and none while one is still on the way.
        wait_until(lambda: lines.evaluate(scroll), "the last line", every_s=0.1)


def test_a_text_is_written_and_scored(window, small):
    opened = window(small)
    opened.open("/playground")
    page = opened.page
    page.get_by_label("Tokens").fill("12")
    page.get_by_label("Prompt").focus()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text(re.compile("12 tokens in|ended by the model"))).to_be_visible(timeout=120_000)
    first = page.locator(".tokens").inner_text()
    assert first.startswith("Why did the")
    page.locator(".tok[tabindex]").first.focus()
    expect(page.locator("[data-about] tbody tr").first).to_contain_text("%")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text(re.compile("12 tokens in|ended by the model"))).to_be_visible()
    assert page.locator(".tokens").inner_text() == first
    page.get_by_role("button", name="Score the prompt").click()
    expect(page.get_by_text(re.compile("perplexity"))).to_be_visible(timeout=120_000)
    assert opened.axe() == []
