"""The benchmark measures every engine and precision, and stages that add up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from vsr.errors import UnknownModelError, UsageError
from vsr.machine import SIZES, STAGES, Speed, Stopwatch, bench
from vsr.pipeline.options import BenchOptions

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "cpu", 64)


def measured(**options: Any) -> list[Speed]:
    return list(bench(BenchOptions(**{"sizes": ((32, 16),), "seconds": 0.01, "device": "cpu", **options})))


def test_every_engine_and_precision_is_measured(tiny_weights: Path) -> None:
    speeds = measured(models=(str(tiny_weights),), sizes=((32, 16), (17, 21)))
    ways = [(speed.width, speed.engine.split()[0], speed.precision) for speed in speeds]
    assert {("torch", "fp32"), ("openvino", "fp32")} <= {way[1:] for way in ways}
    assert {("openvino", "int8"), ("torch", "fp16")}.isdisjoint(way[1:] for way in ways), "a model not calibrated"
    assert [way[0] for way in ways] == sorted((way[0] for way in ways), reverse=True)
    for speed in speeds:
        assert speed.frames >= 6 and speed.network_fps > 0 and speed.pipeline_fps > 0
        assert set(speed.milliseconds) == set(STAGES) and speed.milliseconds["network"] > 0
        assert speed.share_of_peak is not None and 0 < speed.share_of_peak < 100
        assert 0.01 < speed.efficiency < 100


def test_one_precision_without_an_encoder(tiny_weights: Path) -> None:
    (speed,) = measured(models=(str(tiny_weights),), engine="torch", precisions=("bf16",), codec="none", device=CPU)
    assert (speed.engine.split()[0], speed.precision, speed.device) == ("torch", "bf16", "cpu")
    assert speed.milliseconds["encode"] < 5


def test_no_file_is_left(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    measured(models=(str(tiny_weights),), engine="torch")
    assert not list(tmp_path.iterdir())


def test_models_without_weights(tmp_path: Path) -> None:
    speeds = measured(models=("bicubic",))
    assert [(speed.engine.split()[0], speed.precision) for speed in speeds] == [("torch", "fp32")]
    assert speeds[0].share_of_peak == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ()}, "name a model and a size"),
        ({"sizes": ()}, "name a model and a size"),
        ({"sizes": ((0, 5),)}, "at least 1 pixel"),
        ({"codec": "dirac"}, "the codec is none or one of h264, .*, got 'dirac'"),
        ({"seconds": 0}, "the seconds must be above 0"),
        ({"engine": "abacus"}, "engine is one of auto, torch, inductor, openvino, got 'abacus'"),
    ],
    ids=str,
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BenchOptions(**options)


def test_missing_models_and_precisions_are_errors(tiny_weights: Path) -> None:
    with pytest.raises(UnknownModelError):
        measured(models=("nonsense",))
    with pytest.raises(UsageError, match="needs a calibration"):
        measured(models=(str(tiny_weights),), precisions=("int8",))
    with pytest.raises(UsageError, match="has no such engine or precision to measure"):
        measured(models=(str(tiny_weights),), engine="openvino", precisions=("fp16",))


def test_a_stopwatch_adds_up() -> None:
    watch = Stopwatch(CPU)
    for _ in range(3):
        with watch("encode"):
            time.sleep(0.01)
    with pytest.raises(ZeroDivisionError), watch("decode"):
        assert 1 / 0
    assert 0.03 <= watch.seconds["encode"] < 1 and watch.seconds["decode"] < 0.01
