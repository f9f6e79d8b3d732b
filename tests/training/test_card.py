"""The metadata of the weights of a run, and its card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vsr.errors import OutputError
from vsr.training.launch import launch
from vsr.training.log import Log
from vsr.training.options import TrainOptions
from vsr.training.recipes import override
from vsr.training.report import RunDetails, hardware, weights_metadata, write_card
from vsr.training.step import Quality, TrainState
from vsr.training.trainer import train

DETAILS = RunDetails(
    pictures=900, held_out=16, layout="COCO", fingerprint="0123456789abcdef", hardware="2 x NVIDIA A100"
)


def texts(options: TrainOptions, quality: Quality | None = None) -> dict[str, str]:
    """The metadata of a run at step 8 of the adversarial stage."""
    state = launch(state_of_run, options, print, lambda: False)
    return weights_metadata(state, options, DETAILS, quality)


def state_of_run(fabric: object, options: TrainOptions, report: object, stop: object) -> TrainState:
    return TrainState(fabric, options.recipe, options.seed, None, None, stage="adversarial", step=8)  # type: ignore[arg-type]


def test_metadata_of_a_weights_file(options: TrainOptions) -> None:
    options = replace(options, seed=3, licence="CC BY 4.0", command="vsr train --data a", precision="bf16")
    options = replace(options, data=(Path("/x/coco"), Path("y/more.zip")))
    found = texts(options, Quality(27.5, 0.75, None))
    training = json.loads(found.pop("training"))
    assert found == {
        "purpose": "x4, trained by vsr train, at step 8 in the stage adversarial",
        "recipe": "nobody",
        "licence": "CC BY 4.0",
        "data": "coco, more.zip (COCO, 900 pictures)",
        "command": "vsr train --data a",
    }
    assert training == {
        "stage": "adversarial",
        "step": 8,
        "seed": 3,
        "crops": "2 of 16x16",
        "generator": "srgan, 1 blocks of 4 channels",
        "degradation": "bicubic",
        "unit": "steps",
        "stages": {
            "pretrain": "3 at 0.001, constant: 1 mse",
            "discriminator": "2 at 0.001, constant",
            "adversarial": "3 at 0.001, constant: 1 mse + 0.01 adversarial",
        },
        "pictures": 900,
        "held_out": 16,
        "precision": "bf16",
        "hardware": "2 x NVIDIA A100",
        "quality": {"psnr_y": 27.5, "ssim_y": 0.75, "lpips": None, "lpips_backbone": None},
    }


def test_only_stages_with_a_length_are_listed_with_their_layers(options: TrainOptions) -> None:
    recipe = override(options.recipe, pretrain_length=0, adversarial_content=0.5, adversarial_content_layer="conv2_2")
    stages = json.loads(texts(replace(options, recipe=recipe))["training"])["stages"]
    assert stages == {
        "discriminator": "2 at 0.001, constant",
        "adversarial": "3 at 0.001, constant: 1 mse + 0.5 content (conv2_2) + 0.01 adversarial",
    }


def test_a_card(options: TrainOptions, tmp_path: Path) -> None:
    log = Log(tmp_path, step=0)
    log.write({"step": 4, "stage": "pretrain", "mse": 0.1})
    log.write({"step": 5, "stage": "pretrain", "psnr_y": 25.126, "ssim_y": 0.71239, "lpips": None})
    log.write({"step": 8, "stage": "adversarial", "psnr_y": 24, "ssim_y": 0.7, "lpips": 0.12345})
    write_card(tmp_path, texts(replace(options, licence="CC0")), DETAILS)
    name = options.data[0].name
    assert (tmp_path / "card.md").read_text().splitlines() == [
        f"## {tmp_path.name}",
        "",
        "x4, trained by vsr train, at step 8 in the stage adversarial.",
        "",
        "| | |",
        "|---|---|",
        f"| data | {name} (COCO, 900 pictures) |",
        "| licence | CC0 |",
        "| generator | srgan, 1 blocks of 4 channels |",
        "| LR | antialiased bicubic, rounded to 8 bits |",
        "| crops | 2 of 16x16 |",
        "| pretrain | 3 at 0.001, constant: 1 mse (steps) |",
        "| discriminator | 2 at 0.001, constant (steps) |",
        "| adversarial | 3 at 0.001, constant: 1 mse + 0.01 adversarial (steps) |",
        "| follows | nobody |",
        "| command | from Python |",
        "| seed | 0 |",
        "| hardware | 2 x NVIDIA A100 |",
        "",
        "Measured during training on 16 held-out pictures:",
        "",
        "| step | stage | PSNR-Y | SSIM-Y | LPIPS (SqueezeNet) |",
        "|---|---|---|---|---|",
        "| 5 | pretrain | 25.13 dB | 0.7124 |  |",
        "| 8 | adversarial | 24.00 dB | 0.7000 | 0.1235 |",
    ]


@pytest.mark.parametrize(("count", "steps"), [(12, [*range(12)]), (13, [*range(0, 13, 2)]), (30, [*range(2, 30, 3)])])
def test_a_long_run_shows_some_of_its_measurements_and_the_last(
    options: TrainOptions, tmp_path: Path, count: int, steps: list[int]
) -> None:
    log = Log(tmp_path, step=0)
    for step in range(count):
        log.write({"step": step, "stage": "pretrain", "psnr_y": 20, "ssim_y": 0.5})
    recipe = override(options.recipe, degradation="video", unit="epochs")
    write_card(tmp_path, texts(replace(options, recipe=recipe, command="vsr train")), DETAILS)
    lines = (tmp_path / "card.md").read_text().splitlines()
    assert [int(line.split("|")[1]) for line in lines if "dB" in line] == steps
    assert "| LR | blurred, reduced, noise, video codecs |" in lines and "| command | `vsr train` |" in lines
    assert "| discriminator | 2 at 0.001, constant (epochs) |" in lines


@pytest.mark.usefixtures("quick")
def test_the_card_of_a_run(options: TrainOptions) -> None:
    summary = train(options)
    card = (options.output / "card.md").read_text()
    assert summary.quality is not None and summary.quality.lpips is not None
    quality = summary.quality
    last = f"| 8 | adversarial | {quality.psnr_y:.2f} dB | {quality.ssim_y:.4f} | {quality.lpips:.4f} |"
    assert card.splitlines()[-1] == last and "| 3 | pretrain |" in card
    assert "Measured during training on 1 held-out pictures:" in card
    assert f"| hardware | {hardware(torch.device('cpu'), 1)} |" in card


def test_a_card_that_cannot_be_written_is_an_output_error(options: TrainOptions, tmp_path: Path) -> None:
    Log(tmp_path, step=0).close()
    (tmp_path / "card.md").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*card\.md"):
        write_card(tmp_path, texts(options), DETAILS)


def test_hardware_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    named = hardware(torch.device("cpu"), 1)
    assert named.endswith(f", {torch.get_num_threads()} threads") and len(named) > len(", 1 threads")
    assert hardware(torch.device("cpu"), 2) == f"2 x {named}"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    assert hardware(torch.device("cuda"), 1) == "NVIDIA A100"
    assert hardware(torch.device("cuda"), 4) == "4 x NVIDIA A100"


def test_markup_in_names_is_escaped(options: TrainOptions, tmp_path: Path) -> None:
    output = tmp_path / "run|<b>"
    output.mkdir()
    Log(output, step=0)
    data = (Path("photos|`x`\n<script>"),)
    write_card(output, texts(replace(options, data=data, licence="[CC0](x)|", command="vsr train `a|b`")), DETAILS)
    lines = (output / "card.md").read_text().splitlines()
    assert lines[0] == r"## run\|&lt;b&gt;"
    assert r"| data | photos\|\`x\` &lt;script&gt; (COCO, 900 pictures) |" in lines
    assert r"| licence | [CC0\](x)\| |" in lines
    assert r"| command | `` vsr train `a\|b` `` |" in lines
