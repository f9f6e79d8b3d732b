"""Options of a job: every contradiction, with its message."""

from __future__ import annotations

import pytest

from vsr.errors import UsageError
from vsr.networks.weights import DEFAULT_MODEL
from vsr.pipeline.options import UpscaleOptions


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": 0.0}, "the scale must be positive and finite, got 0.0"),
        ({"scale": float("nan")}, "the scale must be positive and finite, got nan"),
        ({"scale": float("inf")}, "the scale must be positive and finite, got inf"),
        ({"audio": "aac"}, "audio is one of copy, none, got 'aac'"),
        ({"precision": "int8"}, "precision is one of auto, fp32, fp16, bf16, got 'int8'"),
        ({"tile_size": -1}, "the tile size must not be negative, got -1"),
        ({"batch_size": 0}, "the batch size must be at least 1, got 0"),
        ({"codec": "h263"}, "no codec is called 'h263': take h264"),
        ({"crf": 52}, r"the crf of h264 lies in 0..51, got 52"),
        ({"preset": "warp"}, "h264 has no preset 'warp': take ultrafast, "),
    ],
)
def test_wrong_values(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        UpscaleOptions(**values)  # type: ignore[arg-type]


def test_all_are_reported_at_once() -> None:
    with pytest.raises(UsageError, match="the scale .*; the batch size .*; the crf "):
        UpscaleOptions(scale=-1, batch_size=0, crf=99)


def test_encoder_options_hold_only_what_was_chosen() -> None:
    assert UpscaleOptions().encoder_options == {}
    assert UpscaleOptions(crf=0, preset="fast").encoder_options == {"crf": "0", "preset": "fast"}


def test_the_default_model_is_the_shipped_one() -> None:
    assert UpscaleOptions().model == DEFAULT_MODEL
