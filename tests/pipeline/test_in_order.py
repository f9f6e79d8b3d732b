"""Frames that depend on those before: the same pixels in every part, wherever a segment runs, and after a stop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import nn

import vsr
from vsr.errors import UsageError
from vsr.imaging.pictures import read_picture, write_picture
from vsr.inference.engine import Engine, FrameSequence
from vsr.media.probe import index_packets, probe
from vsr.networks.recurrent import RecurrentGenerator
from vsr.networks.weights import save_network
from vsr.pipeline.estimate import estimate_clip
from vsr.pipeline.journal import job_folder_of
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.segments import WARM_SECONDS, cut_by_time

pytestmark = pytest.mark.usefixtures("no_tracker", "leaves_nothing")

MakeClip = Callable[..., Path]

LONG = {"pts": range(0, 40_000, 500), "time_base": Fraction(1, 1000)}
"""Eighty frames of half a second, no keyframe but the first: segments of nine seconds, which is eighteen frames."""
ASKED: dict[str, Any] = {"codec": "ffv1", "pix_fmt": "yuv444p", "precision": "fp32"}


@pytest.fixture
def no_tracker(leaves_nothing: None) -> Iterator[None]:
    """End the resource tracker, a process that Python keeps after it has started another."""
    yield
    resource_tracker._resource_tracker._stop()


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network whose results depend on the frames before by several codes."""
    torch.manual_seed(0)
    network = RecurrentGenerator(scale=2, blocks=1, channels=4, aligned=True)
    nn.init.normal_(network.tail.weight, std=0.05)
    path = tmp_path_factory.mktemp("recurrent") / "recurrent.safetensors"
    save_network(path, network, {})
    return path


@pytest.fixture(params=["recurrent", "steadied"])
def asked(request: pytest.FixtureRequest, recurrent: Path, tiny_weights: Path) -> dict[str, Any]:
    """A job of either kind."""
    if request.param == "recurrent":
        return {**ASKED, "model": str(recurrent)}
    return {**ASKED, "model": str(tiny_weights), "steady": "yes"}


def content(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [hashlib.md5(frame.to_ndarray().tobytes()).hexdigest() for frame in container.decode(video=0)]


def frames_of(path: Path) -> list[np.ndarray]:
    """uint8 RGB."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


class Stop(Exception):
    """Ends a job."""


def test_pixels_do_not_depend_on_where_a_segment_is_upscaled(
    asked: dict[str, Any], make_clip: MakeClip, tmp_path: Path
) -> None:
    clip = make_clip(**LONG)
    here = vsr.upscale(clip, tmp_path / "here.mkv", **asked)
    shared = vsr.upscale(clip, tmp_path / "shared.mkv", **asked, jobs=2)
    assert (here.frames, shared.frames) == (80, 80) and here.segments == shared.segments > 3
    assert content(here.target) == content(shared.target)
    assert len(set(content(here.target))) == 80


def test_a_resumed_job_equals_an_uninterrupted_one(
    asked: dict[str, Any], make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mkv"
    whole = content(vsr.upscale(clip, tmp_path / "whole.mkv", **asked).target)

    def stop(_: object) -> None:
        if len(list(job_folder_of(target).glob("[0-9]*"))) >= 2:
            raise Stop

    monkeypatch.setattr("vsr.pipeline.segment.QUEUE_BYTES", 1)
    with pytest.raises(Stop):
        vsr.upscale(clip, target, progress=stop, **asked)
    summary = vsr.upscale(clip, target, **asked)
    assert summary.resumed > 0 and content(target) == whole


@pytest.mark.parametrize(("start", "end"), [(None, 7), (12, 14), (8, 11), (31, None), (39.5, None)])
def test_a_part_has_the_pixels_of_the_whole_clip(
    start: float | None, end: float | None, asked: dict[str, Any], make_clip: MakeClip, tmp_path: Path
) -> None:
    clip = make_clip(**LONG)
    whole = content(vsr.upscale(clip, tmp_path / "whole.mkv", **asked).target)
    times = {name: Fraction(at) for name, at in (("start", start), ("end", end)) if at is not None}
    part = vsr.upscale(clip, tmp_path / "part.mkv", **asked, **times)
    wanted = whole[int((start or 0) * 2) : int((end or 40) * 2)]
    assert part.frames == len(wanted) and content(part.target) == wanted


@pytest.mark.parametrize("part", [{}, {"start": Fraction(12), "end": Fraction(14)}])
def test_an_estimate_counts_the_warm_up(
    part: dict[str, Fraction], asked: dict[str, Any], make_clip: MakeClip, tmp_path: Path
) -> None:
    """They count as frames to compute, not as output; samples are measured without a warm-up."""
    clip, options = make_clip(**LONG), UpscaleOptions(**asked, **part)
    estimate = estimate_clip(clip, tmp_path / "out.mkv", options)
    assert estimate.frames == (4 if part else 80)
    assert 0 < estimate.measured_frames <= estimate.frames and estimate.seconds > 0
    cut = cut_by_time(index_packets(clip, probe(clip).video), LONG["time_base"], warm_up=16, seconds=WARM_SECONDS)
    assert [segment.num_frames for segment in cut] == [18, 18, 18, 18, 8]
    assert [segment.num_warm_up for segment in cut] == [0, 16, 16, 16, 16]
    assert [segment.first for segment in cut] == [None, 1000, 10_000, 19_000, 28_000]


def test_pictures_in_order_are_a_clip(asked: dict[str, Any], make_clip: MakeClip, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, frame in enumerate(frames_of(make_clip(**LONG))[:24]):
        write_picture(folder / f"{number:02}.png", frame)
    whole = content(vsr.upscale(folder, tmp_path / "whole.mkv", **asked).target)
    part = vsr.upscale(folder, tmp_path / "part.mkv", start=Fraction(9, 25), end=Fraction(20, 25), **asked)
    assert len(whole) == 24 and content(part.target) == whole[9:20]


def test_a_picture_is_upscaled_by_itself(recurrent: Path, tiny_weights: Path, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    write_picture(tmp_path / "in.png", picture)
    for model in (recurrent, tiny_weights):
        target = tmp_path / f"{model.stem}.png"
        vsr.upscale(tmp_path / "in.png", target, model=str(model), steady="yes", precision="fp32")
        expected = vsr.load_model(model, precision="fp32").upscale(picture)
        assert np.array_equal(read_picture(target), expected)


def test_warm_up_frames_are_not_counted(
    asked: dict[str, Any], make_clip: MakeClip, tmp_path: Path
) -> None:
    """Every picture is shown twice, so that half of the frames are repeated, in the warm-up as in the segments."""
    doubled = tmp_path / "doubled"
    doubled.mkdir()
    for number, frame in enumerate(frames_of(make_clip(**LONG))[:70]):
        for twice in (0, 1):
            write_picture(doubled / f"{2 * number + twice:03}.png", frame)
    told: list[Any] = []
    summary = vsr.upscale(doubled, tmp_path / "out.mkv", progress=told.append, **asked)
    assert (summary.segments, summary.frames, summary.repeated) == (2, 140, 70)
    assert told[-1].frames == 140
    found = content(summary.target)
    assert found[::2] == found[1::2]


def test_damage_before_a_segment_is_counted_once(recurrent: Path, make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(**LONG, options={"g": "6", "bf": "0", "slices": "4"}, size=(64, 64))
    with av.open(str(clip)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(clip.read_bytes())
    at, size = packets[14]  # a predicted frame in the warm-up of the second segment
    data[at + size // 2 : at + size - 4] = bytes(size - 4 - size // 2)
    clip.write_bytes(data)
    alone = vsr.upscale(clip, tmp_path / "alone.mkv", model="bicubic", scale=1, codec="ffv1")
    in_order = vsr.upscale(clip, tmp_path / "in_order.mkv", model=str(recurrent), **ASKED)
    assert alone.damage and in_order.damage == alone.damage
    assert in_order.segments > 1


@pytest.mark.parametrize(
    ("steady", "stage", "detail", "steadied"),
    [
        ("auto", "adversarial", 1, True), ("auto", "pretrain", 1, False), ("no", "adversarial", 1, False),
        ("yes", "pretrain", 1, True),
    ],
)  # fmt: skip
def test_only_adversarial_frame_wise_models_are_steadied_by_default(
    steady: str, stage: str, detail: float, steadied: bool, tiny_generator: Callable[..., Any], make_clip: MakeClip,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model = tmp_path / "model.safetensors"
    save_network(model, tiny_generator(), {"training": f'{{"stage": "{stage}"}}'})
    seen: list[bool] = []
    begin = FrameSequence.__init__

    def noted(self: FrameSequence, engine: Engine, *, steadied: bool = False) -> None:
        seen.append(steadied)
        begin(self, engine, steadied=steadied)

    monkeypatch.setattr(FrameSequence, "__init__", noted)
    vsr.upscale(make_clip(), tmp_path / "out.mkv", **ASKED, model=str(model), steady=steady, detail=detail)
    assert any(seen) == steadied


def test_without_steadying_results_are_unchanged(tiny_weights: Path, make_clip: MakeClip, tmp_path: Path) -> None:
    """Without steadying each frame is the network's result for it alone."""
    folder, found = tmp_path / "in", tmp_path / "out"
    for made in (folder, found):
        made.mkdir()
    frames = frames_of(make_clip())
    for number, frame in enumerate(frames):
        write_picture(folder / f"{number}.png", frame)
    vsr.upscale(folder, found / "%d.png", model=str(tiny_weights), steady="no", precision="fp32")
    model = vsr.load_model(tiny_weights, precision="fp32")
    for result, frame in zip(sorted(found.iterdir()), frames, strict=True):
        assert np.abs(read_picture(result).astype(int) - model.upscale(frame)).max() <= 1


@pytest.mark.parametrize("model", ["bicubic", "identity"])
def test_models_without_weights_cannot_be_steadied(model: str, make_clip: MakeClip, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"model '{model}' adds no detail that could flicker: leave out steady"):
        vsr.upscale(make_clip(), tmp_path / "out.mkv", model=model, steady="yes")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
