from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from vsr.comparison import page
from vsr.comparison.compare import compare
from vsr.comparison.options import CompareOptions
from vsr.imaging.pictures import Picture, decode_picture, write_picture

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]

LR = "LR, 15x10"


def noise(height: int, width: int, seed: int = 0) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class Page(HTMLParser):
    """The content of a page: its elements, and its pictures by moment."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.moments: list[dict[str, str]] = []
        self.captions: list[str] = []
        self.run: list[dict[str, str]] = []
        self.played: list[str] = []
        self.shown: dict[str, str] = {}
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if attributes.get("class") in ("moment", "frame"):
            self.shown = {}
            is_moment = attributes["class"] == "moment"
            (self.moments if is_moment else self.run).append(self.shown)
            (self.captions if is_moment else self.played).append(attributes["data-caption"])
        elif tag == "img":
            self.shown[attributes["alt"]] = attributes["src"]

    def picture(self, label: str, moment: int = 0) -> tuple[str, Picture]:
        """Return the media type and the pixels of a picture."""
        kind, encoded = self.moments[moment][label].split(";base64,")
        return kind, decode_picture(base64.b64decode(encoded, validate=True), label)


def made(tmp_path: Path, **more: object) -> Page:
    files = {name: tmp_path / f"{name}.png" for name in ("one", "two", "lr")}
    for name, size in (("one", (40, 60)), ("two", (40, 60)), ("lr", (10, 15))):
        write_picture(files[name], noise(*size, seed=len(name) + ord(name[0])))
    options = CompareOptions(
        inputs=(files["one"], files["two"]), lr=files["lr"], target=tmp_path / "page.html",
        **{"labels": ("one", "two"), **more},  # type: ignore[arg-type]
    )  # fmt: skip
    summary = compare(options)
    assert (summary.kind, summary.width, summary.height, summary.frames) == ("page", 60, 40, 1)
    return Page(options.target)


def test_every_picture_is_in_the_page_bit_for_bit(tmp_path: Path) -> None:
    content = made(tmp_path)
    assert list(content.moments[0]) == [LR, "bicubic, 60x40", "one", "two"]
    for label, name, size in (("one", "one", (40, 60)), ("two", "two", (40, 60)), (LR, "lr", (10, 15))):
        kind, picture = content.picture(label)
        assert kind == "data:image/png" and np.array_equal(picture, noise(*size, seed=len(name) + ord(name[0])))
    assert content.picture("bicubic, 60x40")[1].shape == (40, 60, 3)
    assert "60×40, lossless PNG" in content.source


def test_the_page_refers_to_nothing_on_the_network(tmp_path: Path) -> None:
    content = made(tmp_path)
    bare = re.sub(r"base64,[A-Za-z0-9+/=]+", "", content.source)
    assert "://" not in bare and "@@" not in bare
    for tag, attributes in content.elements:
        for name in ("src", "href", "action", "srcset", "poster"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"], "the policy forbids them"


def test_the_policy_allows_the_one_script_and_the_one_style(tmp_path: Path) -> None:
    content = made(tmp_path)
    (policy,) = [
        found["content"] for _, found in content.elements if found.get("http-equiv") == "Content-Security-Policy"
    ]
    for tag in ("script", "style"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", content.source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy


def test_labels_are_escaped(tmp_path: Path) -> None:
    names = ('<script>alert("1")</script> @@NOTE@@', "\"'&amp; <img src=x> Bär – 画像")
    content = made(tmp_path, labels=names)
    assert list(content.moments[0])[2:] == list(names)
    assert [tag for tag, _ in content.elements].count("script") == 1


def test_every_control_has_a_name(tmp_path: Path) -> None:
    content = made(tmp_path)
    for tag, attributes in content.elements:
        if tag in ("select", "input") or attributes.get("role") == "slider":
            assert attributes.get("aria-label"), attributes
        if tag == "button":
            assert attributes.get("aria-label") or attributes.get("title"), attributes


def test_a_quality_makes_jpeg_pictures(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        write_picture(tmp_path / f"{name}.png", cv2.GaussianBlur(noise(64, 64, seed), (0, 0), 3))
    write_picture(tmp_path / "lr.png", noise(16, 16))
    inputs = tmp_path / "one.png", tmp_path / "two.png"
    sizes = []
    for quality in (95, 30):
        target = tmp_path / f"{quality}.html"
        lr = tmp_path / "lr.png"
        compare(CompareOptions(inputs=inputs, labels=("1", "2"), lr=lr, target=target, quality=quality))
        content = Page(target)
        kind, picture = content.picture("1")
        assert kind == "data:image/jpeg" and f"JPEG of quality {quality}" in content.source
        exact = decode_picture(inputs[0].read_bytes(), "")
        assert 0 < np.abs(picture.astype(int) - exact).mean() < (2 if quality == 95 else 10)
        sizes.append(len(content.moments[0]["1"]))
        assert np.array_equal(content.picture("LR, 16x16")[1], noise(16, 16)), "LR is small, and stays exact"
    assert sizes[1] < sizes[0] / 2


def test_large_pages_become_jpeg_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(page, "LOSSLESS_PIXELS", 7349)  # one less than the page has
    monkeypatch.setattr(page, "LARGE_BYTES", 1000)
    with caplog.at_level(logging.WARNING, "vsr"):
        assert made(tmp_path).picture("one")[0] == "data:image/jpeg"
    target, size = tmp_path / "page.html", (tmp_path / "page.html").stat().st_size
    assert caplog.messages == [
        "0 megapixels make a large page, so its pictures are JPEG of quality 95; quality='lossless' writes PNG.",
        f"{target} is {size // 1_000_000} MB large; a lower quality would make it smaller.",
    ]
    caplog.clear()
    assert made(tmp_path, quality="lossless", overwrite=True).picture("one")[0] == "data:image/png"
    monkeypatch.setattr(page, "LOSSLESS_PIXELS", 7350)
    assert made(tmp_path, overwrite=True).picture("one")[0] == "data:image/png"
    assert len(caplog.messages) == 2 and all("MB large" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("chosen", "numbers"),
    [
        ({}, [0, 2, 3, 5, 6, 8, 9, 11]),
        ({"num_frames": 3}, [2, 6, 10]),
        ({"num_frames": 99}, list(range(12))),
        ({"frames": (7, 0)}, [0, 7]),
        ({"times": (0.1,)}, [2]),
    ],
)
def test_the_page_has_the_chosen_frames(
    make_clip: MakeClip, tmp_path: Path, chosen: dict[str, object], numbers: list[int]
) -> None:
    clip = make_clip(pts=range(0, 12 * 512, 512))
    target = tmp_path / "page.html"
    summary = compare(CompareOptions(inputs=(clip, clip), labels=("1", "2"), target=target, **chosen))  # type: ignore[arg-type]
    content = Page(target)
    assert summary.frames == len(numbers)
    assert content.captions == [f"{number * 0.04:.3f} s, frame {number}" for number in numbers]
    assert len({moment["1"] for moment in content.moments}) == len(numbers)


@pytest.mark.parametrize(
    ("others", "first"), [
        *((("lr",), "1 2"), (("hr",), "0 1"), (("lr", "hr"), "1 2"), (("two", "lr", "hr"), "1 2")),
        *((("two",), "0 1"), (("two", "hr"), "0 1")),
    ],
)
def test_which_pictures_are_shown_first(tmp_path: Path, others: tuple[str, ...], first: str) -> None:
    """The interpolation and the first candidate; else two candidates, or a single one with HR."""
    for name in ("one", *others):
        write_picture(tmp_path / f"{name}.png", noise(4, 4) if name == "lr" else noise(8, 8))
    named = {name: tmp_path / f"{name}.png" for name in others if name != "two"}
    inputs = tuple(tmp_path / f"{name}.png" for name in ("one", "two") if name == "one" or name in others)
    compare(CompareOptions(inputs=inputs, target=tmp_path / "page.html", **named))  # type: ignore[arg-type]
    (moment,) = [found for _, found in Page(tmp_path / "page.html").elements if found.get("class") == "moment"]
    assert moment["data-first"] == first


@pytest.mark.parametrize(
    ("chosen", "frames"),
    [
        ({"num_frames": 8}, range(31, 69)),  # 38 frames of 40 ms about the middle, from one of the moments on
        ({"num_frames": 8, "play": 0.4}, range(43, 53)),
        ({"frames": (70, 90)}, range(70, 100)),  # up to the end
        ({"times": (0.5,), "play": 0.1}, range(12, 15)),
        ({"frames": (99,)}, []),
        ({"play": 0.0}, []),
    ],
)
def test_a_clip_gets_successive_frames_to_play(
    make_clip: MakeClip, tmp_path: Path, chosen: dict[str, object], frames: Sequence[int]
) -> None:
    clip = make_clip(pts=range(0, 100 * 512, 512), options={"g": "30"})
    target = tmp_path / "page.html"
    compare(CompareOptions(inputs=(clip, clip), labels=("1", "2"), target=target, **chosen))  # type: ignore[arg-type]
    content = Page(target)
    assert content.played == [f"{number * 0.04:.3f} s, frame {number}" for number in frames]
    assert len({frame["1"] for frame in content.run}) == len(frames)
    for number, kind in ((0, "data:image/png"), (0, "data:image/jpeg"))[: 2 if frames else 1]:
        assert (content.moments if kind.endswith("png") else content.run)[number]["1"].startswith(kind)


def test_what_is_played_is_bounded(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(page, "PLAY_PIXELS", 5 * 2 * 48 * 32)
    clip = make_clip(pts=range(0, 20 * 512, 512))
    options = CompareOptions(inputs=(clip, clip), labels=("1", "2"), target=tmp_path / "page.html", quality=50)
    with caplog.at_level(logging.WARNING, "vsr"):
        compare(options)
    assert len(Page(options.target).run) == 5
    assert caplog.messages == ["P plays 5 frames, since more of this size would make a large page."]
    assert "48×32, JPEG of quality 50<" in options.target.read_text(encoding="utf-8")
