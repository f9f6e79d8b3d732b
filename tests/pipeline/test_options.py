"""Options of a job: every contradiction, with its message."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from vsr.errors import UsageError
from vsr.media.formats import CODECS
from vsr.networks.weights import DEFAULT_MODEL, model_covering
from vsr.pipeline.options import UpscaleOptions


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": 0.0}, "the scale must be positive and finite, got 0.0"),
        ({"scale": float("nan")}, "the scale must be positive and finite, got nan"),
        ({"scale": float("inf")}, "the scale must be positive and finite, got inf"),
        ({"precision": "int4"}, "precision is one of auto, fp32, fp16, bf16, int8, got 'int4'"),
        ({"tile_size": -1}, "the tile size must not be negative, got -1"),
        ({"batch_size": 0}, "the batch size must be at least 1, got 0"),
        ({"codec": "h264", "crf": 52}, r"the crf of h264 lies in 0\.\.51, got 52"),
        ({"codec": "vp9", "crf": 64}, r"the crf of vp9 lies in 0\.\.63, got 64"),
        ({"codec": "prores", "crf": 5}, "prores has no crf; set its own options with encoder"),
        ({"codec": "libx264rgb", "crf": 5}, "libx264rgb has no crf; set its own options with encoder"),
        ({"codec": "h264", "preset": "warp"}, "h264 has no preset 'warp': use ultrafast, "),
        ({"codec": "ffv1", "preset": "fast"}, "ffv1 has no preset; set its own options with encoder"),
        ({"size": (64, 0)}, r"sizes must be at least 1 pixel, got \(64, 0\)"),
        ({"height": 0}, "sizes must be at least 1 pixel, got 0"),
        ({"height": -3}, "sizes must be at least 1 pixel, got -3"),
        ({"scale": 2.0, "height": 100}, "scale, size and height exclude each other"),
        ({"size": (64, 48), "height": 100}, "scale, size and height exclude each other"),
        ({"start": Fraction(-1)}, "the start must not be negative, got -1"),
        ({"end": Fraction(0)}, "the end must be after the start, got 0 to 0"),
        ({"start": Fraction(3, 2), "end": Fraction(3, 2)}, r"the end must be after the start, got 1\.5 to 1\.5"),
        ({"fps": Fraction(0)}, "fps must be above 0 and at most 1000, as a ratio"),
        ({"fps": Fraction(1001)}, "fps must be above 0 and at most 1000, as a ratio"),
        ({"max_pixels": 0}, "max_pixels lies in 1..2147483647, got 0"),
        ({"max_pixels": 2**31}, "max_pixels lies in 1..2147483647, got 2147483648"),
        ({"start": Fraction(10**20)}, "start and end must be at most 1000000000 seconds"),
        ({"fps": Fraction(10**7, 10**5 + 1)}, "as a ratio of numbers up to a million"),
        ({"jobs": 0}, "jobs must be at least 1, and one for each device, got 0"),
        ({"jobs": 1, "device": "cuda:0,cuda:1"}, "jobs must be at least 1, and one for each device, got 1"),
        ({"device": "cpu,cpu"}, "devices are named once each, between commas, got 'cpu,cpu'"),
        ({"device": "cuda:0,"}, "devices are named once each, between commas, got 'cuda:0,'"),
        ({"deinterlace": "maybe"}, "deinterlace is one of auto, yes, no, got 'maybe'"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        UpscaleOptions(**values)  # type: ignore[arg-type]


def test_a_torch_device_becomes_text() -> None:
    options = UpscaleOptions(device=torch.device("cpu"))  # type: ignore[arg-type]
    assert options == UpscaleOptions(device="cpu") and options.to_dict()["device"] == "cpu"


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(UsageError, match="the scale .*; the batch size .*; the crf "):
        UpscaleOptions(scale=-1, batch_size=0, codec="h264", crf=99)


def test_encoder_options_hold_only_what_was_chosen() -> None:
    assert UpscaleOptions().encoder_options(CODECS["h264"]) == {}
    chosen = UpscaleOptions(crf=0, preset="4", encoder={"lag-in-frames": "0", "crf": "7"})
    assert chosen.encoder_options(CODECS["vp9"]) == {"crf": "7", "cpu-used": "4", "lag-in-frames": "0"}


def test_the_default_model_is_the_shipped_one() -> None:
    assert model_covering(UpscaleOptions().model, None) == DEFAULT_MODEL


@pytest.mark.parametrize(
    ("values", "devices", "workers"),
    [
        ({}, ("auto",), 1),
        ({"jobs": 3}, ("auto",), 3),
        ({"device": "cuda:0,cuda:1"}, ("cuda:0", "cuda:1"), 2),
        ({"device": torch.device("cuda", 1)}, ("cuda:1",), 1),
        ({"device": "cuda:0,cuda:1", "jobs": 4}, ("cuda:0", "cuda:1"), 4),
    ],
)
def test_a_worker_for_each_device(values: dict[str, object], devices: tuple[str, ...], workers: int) -> None:
    options = UpscaleOptions(**values)  # type: ignore[arg-type]
    assert (options.devices, options.num_workers) == (devices, workers)
