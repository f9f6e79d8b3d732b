"""Whole clips on a CUDA device: deep planes survive the round trip, and a resumed job equals an uninterrupted one."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

import vsr
from vsr.pipeline.journal import job_folder_of

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("leaves_nothing"),
]

MakeClip = Callable[..., Path]
LONG = {"pts": range(0, 24_000, 500), "time_base": Fraction(1, 1000)}
"""48 frames of half a second, in 5 segments."""


class Stop(Exception):
    """Ends a job."""


def planes(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [b"".join(map(bytes, frame.planes)) for frame in container.decode(video=0)]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv444p16le", "gbrp16le", "yuva444p16le", "gray16le"])
def test_planes_survive_the_round_trip(pix_fmt: str, make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("in.mkv", pix_fmt=pix_fmt, codec="ffv1", pts=range(0, 400, 40))
    target = vsr.upscale(clip, tmp_path / "out.mkv", model="identity", codec="ffv1", device="cuda").target
    assert planes(target) == planes(clip) and len(planes(clip)) == 10


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p16le"])
def test_float32_equals_that_of_the_cpu(
    pix_fmt: str, make_clip: MakeClip, tmp_path: Path, tiny_weights: Path
) -> None:
    """Within one code of 8 bits, for values between two codes, and within two of 16 bits."""
    clip = make_clip("in.mkv", pix_fmt=pix_fmt, codec="ffv1", pts=range(0, 400, 40))
    asked: dict[str, Any] = {"model": str(tiny_weights), "engine": "torch", "precision": "fp32", "codec": "ffv1"}
    both = [
        b"".join(planes(vsr.upscale(clip, tmp_path / f"{device}.mkv", device=device, **asked).target))
        for device in ("cpu", "cuda")
    ]
    dtype = np.uint8 if pix_fmt == "yuv420p" else np.dtype("<u2")
    ours, theirs = (np.frombuffer(content, dtype).astype(int) for content in both)
    assert len(ours) == len(theirs) and np.abs(ours - theirs).max() <= (1 if pix_fmt == "yuv420p" else 2)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_job_resumed_on_the_same_card_equals_an_uninterrupted_one(
    precision: str, make_clip: MakeClip, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("vsr.pipeline.segment.QUEUE_BYTES", 1)  # so that it is known how far a stopped job came
    clip, target = make_clip(**LONG), tmp_path / "out.mkv"
    asked: dict[str, Any] = {"model": str(tiny_weights), "device": "cuda", "precision": precision, "codec": "ffv1"}
    whole = vsr.upscale(clip, tmp_path / "whole.mkv", **asked).target

    def stop(_: object) -> None:
        if len(list(job_folder_of(target).glob("[0-9]*"))) >= 2:
            raise Stop

    with pytest.raises(Stop):
        vsr.upscale(clip, target, progress=stop, **asked)
    assert vsr.upscale(clip, target, **asked).resumed >= 18
    assert planes(target) == planes(whole) and len(planes(whole)) == 48
    assert not caplog.records, "the card is of the kind that it was"
