from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torchvision.models
from torch import Tensor, nn

from vsr.errors import InputError, UnknownModelError, UsageError, WeightsError
from vsr.evaluation.images import ImageProgress, ImageReport, ModelScore, evaluate_images, image_table
from vsr.evaluation.options import ImageEvalOptions
from vsr.evaluation.tables import to_csv, to_json, to_markdown, to_text
from vsr.imaging.metrics import psnr_rgb, psnr_y, ssim_rgb, ssim_y
from vsr.imaging.pictures import read_picture, write_picture
from vsr.imaging.resize import resize_as_matlab, resize_bicubic
from vsr.networks.lpips import load_lpips


@pytest.fixture(scope="session")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of SqueezeNet 1.1 that mean nothing."""
    from torchvision.models import squeezenet1_1

    path = tmp_path_factory.mktemp("squeezenet") / "squeezenet.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Three pictures, one of them grey, none a multiple of four; smooth, so that models differ."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, (height, width) in {"a": (41, 50), "b": (66, 37), "c": (43, 43)}.items():
        rough = random.integers(0, 256, (height // 5, width // 5, 3), np.uint8)
        write_picture(folder / f"{name}.png", cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC))
    cv2.imwrite(str(folder / "c.png"), read_picture(folder / "c.png")[..., 1])
    return folder


def options(*models: object, data: Path, **values: Any) -> ImageEvalOptions:
    return ImageEvalOptions(
        models=tuple(map(str, models)), data=(data,), **{"lpips": False, "device": "cpu", "tile_size": 0, **values}
    )


def only(report: ImageReport) -> ModelScore:
    (score,) = report.scores
    return score


def hr_of(path: Path, scale: int = 4) -> Tensor:
    hr = torch.from_numpy(read_picture(path)).permute(2, 0, 1)[None]
    return hr[..., : hr.shape[-2] // scale * scale, : hr.shape[-1] // scale * scale]


def enlarged(lr: Tensor, scale: int = 4) -> Tensor:
    sr = resize_bicubic(lr / 255, lr.shape[-2] * scale, lr.shape[-1] * scale)
    return sr.mul(255).round().clamp(0, 255) / 255


def bicubic_by_hand(path: Path, border: int, psnr: Callable[..., Tensor], ssim: Callable[..., Tensor]) -> list[float]:
    hr = hr_of(path)
    sr = enlarged(resize_as_matlab(hr, hr.shape[-2] // 4, hr.shape[-1] // 4))
    return [float(measure(sr.double(), hr.double() / 255, border=border)) for measure in (psnr, ssim)]


@pytest.mark.parametrize("border", [None, 0, 7])
@pytest.mark.parametrize("colour", ["y", "rgb"])
def test_bicubic_by_hand(photographs: Path, colour: str, border: int | None) -> None:
    report = evaluate_images(options("bicubic", data=photographs, colour=colour, border=border))
    measures = (psnr_y, ssim_y) if colour == "y" else (psnr_rgb, ssim_rgb)
    assert (report.scale, report.border) == (4, 4 if border is None else border)
    score = only(report)
    for picture, name in zip(score.pictures, ("a.png", "b.png", "c.png"), strict=True):
        assert picture.name == name
        assert [picture.psnr, picture.ssim] == pytest.approx(
            bicubic_by_hand(photographs / name, report.border, *measures), abs=1e-5
        )
    assert score.psnr == pytest.approx(sum(picture.psnr for picture in score.pictures) / 3, abs=1e-12)
    assert score.ssim == pytest.approx(sum(picture.ssim for picture in score.pictures) / 3, abs=1e-12)
    assert score.lpips is None and score.fid is None


def test_models_side_by_side_score_what_they_score_alone(photographs: Path, tiny_weights: Path) -> None:
    both = evaluate_images(options("bicubic", tiny_weights, data=photographs))
    assert [score.model for score in both.scores] == ["bicubic", str(tiny_weights)], "in the order asked for"
    for score in both.scores:
        alone = only(evaluate_images(options(score.model, data=photographs)))
        for mine, other in zip(score.pictures, alone.pictures, strict=True):
            assert (mine.name, mine.psnr, mine.ssim) == (other.name, other.psnr, other.ssim)
    assert both.scores[0].psnr != both.scores[1].psnr
    assert {model: words.split()[0::2] for model, words in both.arithmetic.items()} == {
        "bicubic": ["fp32", "torch"],
        str(tiny_weights): ["fp32", "openvino"],
    }


def test_lr_from_a_folder_counts(photographs: Path, tmp_path: Path) -> None:
    """LR as we would make it scores the same; worse LR scores worse."""
    made, worse = tmp_path / "made", tmp_path / "worse"
    for folder in (made, worse):
        folder.mkdir()
        for path in photographs.iterdir():
            hr = hr_of(path)
            lr = resize_as_matlab(hr, hr.shape[-2] // 4, hr.shape[-1] // 4)[0].permute(1, 2, 0).numpy()
            lr = lr if folder is made else 255 - lr
            write_picture(folder / f"{path.stem}x4.png", np.ascontiguousarray(lr))
    ours, read, bad = (
        only(evaluate_images(options("bicubic", data=photographs, lr=lr))) for lr in [(), (made,), (worse,)]
    )
    assert (read.psnr, read.ssim) == (ours.psnr, ours.ssim)
    assert bad.psnr < ours.psnr - 5
    assert (ours.lr, read.lr) == (None, made)


def test_the_scale_is_the_models_own(
    photographs: Path, tiny_generator: Callable[..., nn.Module], tmp_path: Path
) -> None:
    from vsr.networks.weights import save_network

    save_network(tmp_path / "x2.safetensors", tiny_generator(2), {})
    report = evaluate_images(options("bicubic", tmp_path / "x2.safetensors", data=photographs))
    assert (report.scale, report.border) == (2, 2)
    report = evaluate_images(options("bicubic", data=photographs, scale=3))
    assert (report.scale, report.border) == (3, 3)


def test_the_identity_is_perfect(photographs: Path, squeezenet: Path) -> None:
    asked = options("identity", data=photographs, lpips=True, lpips_weights=squeezenet)
    report = evaluate_images(asked, fid_extractor=Brightness())
    score = only(report)
    assert report.scale == 1
    assert (score.psnr, score.ssim, score.lpips) == (math.inf, pytest.approx(1), 0)
    assert score.fid == pytest.approx(0, abs=1e-4)


def test_lpips_is_over_whole_pictures(photographs: Path, squeezenet: Path) -> None:
    report = evaluate_images(options("bicubic", data=photographs, lpips=True, lpips_weights=squeezenet, border=8))
    lpips = load_lpips(squeezenet)
    for picture in only(report).pictures:
        hr = hr_of(photographs / picture.name)
        sr = enlarged(resize_as_matlab(hr, hr.shape[-2] // 4, hr.shape[-1] // 4))
        assert picture.lpips == pytest.approx(float(lpips(sr, hr / 255)), rel=1e-4)


class Brightness(nn.Module):
    """Mean of each channel."""

    def forward(self, picture: Tensor) -> Tensor:
        assert picture.dtype == torch.uint8
        return picture.double().mean((2, 3))


def test_fid_of_a_given_extractor(photographs: Path) -> None:
    report = evaluate_images(options("bicubic", data=photographs), fid_extractor=Brightness())
    assert report.fid_features == "Brightness"
    features = []
    for path in sorted(photographs.iterdir()):
        hr = hr_of(path)
        sr = enlarged(resize_as_matlab(hr, hr.shape[-2] // 4, hr.shape[-1] // 4)) * 255
        features.append([image.double().mean((0, 2, 3)).numpy() for image in (hr, sr)])
    real, fake = (np.array(each) for each in zip(*features, strict=True))
    eigenvalues = np.linalg.eigvals(np.cov(real.T) @ np.cov(fake.T))
    expected = ((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(np.cov(real.T)) + np.trace(np.cov(fake.T))
    expected -= 2 * np.sqrt(eigenvalues.astype(complex)).real.sum()
    assert only(report).fid == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_fid_compares_sets(photographs: Path) -> None:
    for path in sorted(photographs.iterdir())[1:]:
        path.unlink()
    with pytest.raises(InputError, match="photographs holds one picture; FID compares sets of at least two"):
        evaluate_images(options("bicubic", data=photographs), fid_extractor=Brightness())


def test_progress_counts_all_folders(photographs: Path) -> None:
    seen: list[ImageProgress] = []
    asked = ImageEvalOptions(models=("bicubic",), data=(photographs, photographs), lpips=False, device="cpu")
    evaluate_images(asked, seen.append)
    assert [(at.done, at.total) for at in seen] == [(number, 6) for number in range(1, 7)]
    assert [at.picture.name for at in seen] == ["a.png", "b.png", "c.png"] * 2


def test_a_device_of_torchs(photographs: Path) -> None:
    device = torch.device("cpu")
    asked = ImageEvalOptions(models=("bicubic",), data=(photographs,), lpips=False, device=device)
    assert asked.device == "cpu" and evaluate_images(asked).device.startswith("cpu")


def test_what_it_costs_is_told(photographs: Path) -> None:
    report = evaluate_images(options("bicubic", data=photographs))
    for picture in only(report).pictures:
        assert picture.seconds > 0
        assert picture.memory_bytes is None or picture.memory_bytes >= 0
    assert report.device.startswith("cpu (") and "resident memory" in report.memory_measure


def test_a_table_of_means(photographs: Path, tiny_weights: Path) -> None:
    report = evaluate_images(options("bicubic", tiny_weights, data=photographs))
    table = image_table(report)
    names = [column.name for column in table.columns]
    assert names == ["data", "pictures", "model", "PSNR-Y", "SSIM-Y", "seconds", "memory"]
    assert [(row["data"], row["pictures"], row["model"]) for row in table.rows] == [
        ("photographs", 3, "bicubic"),
        ("photographs", 3, str(tiny_weights)),
    ]
    assert table.rows[0]["PSNR-Y"] == report.scores[0].psnr
    assert table.about["scale"] == 4 and "a border of 4 pixels" in table.about["PSNR and SSIM"]
    assert table.about["LR"].startswith("made from HR as by MATLAB's imresize")


def test_a_table_of_pictures(photographs: Path, tiny_weights: Path) -> None:
    report = evaluate_images(options("bicubic", tiny_weights, data=photographs, colour="rgb"))
    table = image_table(report, per_picture=True)
    assert [row["picture"] for row in table.rows] == [
        name for name in ("a.png", "b.png", "c.png", "mean of 3") for _ in range(2)
    ]
    assert [row["model"] for row in table.rows] == ["bicubic", str(tiny_weights)] * 4
    assert table.rows[2]["PSNR-RGB"] == report.scores[0].pictures[1].psnr
    assert table.rows[-1]["SSIM-RGB"] == report.scores[1].ssim
    assert table.group_by == ("data", "picture")


def test_folders_of_one_name_are_told_apart(photographs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "photographs"
    other.parent.mkdir()
    photographs.rename(other)
    photographs.mkdir()
    write_picture(photographs / "x.png", read_picture(other / "a.png"))
    asked = ImageEvalOptions(models=("bicubic",), data=(photographs, other), lpips=False, device="cpu")
    table = image_table(evaluate_images(asked))
    assert [(row["data"], row["pictures"]) for row in table.rows] == [(str(photographs), 1), (str(other), 3)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"models": ()}, "name a model to measure with models"),
        ({"data": ()}, "name a folder of HR pictures with data"),
        ({"models": ("bicubic", "bicubic")}, "the model 'bicubic' is named twice"),
        ({"lr": (Path("a"), Path("b"))}, "got 1 of data and 2 of lr"),
        ({"scale": 0}, "the scale must be at least 1, got 0"),
        ({"border": -1}, "the border must not be negative, got -1"),
        ({"tile_size": -1}, "the tile size must not be negative, got -1"),
        ({"colour": "cmyk"}, "colour is one of y, rgb, got 'cmyk'"),
        ({"fid": "vgg"}, "fid is one of none, inception, got 'vgg'"),
        ({"precision": "fp64"}, "precision is one of auto, fp32, fp16, bf16, int8, got 'fp64'"),
    ],
)
def test_options_that_cannot_be(values: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"models": ("bicubic",), "data": (Path("hr"),)}
    with pytest.raises(UsageError) as caught:
        ImageEvalOptions(**{**good, **values})
    assert words in str(caught.value)


def test_all_contradictions_at_once() -> None:
    with pytest.raises(UsageError, match="name a model.*; name a folder.*; the scale must.*; the border must"):
        ImageEvalOptions(models=(), data=(), scale=0, border=-1)


def test_requests_that_cannot_be(photographs: Path, tiny_weights: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    write_picture(small / "s.png", np.zeros((18, 40, 3), np.uint8))
    for asked, error, words in [
        (options("nope", data=photographs), UnknownModelError, "there is no model 'nope'"),
        (options(tiny_weights, "identity", data=photographs), UsageError, "upscales by 1, not by 4"),
        (options(tiny_weights, data=photographs, scale=2), UsageError, "upscales by 4, not by 2"),
        (options("bicubic", data=photographs, device="tpu"), UsageError, "no device is called 'tpu'"),
        (options("bicubic", data=tmp_path / "no"), InputError, "cannot read the folder"),
        (options("bicubic", data=small), InputError, r"s\.png has 40x18 pixels; at least 19 each way"),
        (options("bicubic", data=small, border=4, lpips=True), InputError, "at least 19 each way"),
        (options("bicubic", data=small, border=0, scale=2, fid="inception"), InputError, "holds one picture"),
        (options("bicubic", data=photographs, border=16), InputError, r"a\.png has 50x41 pixels; at least 43 each"),
        (options("bicubic", data=photographs, lr=(small,)), InputError, "3 in .* without LR: a.png, b.png, c.png; 1"),
    ]:
        with pytest.raises(error, match=words):
            evaluate_images(asked)
    assert only(evaluate_images(options("bicubic", data=small, border=0))).psnr == math.inf


def test_lpips_without_weights_and_network(photographs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*arguments: object, **keywords: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(WeightsError) as caught:
        evaluate_images(options("bicubic", data=photographs, lpips=True))
    message = str(caught.value)
    assert "cannot download the weights of SqueezeNet for LPIPS" in message and "(no network)" in message
    assert "give a file with lpips_weights" in message and message.endswith("lpips=False leaves LPIPS out.")
    with pytest.raises(WeightsError, match="cannot read the weights"):
        evaluate_images(options("bicubic", data=photographs, lpips=True, lpips_weights=tmp_path / "no.pth"))


def test_bicubic_on_set5_has_its_published_figures(shared_data: Path) -> None:
    """With MATLAB's LR, and with ours, which are the same."""
    test = shared_data / "test"
    for lr in ((test / "Set5_LRx4_matlab",), ()):
        report = evaluate_images(
            options(
                "bicubic",
                data=test / "Set5",
                lr=lr,
                lpips=True,
                lpips_weights=shared_data / "weights/squeezenet1_1.pth",
                tile_size=None,
            )
        )
        score = only(report)
        assert len(score.pictures) == 5
        assert score.psnr == pytest.approx(28.43, abs=0.01)
        assert score.ssim == pytest.approx(0.8113, abs=0.0005)
        assert score.lpips == pytest.approx(0.2875, abs=0.001)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu(photographs: Path, tiny_weights: Path, squeezenet: Path) -> None:
    asked = {"data": photographs, "lpips": True, "lpips_weights": squeezenet, "precision": "fp32"}
    models = ("bicubic", tiny_weights)
    cpu, cuda = (evaluate_images(options(*models, **asked, device=device)) for device in ("cpu", "cuda"))
    assert "max_memory_allocated" in cuda.memory_measure and cuda.device.startswith("cuda (")
    for ours, theirs in zip(cpu.scores, cuda.scores, strict=True):
        assert theirs.psnr == pytest.approx(ours.psnr, abs=0.01)
        assert theirs.ssim == pytest.approx(ours.ssim, abs=1e-4)
        assert theirs.lpips == pytest.approx(ours.lpips, rel=0.01)
        assert theirs.memory_bytes is not None and theirs.memory_bytes > 0


@pytest.mark.parametrize(("chosen", "name"), [("squeeze", "SqueezeNet"), ("alex", "AlexNet")])
def test_lpips_is_called_by_its_backbone(photographs: Path, tmp_path: Path, chosen: Any, name: str) -> None:
    """In headings and notes; the key of the value stays."""
    build = {"squeeze": torchvision.models.squeezenet1_1, "alex": torchvision.models.alexnet}[chosen]
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in build(weights=None).features.state_dict().items()}
    torch.save({f"features.{key}": torch.randn(shape) / 10 for key, shape in shapes.items()}, tmp_path / "backbone.pth")
    asked = options("bicubic", data=photographs, lpips=chosen, lpips_weights=tmp_path / "backbone.pth")
    table = image_table(evaluate_images(asked))
    assert f" LPIPS ({name}) " in to_text(table) and f"LPIPS: version 0.1 on {name}" in to_text(table)
    assert f"| LPIPS ({name}) |" in to_markdown(table)
    assert to_csv(table).splitlines()[0].split(",").count("LPIPS") == 1
    stored = json.loads(to_json(table))
    assert [column["by"] for column in stored["columns"] if column["name"] == "LPIPS"] == [name]
    assert stored["rows"][0]["LPIPS"] > 0


def test_true_and_false_still_choose_lpips() -> None:
    assert options("bicubic", data=Path("x"), lpips=True).lpips == "squeeze"
    assert options("bicubic", data=Path("x"), lpips=False).lpips == "none"
