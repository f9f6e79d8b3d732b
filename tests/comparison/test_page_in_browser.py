"""The page in a headless Chromium, driven through its DevTools protocol over a pipe, without a driver or a library."""

from __future__ import annotations

import base64
import json
import math
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vsr.comparison.compare import compare
from vsr.comparison.options import CompareOptions
from vsr.imaging.pictures import Picture, decode_picture, write_picture

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on PATH"),
    pytest.mark.skipif(sys.platform == "win32", reason="the pipe to Chromium is made with POSIX file descriptors"),
]

PATIENCE = 60.0
"""Seconds; a browser starts slowly on a busy machine."""

# Chromium reads commands from descriptor 3 and answers on 4.
BECOME = "import os, sys; a = sys.argv; os.dup2(int(a[1]), 3); os.dup2(int(a[2]), 4); os.execv(a[3], a[3:])"


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, folder: Path, width: int = 1000, height: int = 700) -> None:
        assert PROGRAM is not None
        ends = [*os.pipe(), *os.pipe()]
        # Beyond 3 and 4, which the child overwrites.
        import fcntl  # which Windows lacks

        to_read, self._write, self._read, to_write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
        for end in ends:
            os.close(end)
        command = [
            sys.executable, "-c", BECOME, str(to_read), str(to_write), PROGRAM, "--headless=new", "--no-sandbox",
            "--remote-debugging-pipe", f"--user-data-dir={folder}", f"--window-size={width},{height}", "--disable-gpu",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-dev-shm-usage",
        ]  # fmt: skip
        self._child = subprocess.Popen(
            command, pass_fds=(to_read, to_write), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self._unread, self._count, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol and return its result; events in the meantime are added to ``events``."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            read = os.read(self._read, 1 << 20) if ready else b""
            assert read, "Chromium does not answer"
            self._unread += read
        message, self._unread = self._unread.split(b"\0", 1)
        return json.loads(message)

    def open(self, path: Path) -> None:
        self.call("Page.navigate", url=path.as_uri())
        self.wait_for("document.readyState === 'complete' && document.querySelectorAll('img.right').length === 1")

    def value(self, expression: str) -> Any:
        """Return the value of an expression in the page; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        end = time.monotonic() + PATIENCE
        while not self.value(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.05)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.mouse("mousePressed", *start, button="left", buttons=1, clickCount=1)
        self.mouse("mouseMoved", *end, button="left", buttons=1)
        self.mouse("mouseReleased", *end, button="left", clickCount=1)

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        touches = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        self.call("Input.dispatchTouchEvent", type=kind, touchPoints=touches)

    def press(self, key: str, code: str = "", shift: bool = False) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, modifiers=8 if shift else 0)

    def close(self) -> None:
        self._session = ""
        try:
            self.call("Browser.close")
            self._child.wait(PATIENCE)
        finally:
            self._child.kill()
            self._child.wait()
            os.close(self._read)
            os.close(self._write)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


def noise(height: int, width: int, seed: int) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def pictures_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a page of LR, bicubic and two candidates: a red and a blue one."""
    folder = tmp_path_factory.mktemp("pictures")
    write_picture(folder / "lr.png", noise(100, 100, 0))
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        write_picture(folder / f"{name}.png", np.full((400, 400, 3), colour, np.uint8))
    target = folder / "Bär – 画像.html"
    inputs = folder / "red.png", folder / "blue.png"
    compare(CompareOptions(inputs=inputs, labels=("red", "blue"), lr=folder / "lr.png", target=target))
    return target


@pytest.fixture
def page(browser: Browser, pictures_page: Path) -> Browser:
    browser.resize(1000, 700)
    browser.events.clear()
    browser.open(pictures_page)
    return browser


@pytest.fixture
def colours(page: Browser) -> Browser:
    """The page with red on the left and blue on the right."""
    page.value("show({ left: 2, right: 3 })")
    assert shown(page) == ("red", "blue")
    return page


def shown(browser: Browser) -> tuple[str, str]:
    """Return the labels on the left and on the right."""
    left, right = (browser.value(f"document.querySelector('img.{side}').alt") for side in ("left", "right"))
    return left, right


def pixel(browser: Browser, x: float, y: float) -> tuple[int, int, int]:
    """Return a pixel of the screen."""
    spot = {"x": math.floor(x), "y": math.floor(y), "width": 1, "height": 1, "scale": 1}
    taken = browser.call("Page.captureScreenshot", format="png", clip=spot)
    red, green, blue = decode_picture(base64.b64decode(taken["data"]), "screen")[0, 0]
    return int(red), int(green), int(blue)


def box(browser: Browser, name: str) -> dict[str, float]:
    return browser.value(f"document.getElementById('{name}').getBoundingClientRect().toJSON()")


def middle(browser: Browser, name: str) -> tuple[float, float]:
    found = box(browser, name)
    return found["x"] + found["width"] / 2, found["y"] + found["height"] / 2


RED, BLUE = (200, 0, 0), (0, 0, 200)
LR, BICUBIC = "LR, 100x100", "bicubic, 400x400"


def test_the_page_loads_without_requests_and_errors(page: Browser) -> None:
    sent = [event["params"] for event in page.events if event["method"] == "Network.requestWillBeSent"]
    requests = [event["request"]["url"] for event in sent]
    assert requests[0].startswith("file://") and requests[0].endswith(".html")
    assert [url for url in requests[1:] if not url.startswith("data:")] == []
    assert page.value("performance.getEntriesByType('resource').map(entry => entry.name)") == []
    troubles = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
    assert [event for event in page.events if event["method"] in troubles] == []


@pytest.mark.parametrize(
    "attempt",
    [
        "fetch('https://example.invalid/')",
        "new Promise((yes, no) => { const image = new Image(); image.onload = yes; image.onerror = no;"
        " image.src = 'https://example.invalid/a.png'; })",
        "new Promise((yes, no) => { const script = document.createElement('script'); script.onload = yes;"
        " script.onerror = no; script.src = 'https://example.invalid/a.js'; document.body.append(script); })",
    ],
    ids=["fetch", "image", "script"],
)
def test_the_policy_blocks_requests(page: Browser, attempt: str) -> None:
    violated = page.value(
        "new Promise(done => { document.addEventListener('securitypolicyviolation', event => done(event.blockedURI),"
        f" {{ once: true }}); {attempt}.catch(() => 0); setTimeout(() => done('nothing was blocked'), 5000); }})"
    )
    assert violated.startswith("https://example.invalid/")


def test_the_page_opens_on_bicubic_and_the_first_candidate(page: Browser) -> None:
    assert shown(page) == (BICUBIC, "red")


def test_the_line_divides_the_two_pictures_and_can_be_dragged(colours: Browser) -> None:
    page = colours
    x, y = middle(page, "stage")
    assert pixel(page, x - 60, y) == RED and pixel(page, x + 60, y) == BLUE
    page.drag(middle(page, "divider"), (x + 100, y))
    assert pixel(page, x + 60, y) == RED and pixel(page, x + 160, y) == BLUE
    assert page.value("divider.getAttribute('aria-valuenow')") == "60"
    page.drag((x - 150, y), (x - 100, y))  # anywhere, as the picture cannot be moved
    assert pixel(page, x - 60, y) == BLUE and pixel(page, x - 160, y) == RED
    page.value("divider.focus()")
    page.press("Home")
    assert pixel(page, x - 160, y) == BLUE
    page.press("ArrowRight", shift=True)
    page.press("ArrowRight")
    assert page.value("divider.getAttribute('aria-valuenow')") == "11"


def test_keys_and_lists_select_the_pictures(page: Browser) -> None:
    page.press("1", "Digit1")
    page.wait_for("document.querySelector('img.right').alt === 'LR, 100x100'")
    page.press("@", "Digit2", shift=True)
    page.wait_for("document.querySelector('img.left').alt === 'bicubic, 400x400'")
    page.press("9", "Digit9")
    page.press("s")
    page.wait_for("document.querySelector('img.left').alt === 'LR, 100x100'")
    assert shown(page) == (LR, BICUBIC)
    assert page.value("[element.left.selectedOptions[0].text, element.right.value]") == [f"1 {LR}", "1"]
    page.value("element.right.value = 3; element.right.dispatchEvent(new Event('change'))")
    page.wait_for("document.querySelector('img.right').alt === 'blue'")
    page.press("4", "Digit4", shift=True)
    page.wait_for("document.querySelector('img.left').alt === 'blue'")
    x, y = middle(page, "stage")
    assert pixel(page, x - 60, y) == BLUE == pixel(page, x + 60, y), "the same on both sides"


def test_the_wheel_zooms_about_the_pointer_and_dragging_moves(page: Browser) -> None:
    page.press("1", "Digit1")
    page.wait_for("document.querySelector('img.right').alt === 'LR, 100x100'")
    page.value("divider.focus()")
    page.press("Home")  # LR alone
    stage, corner = box(page, "stage"), box(page, "pictures")
    assert (corner["width"], corner["height"]) == (400, 400), "whole pixels where the picture fits"
    at = corner["x"] + 100, corner["y"] + 300  # between columns 24 and 25 of LR, rows 74 and 75
    page.mouse("mouseWheel", *at, deltaX=0, deltaY=-300)  # three notches: 2, 3, 4
    zoomed = box(page, "pictures")
    assert zoomed["width"] == pytest.approx(1600, rel=1e-3)
    assert zoomed["x"] + 400 == pytest.approx(at[0], abs=1) and zoomed["y"] + 1200 == pytest.approx(at[1], abs=1)
    assert page.value("element.percent.textContent") == "400 %"
    assert page.value("getComputedStyle(document.querySelector('img.right')).imageRendering") == "pixelated"
    lr = noise(100, 100, 0)
    for row, column, dx, dy in ((75, 25, 8, 8), (74, 24, -8, -8), (76, 30, 5 * 16 + 2, 16 + 14)):
        assert pixel(page, at[0] + dx, at[1] + dy) == tuple(int(value) for value in lr[row, column])
    page.drag((at[0] + 10, at[1]), (at[0] - 22, at[1] - 16))
    moved = box(page, "pictures")
    assert moved["x"] - zoomed["x"] == pytest.approx(-32, abs=0.5)
    assert moved["y"] - zoomed["y"] == pytest.approx(-16, abs=0.5)
    page.drag((at[0] + 10, at[1]), (at[0] + 5000, at[1]))  # no gap at the edge
    assert box(page, "pictures")["x"] == pytest.approx(stage["x"], abs=0.5)
    page.press("z")
    assert box(page, "pictures")["width"] == 400
    page.press("z")
    assert box(page, "pictures")["width"] == 1600
    page.value("element.fit.click()")
    page.value("element.in.click()")
    assert box(page, "pictures")["width"] == 800
    page.press("-")
    page.press("0")
    assert box(page, "pictures") == corner


def test_zooming_takes_whole_steps_with_square_pixels(page: Browser) -> None:
    for ratio in (1, 1.25):
        metrics = {"width": 1000, "height": 700, "deviceScaleFactor": ratio, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **metrics)
        page.wait_for(f"devicePixelRatio === {ratio}")
        page.press("0")
        page.wait_for("element.percent.textContent === '100 %'")
        for percent in (200, 300, 400, 600, 800):
            page.mouse("mouseWheel", 333, 222, deltaX=0, deltaY=-100)
            page.wait_for(f"element.percent.textContent === '{percent} %'")
        corner = page.value(
            "(() => { const box = pictures.getBoundingClientRect();"
            " return [box.x, box.y, box.width].map(it => it * devicePixelRatio); })()"
        )
        assert corner == pytest.approx([round(it) for it in corner], abs=1e-3) and corner[2] == pytest.approx(3200)
        for _ in range(2):
            page.mouse("mouseWheel", 333, 222, deltaX=0, deltaY=45)
        assert page.value("element.percent.textContent") == "800 %", "parts of a notch change nothing yet"
        page.mouse("mouseWheel", 333, 222, deltaX=0, deltaY=15)
        page.wait_for("element.percent.textContent === '600 %'")


def test_space_flips_the_two_pictures_in_place(colours: Browser) -> None:
    page = colours
    x, y = middle(page, "stage")
    sides = (x - 150, y + 100), (x + 150, y + 100)
    tags = "[element['left-tag'].hidden, element['right-tag'].hidden, divider.hidden]"
    for colour, hidden in ((RED, [False, True, True]), (BLUE, [True, False, True]), (RED, [False, True, True])):
        page.press(" ", "Space")
        assert [pixel(page, *at) for at in sides] == [colour, colour] and page.value(tags) == hidden
    page.press("Escape")
    assert [pixel(page, *at) for at in sides] == [RED, BLUE] and page.value(tags) == [False, False, False]
    at = middle(page, "in")
    page.mouse("mousePressed", *at, button="left", clickCount=1)
    page.mouse("mouseReleased", *at, button="left", clickCount=1)
    page.press(" ", "Space")
    assert page.value("[view.whole, element.percent.textContent]") == ["left", "200 %"], "the button was left"


def test_the_focus_ring_is_around_the_knob(page: Browser) -> None:
    page.press("Tab")
    page.value("divider.focus()")
    ring = "[getComputedStyle(divider).outlineStyle, getComputedStyle(divider, '::after').outlineStyle]"
    assert page.value("divider.matches(':focus-visible')") and page.value(ring) == ["none", "solid"]


def test_two_fingers_zoom_and_one_moves_the_line(page: Browser) -> None:
    page.resize(500, 800, mobile=True)
    page.call("Emulation.setTouchEmulationEnabled", enabled=True)
    page.wait_for("document.getElementById('pictures').getBoundingClientRect().width === 400")
    x, y = middle(page, "stage")
    page.touch("touchStart", (x, y))
    page.touch("touchMove", (x - 50, y))
    page.touch("touchMove", (x - 100, y))
    page.touch("touchEnd")
    assert page.value("divider.getAttribute('aria-valuenow')") == "30"
    page.touch("touchStart", (x - 50, y), (x + 50, y))
    for distance in (75, 100, 150):
        page.touch("touchMove", (x - distance, y), (x + distance, y))
    page.touch("touchEnd")
    assert box(page, "pictures")["width"] == pytest.approx(1200, rel=0.02)
    assert page.value("divider.getAttribute('aria-valuenow')") == "30", "a pinch does not move the line"
    page.call("Emulation.setTouchEmulationEnabled", enabled=False)


def test_keys_and_buttons_select_the_frame(browser: Browser, tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    clip = make_clip(pts=range(0, 12 * 512, 512), size=(96, 64))
    target = tmp_path / "clip.html"
    compare(CompareOptions(inputs=(clip, clip), labels=("one", "two"), target=target, num_frames=3))
    browser.open(target)
    caption = "document.getElementById('caption').textContent"
    images = "[...document.querySelectorAll('.moment')].indexOf(document.querySelector('img.right').parentElement)"
    assert browser.value(caption) == "0.080 s, frame 2" and browser.value("element.previous.disabled")
    browser.press("ArrowRight")
    browser.wait_for(f"{images} === 1")
    assert browser.value(caption) == "0.240 s, frame 6" and browser.value("element.moment.value") == "1"
    browser.value("element.next.click()")
    browser.wait_for(f"{images} === 2")
    browser.press("ArrowRight")
    assert browser.value(caption) == "0.400 s, frame 10" and browser.value("element.next.disabled")
    browser.value("element.moment.value = 0; element.moment.dispatchEvent(new Event('input'))")
    browser.wait_for(f"{images} === 0")
    assert browser.value("document.querySelectorAll('img.left, img.right').length") == 2
    browser.value("divider.focus()")
    browser.press("ArrowRight")
    assert browser.value("divider.getAttribute('aria-valuenow')") == "51" and browser.value("view.moment") == 0


def test_p_plays_successive_frames_in_a_loop(browser: Browser, tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    clip = make_clip(pts=range(0, 60 * 512, 512), size=(96, 64))
    target = tmp_path / "clip.html"
    compare(CompareOptions(inputs=(clip, clip), labels=("one", "two"), target=target, num_frames=3, play=0.2))
    browser.open(target)
    number = "Number(element.caption.textContent.split(' ').pop())"
    browser.value(
        "window.seen = []; new MutationObserver(() => {"
        " const shown = document.querySelector('img.right').parentElement;"
        " const at = Number(shown.dataset.caption.split(' ').pop());"
        " if (shown.className === 'frame' && at !== seen.at(-1)) seen.push(at);"
        " }).observe(pictures, { subtree: true, attributeFilter: ['class'] })"
    )
    first = browser.value(number)
    assert first == 10
    browser.press("p")
    browser.wait_for("seen.length > 11")
    assert browser.value("element.play.textContent") == "Pause"
    browser.press("p")
    assert browser.value("seen")[:11] == [10, 11, 12, 13, 14, 10, 11, 12, 13, 14, 10]
    paused = browser.value(number)
    assert paused in range(10, 15) and browser.value("element.play.textContent") == "Play"
    browser.press("ArrowRight")
    assert browser.value(number) == (paused - 10 + 1) % 5 + 10
    browser.press("Escape")
    assert browser.value(number) == first and browser.value("view.frame") is None
    browser.press("ArrowRight")
    assert browser.value(number) == 30
