"""The table of runs follows what is asked of it, without another page."""

import re

import pytest
from playwright.sync_api import expect

from conjure.core.home import Home
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.schema.status import RunStatus
from support.casting import add_run, advance
from support.web_homes import small_home
from support.web_sites import visiting

# The first answer from now on comes late.
FIRST_IS_SLOW = """() => {
    const fetchAtOnce = window.fetch;
    let first = true;
    window.fetch = async (...asked) => {
        const late = first && String(asked[0]).includes("/runs?");
        if (late) { first = false; await new Promise((done) => setTimeout(done, 500)); }
        return fetchAtOnce(...asked);
    };
}"""


@pytest.fixture
def page(window, small):
    """The table, in a page that is never loaded again."""
    opened = window(small)
    opened.open("/runs")
    page = opened.page
    page.evaluate("document.body.dataset.same = ''")
    yield page
    assert page.evaluate("document.body.dataset.same") == ""


def search_field(page):
    return page.get_by_role("searchbox", name="Search")


def shown(page):
    return page.locator("tbody tr")


def test_rows_follow_what_is_typed(page):
    search_field(page).press_sequentially("evaluate")
    expect(shown(page)).to_have_count(1)
    expect(page.get_by_role("status").first).to_have_text("1 run of 9")
    expect(page).to_have_url(re.compile(r"/runs\?q=evaluate$"))
    expect(search_field(page)).to_be_focused()
    search_field(page).fill("nothing like this")
    expect(page.get_by_text("No run matches.")).to_be_visible()
    search_field(page).fill("")
    expect(shown(page)).to_have_count(9)
    expect(page.get_by_role("status").first).to_have_text("9 runs")
    expect(page).to_have_url(re.compile(r"/runs$"))


def test_the_newest_word_counts_though_an_earlier_answer_is_slow(page):
    page.evaluate(FIRST_IS_SLOW)
    search_field(page).press_sequentially("train --fp8")
    expect(shown(page)).to_have_count(1)
    page.wait_for_timeout(600)
    expect(shown(page)).to_have_count(1)
    expect(shown(page)).to_contain_text("--fp8")


def test_the_way_back_leads_through_searches_not_through_letters(page):
    before = page.evaluate("history.length")
    search_field(page).press_sequentially("evaluate")
    page.get_by_role("combobox", name="Status").select_option("failed")
    expect(page).to_have_url(re.compile("q=evaluate&status=failed"))
    assert page.evaluate("history.length") == before + 2
    page.go_back()
    expect(page).to_have_url(re.compile(r"q=evaluate$"))
    expect(page.get_by_role("combobox", name="Status")).to_have_value("")
    page.go_back()
    expect(shown(page)).to_have_count(9)
    expect(search_field(page)).to_have_value("")
    page.go_forward()
    expect(shown(page)).to_have_count(1)
    expect(search_field(page)).to_have_value("evaluate")


def test_the_order_is_chosen_by_keys_and_the_focus_stays(page):
    page.get_by_role("link", name="Duration").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("columnheader", name="Duration")).to_have_attribute("aria-sort", "descending")
    expect(page.get_by_role("link", name="Duration")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("columnheader", name="Duration")).to_have_attribute("aria-sort", "ascending")
    search_field(page).fill("train")  # the order stays
    expect(page).to_have_url(re.compile("sort=duration.*q=train"))
    expect(page.locator("[data-filters] [type=hidden]")).to_have_value("duration")


def test_what_is_selected_stays_so_while_it_is_shown(page):
    for number in (1, 5):
        page.get_by_label(f"Select run {number}").check()
    expect(page.get_by_text("2 selected")).to_be_visible()
    search_field(page).fill("train")
    expect(page.get_by_text("1 selected")).to_be_visible()
    expect(page.get_by_label("Select run 1")).to_be_checked()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(shown(page).first).to_have_class(re.compile("at"))


def test_a_search_that_is_refused_says_why(window, small):
    opened = window(small)
    opened.open("/runs")
    search_field(opened.page).fill("x" * 600)
    expect(opened.page.get_by_text("a search has at most 500 characters")).to_be_visible()
    opened.complaints.clear()  # the browser tells of every answer that is an error


def test_what_was_found_is_live_and_can_be_acted_on(window, tmp_path):
    home = small_home(tmp_path)
    with SqliteDatabase.open(home) as store, visiting(tmp_path, allow_actions=True) as visitor:
        opened = window(visitor)
        opened.open("/runs")
        page = opened.page
        search_field(page).fill("long.py")
        expect(page.get_by_text("No run matches.")).to_be_visible()
        search_field(page).fill("train")
        number = add_run(store, "python train.py long.py").number
        expect(page.locator(f"tr[data-run='{number}']")).to_be_visible()
        advance(store, number, RunStatus.RUNNING)
        expect(page.locator(f"tr[data-run='{number}'] .status")).to_have_text("running")
        page.get_by_label(f"Select run {number}").check()
        page.get_by_role("button", name="Label…").click()
        page.get_by_role("textbox", name="Label for run").fill("found")
        page.keyboard.press("Enter")
        expect(page.locator(f"tr[data-run='{number}']")).to_contain_text("found")


def test_a_table_without_rows_is_live(window, tmp_path):
    home = small_home(tmp_path)
    with SqliteDatabase.open(home) as store, visiting(tmp_path) as visitor:
        opened = window(visitor)
        opened.open("/runs?q=long.py")
        page = opened.page
        page.evaluate("document.body.dataset.same = ''")
        heading = page.get_by_role("status").first
        expect(page.get_by_text("Show all 9 runs")).to_be_visible()
        search_field(page).focus()
        number = add_run(store, "python long.py").number
        expect(shown(page)).to_have_count(1)
        expect(heading).to_have_text("1 run of 10")
        add_run(store, "python another.py")
        expect(heading).to_have_text("1 run of 11")
        store.set_archived(number, archived=True)
        expect(page.get_by_text("Show all 10 runs")).to_be_visible()
        expect(heading).to_have_text("0 runs of 10")
        expect(search_field(page)).to_be_focused()
        assert page.evaluate("document.body.dataset.same") == ""


def test_a_page_that_there_is_not_is_live(window, tmp_path):
    with SqliteDatabase.open(Home(tmp_path)) as store, visiting(tmp_path) as visitor:
        for number in range(100):
            add_run(store, f"python train.py {number}")
        opened = window(visitor)
        opened.open("/runs?page=2")
        page = opened.page
        expect(page.get_by_text("There is no page 2.")).to_be_visible()
        add_run(store, "python train.py 100")
        expect(shown(page)).to_have_count(1)
        expect(page.get_by_text("101–101 of 101")).to_be_visible()
        page.get_by_role("link", name="newer").focus()
        add_run(store, "python train.py 101")
        expect(page.get_by_text("101–102 of 102")).to_be_visible()
        expect(page.get_by_role("link", name="newer")).to_be_focused()
        expect(page.get_by_role("status").first).to_have_text("102 runs")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_in_a_narrow_window(window, small, theme):
    opened = window(small, color_scheme=theme, viewport={"width": 360, "height": 740})
    opened.open("/runs")
    search_field(opened.page).fill("sweep")
    expect(shown(opened.page)).to_have_count(4)
    assert opened.axe() == []
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert opened.page.evaluate(wide) <= 0


def test_pages_of_a_long_table(window, tmp_path):
    with SqliteDatabase.open(Home(tmp_path)) as store:
        for number in range(1, 121):
            add_run(store, f"python train.py {number}")
    with visiting(tmp_path) as visitor:
        opened = window(visitor)
        opened.open("/runs")
        page = opened.page
        page.evaluate("document.body.dataset.same = ''")
        page.get_by_role("link", name="older").click()
        expect(shown(page)).to_have_count(20)
        expect(page).to_have_url(re.compile("page=2"))
        search_field(page).fill("train.py 11")  # from its first page
        expect(shown(page)).to_have_count(11)  # 11 and 110 to 119
        expect(page).not_to_have_url(re.compile("page="))
        assert page.evaluate("document.body.dataset.same") == ""
