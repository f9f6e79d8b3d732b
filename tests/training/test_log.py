"""Means by hand, logs of killed runs, full disks, and event files read by TensorBoard's own reader."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vsr.errors import CheckpointError, InputError, OutputError, UsageError
from vsr.files import write_whole
from vsr.training import log as module
from vsr.training.log import COLUMNS, LOG, Averages, Log, Statistics, read_log, summarise, summary_table

HEADER = (
    "step,stage,stage_step,seconds,crops_per_second,learning_rate,generator_loss,mse,l1,charbonnier,content,"
    "total_variation,ping_pong,teacher,artefacts,adversarial,discriminator_loss,d_real,d_fake,content_gradient,"
    "adversarial_gradient,psnr_y,ssim_y,lpips,lpips_backbone\n"
)
COMMAS = HEADER.count(",")


def pretrain(step: int, mse: float = 0.5, **more: float | None) -> dict[str, float | str | None]:
    return {"step": step, "stage": "pretrain", "stage_step": step, "generator_loss": mse, "mse": mse, **more}


def test_averages() -> None:
    averages = Averages()
    assert averages.mean() == {}
    averages.add({"mse": torch.tensor(1.0), "content": torch.tensor(8.0)})
    averages.add({"mse": torch.tensor(2.0, requires_grad=True)})
    averages.add({"mse": torch.tensor(6.0, dtype=torch.float64)})
    assert averages.mean() == {"mse": 3.0, "content": 8.0}
    averages.add({"mse": torch.tensor(5.0)})
    assert averages.mean() == {"mse": 5.0}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_averages_keep_their_precision_and_their_own_memory(dtype: torch.dtype) -> None:
    averages = Averages()
    value = torch.tensor(1.0, dtype=dtype)
    averages.add({"mse": value})
    value.fill_(2)
    for _ in range(999):
        averages.add({"mse": value, "l1": torch.tensor(math.nan)})
    means = averages.mean()
    assert means["mse"] == pytest.approx(1.999)
    assert math.isnan(means["l1"])


def test_averages_do_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    for name in ("item", "tolist", "cpu", "__float__"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, real=real: (waits.append(1), real(self))[1])
    averages = Averages()
    averages.add({"mse": torch.tensor(1.0), "l1": torch.tensor(2.0)})
    averages.add({"mse": torch.tensor(1.0), "l1": torch.tensor(2.0)})
    assert waits == []
    averages.mean()
    assert waits == [1]


def test_averages_refuse_vectors() -> None:
    with pytest.raises(ValueError, match=r"0-d tensor for mse, got shape \(2,\)"):
        Averages().add({"mse": torch.zeros(2)})


def test_rows_reach_the_file_at_once(tmp_path: Path) -> None:
    with Log(tmp_path, step=0) as log:
        assert (tmp_path / LOG).read_text() == HEADER
        log.write(pretrain(100, 0.123456789, learning_rate=1e-4, psnr_y=None, seconds=1234567.5))
        expected = HEADER + "100,pretrain,100,1234568,,0.0001,0.1234568,0.1234568" + "," * (COMMAS - 7) + "\n"
        assert (tmp_path / LOG).read_text() == expected
    rows = read_log(tmp_path / LOG)
    assert len(rows) == 1 and rows.stages == ("pretrain",)
    assert rows["step"].tolist() == [100] and rows["mse"].tolist() == [0.1234568]
    assert math.isnan(rows["psnr_y"][0])
    assert set(rows.values) == set(COLUMNS) - {"stage", "lpips_backbone"}
    assert [path.name for path in tmp_path.iterdir()] == [LOG]


@pytest.mark.parametrize("step", [0, 199, 200, 250, 1000])
def test_resuming_removes_the_rows_after_the_checkpoint(tmp_path: Path, step: int) -> None:
    with Log(tmp_path, step=0) as log:
        for written in (100, 200, 300):
            log.write(pretrain(written, written / 7))
    before = (tmp_path / LOG).read_text().splitlines(keepends=True)
    kept = [100 * n for n in (1, 2, 3) if 100 * n <= step]
    with Log(tmp_path, step=step) as log:
        assert (tmp_path / LOG).read_text() == "".join(before[: 1 + len(kept)])
        log.write(pretrain(step + 100))
    assert read_log(tmp_path / LOG)["step"].tolist() == [*kept, step + 100]
    assert [path.name for path in tmp_path.iterdir()] == [LOG]


@pytest.mark.parametrize("torn", ["2", "200,pretrain,2", "200,pretrain" + "," * (COMMAS - 1), "\0\0\0"])
def test_an_incomplete_last_line_is_ignored(tmp_path: Path, torn: str) -> None:
    with Log(tmp_path, step=0) as log:
        log.write(pretrain(100))
    whole = (tmp_path / LOG).read_text()
    (tmp_path / LOG).write_text(whole + torn)
    assert read_log(tmp_path / LOG)["step"].tolist() == [100]
    with Log(tmp_path, step=300):
        assert (tmp_path / LOG).read_text() == whole


def test_an_empty_file_gets_its_header(tmp_path: Path) -> None:
    (tmp_path / LOG).touch()
    with Log(tmp_path, step=5):
        assert (tmp_path / LOG).read_text() == HEADER


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("step,loss\n1,0.5\n", "its columns differ"),
        (HEADER.rstrip(), "its columns differ"),
        (HEADER + "1,pretrain\n", "damaged in line 2"),
        (HEADER + "1,pretrain" + "," * (COMMAS - 1) + "\nx,pretrain" + "," * (COMMAS - 1) + "\n", "damaged in line 3"),
        (HEADER + "1,pretrain,1,1,fast" + "," * (COMMAS - 4) + "\n", "damaged in line 2"),
    ],
)
def test_a_file_that_is_not_a_log_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / LOG
    path.write_text(content)
    with pytest.raises(CheckpointError, match=complaint) as caught:
        Log(tmp_path, step=10)
    assert str(path) in str(caught.value) and "Move it away" in str(caught.value)
    assert path.read_text() == content
    with pytest.raises(InputError, match=complaint):
        read_log(path)


def test_a_log_from_before_the_last_columns_is_continued(tmp_path: Path) -> None:
    """Its LPIPS is on SqueezeNet, which it does not name."""
    older = HEADER.replace("content_gradient,adversarial_gradient,", "").replace(",lpips_backbone", "")
    line = ["100", "pretrain", *[""] * (COMMAS - 5), "0.25"]
    (tmp_path / LOG).write_text(older + ",".join(line) + "\n")
    with Log(tmp_path, step=100) as log:
        rows = read_log(tmp_path / LOG)
        assert rows["lpips"].tolist() == [0.25] and rows.lpips_backbone == "SqueezeNet"
        log.write(pretrain(200, lpips=0.5) | {"lpips_backbone": "AlexNet"})
    rows = read_log(tmp_path / LOG)
    assert rows["lpips"].tolist() == [0.25, 0.5] and rows.lpips_backbone == "AlexNet"


def test_a_missing_log_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the log .*No such file"):
        read_log(tmp_path / LOG)
    with pytest.raises(OutputError, match="cannot write .*No such file"):
        Log(tmp_path / "missing", step=0)
    (tmp_path / LOG).mkdir()
    with pytest.raises(OutputError, match="cannot read the log .*directory"):
        Log(tmp_path, step=0)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"step": 1, "stage": "pretrain", "speed": 3.0, "loss": 1.0}, "no column loss, speed"),
        ({"stage": "pretrain"}, "needs a step and a stage"),
        ({"step": 1, "stage": None}, "needs a step and a stage"),
    ],
)
def test_invalid_rows_are_refused(tmp_path: Path, row: dict[str, float | str | None], complaint: str) -> None:
    with Log(tmp_path, step=0) as log, pytest.raises(ValueError, match=complaint):
        log.write(row)
    assert (tmp_path / LOG).read_text() == HEADER


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_an_output_error(tmp_path: Path, leaves_nothing: None) -> None:
    with Log(tmp_path, step=0) as log:
        (tmp_path / LOG).unlink()
        (tmp_path / LOG).symlink_to("/dev/full")
        with pytest.raises(OutputError, match=r"cannot write the log .*log.csv: No space left on device\.$"):
            log.write(pretrain(100))


def test_the_old_log_survives_a_failed_rewrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="cannot write .*file: No space left on device"):
        write_whole(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def events_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = reader.EventAccumulator(str(folder))
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in tags}


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with Log(tmp_path, step=0, tensorboard=True) as log:
        log.write(pretrain(100, 0.5, learning_rate=0.25, psnr_y=28.5))
        assert events_of(tmp_path / "tensorboard")["loss/mse"] == [(100, 0.5)], "not before the log is closed"
        log.write(pretrain(200, 0.25, d_real=0.75, d_fake=0.125, crops_per_second=64.0))
        log.write(pretrain(201, 0.125))
        log.write(pretrain(300, 0.125))
    with Log(tmp_path, step=200, tensorboard=True) as log:
        log.write(pretrain(250, 2.0, lpips=0.5) | {"lpips_backbone": "AlexNet"})
    assert events_of(tmp_path / "tensorboard") == {
        "loss/generator_loss": [(100, 0.5), (200, 0.25), (250, 2.0)],
        "loss/mse": [(100, 0.5), (200, 0.25), (250, 2.0)],
        "rate/learning_rate": [(100, 0.25)],
        "rate/crops_per_second": [(200, 64.0)],
        "discriminator/d_real": [(200, 0.75)],
        "discriminator/d_fake": [(200, 0.125)],
        "quality/psnr_y": [(100, 28.5)],
        "quality/lpips_AlexNet": [(250, 0.5)],
    }
    assert read_log(tmp_path / LOG)["step"].tolist() == [100, 200, 250]


def test_tensorboard_shows_the_samples(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    strip = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    with Log(tmp_path, step=0, tensorboard=True) as log:
        for step in (100, 200):
            log.show(strip, step)
    with Log(tmp_path, step=100) as log:
        log.show(strip, 150)  # without event files nothing is done
    accumulator = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    shown = accumulator.Images("samples")
    assert [image.step for image in shown] == [100, 200]
    decoded = cv2.imdecode(np.frombuffer(shown[0].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded[..., ::-1], strip)


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install \"vsr-srgan\[tensorboard\]\"\.$"):
        Log(tmp_path, step=0, tensorboard=True)
    Log(tmp_path, step=0).close()


def test_event_files_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def add_scalar(self, *arguments: object) -> None:
            pass

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

        close = flush

    monkeypatch.setattr(module, "_open_tensorboard", lambda folder, step: Full())
    log = Log(tmp_path, step=0, tensorboard=True)
    with pytest.raises(OutputError, match="No space left on device"):
        log.write(pretrain(100))
    with pytest.raises(OutputError, match="tensorboard: No space left on device"):
        log.close()
    log.close()


def test_event_files_that_cannot_be_created(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").touch()
    with pytest.raises(OutputError, match="cannot write .*tensorboard"):
        Log(tmp_path, step=0, tensorboard=True)


@pytest.fixture
def three_stages(tmp_path: Path) -> Path:
    with Log(tmp_path, step=0) as log:
        log.write(pretrain(10, 4.0))
        log.write(pretrain(20, 1.0))
        log.write({"step": 30, "stage": "discriminator", "discriminator_loss": 1.5, "d_real": 0.625})
        for step, content in ((40, 0.25), (50, math.nan), (60, 0.75)):
            log.write({"step": step, "stage": "adversarial", "content": content, "psnr_y": 25.0})
    return tmp_path / LOG


def test_summary(three_stages: Path) -> None:
    summary = summarise(read_log(three_stages))
    assert list(summary) == ["pretrain", "discriminator", "adversarial"]
    assert summary["pretrain"] == {
        "generator_loss": Statistics(2.5, 1.5, 1.0, 1.0),
        "mse": Statistics(2.5, 1.5, 1.0, 1.0),
    }
    assert summary["discriminator"] == {
        "discriminator_loss": Statistics(1.5, 0.0, 1.5, 1.5),
        "d_real": Statistics(0.625, 0.0, 0.625, 0.625),
    }
    assert summary["adversarial"] == {"content": Statistics(0.5, 0.25, 0.25, 0.75)}


def test_summary_table(three_stages: Path) -> None:
    assert summary_table(summarise(read_log(three_stages))) == (
        "stage          quantity              mean    std    min   last\n"
        "pretrain       generator_loss       2.500  1.500  1.000  1.000\n"
        "               mse                  2.500  1.500  1.000  1.000\n"
        "discriminator  discriminator_loss   1.500  0.000  1.500  1.500\n"
        "               d_real              0.6250  0.000 0.6250 0.6250\n"
        "adversarial    content             0.5000 0.2500 0.2500 0.7500"
    )
    assert summary_table({}) == "stage  quantity  mean std min last"
