"""A browser's first visit to a page: how long it takes until something is seen, and what is sent for it.

Main entries: `launched`, `Visit`. Invariant: a visit begins with nothing cached, and all that its pages ask
for is counted.
"""

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from PIL import Image, ImageChops
from playwright.sync_api import Browser, Locator, ViewportSize, sync_playwright

# Names are not looked up: what a page asks of others fails at once, on every machine.
_OPTIONS = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
SIZE: ViewportSize = {"width": 1440, "height": 900}
_STILL_S = 1.5  # a picture that has not changed for so long is whole
_LIMIT_S = 180.0
_COLOURED_PIXELS = 300  # of a chart with curves; axes and texts are grey
_SATURATED = 60  # of 255
_CHANGED = 16  # of 255
_BLINKING = 0.002  # of a picture, such as the mark at the end of a curve that goes on
_FIRST_PAINT = """new Promise(told => new PerformanceObserver(list => {
    const paint = list.getEntriesByName("first-contentful-paint")[0];
    if (paint) told(paint.startTime / 1000);
}).observe({ type: "paint", buffered: true }))"""
_WAIT_FOR_ANSWER = """(() => {
    const { requestStart, responseStart } = performance.getEntriesByType("navigation")[0];
    return (responseStart - requestStart) / 1000;
})()"""


@contextmanager
def launched() -> Iterator[Browser]:
    """The machine's Chromium, without a window."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=_OPTIONS)
        yield browser
        browser.close()


class Visit:
    """A tab of a browser that has seen nothing before.

    Attributes:
        page: The tab.
        bytes_sent: All that came over the wire, heads of answers included.
        foreign: Addresses beyond the origin that were asked for.
        errors: What the page complained of on the console.

    Args:
        browser: Chromium.
        entry: The address that a visitor begins with; the token in it, if any, is exchanged for a cookie.
        storage: What earlier visits would have left in the browser's local storage.
    """

    def __init__(self, browser: Browser, entry: str, storage: Mapping[str, str] | None = None) -> None:
        self.origin = "/".join(entry.split("/")[:3])
        self.context = browser.new_context(viewport=SIZE)
        self.context.set_default_timeout(_LIMIT_S * 1000)
        self.bytes_sent = 0
        self.foreign: list[str] = []
        self.errors: list[str] = []
        self._asked: set[Any] = set()
        for item in (storage or {}).items():
            self.context.add_init_script("localStorage.setItem({}, {})".format(*map(json.dumps, item)))
        if "?" in entry:
            self.context.request.get(entry)
        self.page = self.tab()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.context.close()

    def tab(self) -> Any:
        """A tab that is watched."""
        page = self.context.new_page()
        page.on("console", self._complain)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._begin)
        page.on("requestfinished", lambda request: self._asked.discard(request))
        page.on("requestfailed", lambda request: self._asked.discard(request))
        wire = self.context.new_cdp_session(page)
        wire.send("Network.enable")
        wire.on("Network.loadingFinished", lambda told: self._count(told["encodedDataLength"]))
        wire.on(
            "Network.webSocketFrameReceived", lambda told: self._count(len(told["response"]["payloadData"]))
        )
        return page

    def sizes_of(self, part: str) -> list[int]:
        """The bytes of each answer from now on to a request whose address has `part`: a list that grows."""
        sizes: list[int] = []
        named: set[str] = set()
        wire = self.context.new_cdp_session(self.page)
        wire.send("Network.enable")

        def asked(told: dict[str, Any]) -> None:
            if part in told["request"]["url"]:
                named.add(told["requestId"])

        def answered(told: dict[str, Any]) -> None:
            if told["requestId"] in named:
                sizes.append(int(told["encodedDataLength"]))

        wire.on("Network.requestWillBeSent", asked)
        wire.on("Network.loadingFinished", answered)
        return sizes

    def open(self, path: str) -> float:
        """Go to a page; the moment when it was asked for."""
        begun = time.perf_counter()
        self.page.goto(self.origin + path, wait_until="commit")
        return begun

    def first_paint(self) -> float:
        """Seconds from the request of the page to its first paint."""
        return self.page.evaluate(_FIRST_PAINT)

    def wait_for_answer(self) -> float:
        """Seconds from the request of the page to the first byte of the answer."""
        return self.page.evaluate(_WAIT_FOR_ANSWER)

    def until_rows(self, rows: Locator, count: int, begun: float) -> float:
        """Seconds from `begun` until so many rows are seen."""
        rows.nth(count - 1).wait_for(state="attached")
        rows.first.wait_for()
        return time.perf_counter() - begun

    def until_drawn(self, plot: Locator, begun: float, *, is_live: bool = False) -> float:
        """Seconds from `begun` until a chart shows curves and changes no more.

        Unless it is live, nothing may be in the middle of being fetched either.
        """
        plot.wait_for()
        last, drawn = b"", begun
        while True:
            picture, now = plot.screenshot(), time.perf_counter()
            if differ(last, picture):
                last, drawn = picture, now
            elif now - drawn > _STILL_S and (is_live or not self._asked) and has_curves(picture):
                return drawn - begun
            if now - begun > _LIMIT_S:
                raise TimeoutError(f"this benchmark found no curves within {_LIMIT_S:.0f} s")

    def until_changed(self, plot: Locator, change: Callable[[], object], limit_s: float) -> float | None:
        """Seconds from a change until a chart looks different; None if it does not within the limit."""
        before = plot.screenshot()
        begun = time.perf_counter()
        change()
        while (now := time.perf_counter()) - begun < limit_s:
            if differ(before, plot.screenshot()):
                return now - begun
        return None

    def _complain(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _begin(self, request: Any) -> None:
        if request.url.startswith(("data:", "blob:", "about:")) or request.resource_type == "eventsource":
            return
        # The browser tells no end of the fetch of a shared worker's script, which has no page's headers.
        if "user-agent" in request.headers:
            self._asked.add(request)
        if not request.url.startswith(self.origin + "/"):
            self.foreign.append(request.url)

    def _count(self, size: float) -> None:
        self.bytes_sent += int(size)


def differ(before: bytes, after: bytes) -> bool:
    """Whether two pictures of a chart differ by more than a mark that blinks."""
    if before == after:
        return False
    if not before:
        return True
    one, other = (Image.open(io.BytesIO(picture)).convert("RGB") for picture in (before, after))
    if one.size != other.size:
        return True
    changes = ImageChops.difference(one, other).convert("L").histogram()
    return sum(changes[_CHANGED:]) > _BLINKING * one.width * one.height


def has_curves(picture: bytes) -> bool:
    """Whether a picture of a chart shows more than axes and texts."""
    saturation = Image.open(io.BytesIO(picture)).convert("HSV").getchannel("S")
    return sum(saturation.histogram()[_SATURATED:]) >= _COLOURED_PIXELS
