"""A run on clips from end to end: it learns, continues exactly, writes its metadata, and is refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from vsr.errors import UsageError, WeightsError
from vsr.networks.generator import Generator
from vsr.networks.recurrent import RecurrentGenerator
from vsr.networks.weights import find_partner, load_network, read_info, save_network
from vsr.training.batches import ClipBatches, load_clips
from vsr.training.log import COLUMNS_OF_PICTURES, read_log
from vsr.training.options import TrainOptions
from vsr.training.recipes import RECIPES, Recipe, Stage, override
from vsr.training.step import ClipBatch, find_shift, measure, upscale_clips
from vsr.training.trainer import TrainProgress, centre_recurrent, train

pytestmark = pytest.mark.usefixtures("quick")

TINY = override(
    RECIPES["video-recurrent"],
    follows="nobody",
    pretrain=Stage(length=4, learning_rate=1e-3, charbonnier=1.0),
    discriminator=Stage(length=2, learning_rate=1e-3),
    adversarial=Stage(length=4, learning_rate=1e-3, charbonnier=1.0, ping_pong=0.1, adversarial=1e-2),
    blocks=1,
    channels=4,
    discriminator_channels=4,
    frames=3,
    long_frames=4,
    long_share=0.5,
    ema_decay=0.5,
    batch_size=2,
    crop_size=20,
    clip_clean=1.0,
)


@pytest.fixture
def options(tmp_path: Path, photographs: Path) -> TrainOptions:
    """A tiny run on clips of the photographs, without compression."""
    return TrainOptions(data=(photographs,), output=tmp_path / "run", recipe=TINY, device="cpu", log_every=1)


def checkpoint(output: Path) -> dict[str, Any]:
    state = torch.load(output / "checkpoint.pt", weights_only=True)
    assert isinstance(state, dict)
    return state


def tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, (dict, list, tuple)):
        for part in state.values() if isinstance(state, dict) else state:
            yield from tensors(part)


def assert_same_end(one: Path, other: Path) -> None:
    first, second = (list(tensors(checkpoint(folder))) for folder in (one, other))
    assert len(first) == len(second) > 50
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for name in ("generator", "pretrain", "discriminator"):
        a, b = (load_file(folder / f"{name}.safetensors") for folder in (one, other))
        assert all(torch.equal(a[key], b[key]) for key in a), name


def test_a_run_of_three_stages(options: TrainOptions) -> None:
    summary = train(options)
    assert (summary.stage, summary.steps, summary.stopped) == ("adversarial", 10, False)
    assert summary.quality is not None and 5 < summary.quality.psnr_y < 60 and summary.quality.lpips is not None
    assert set(summary.losses["pretrain"]) == {"generator_loss", "charbonnier"}
    assert set(summary.losses["adversarial"]) == {
        *("generator_loss", "charbonnier", "ping_pong", "adversarial", "discriminator_loss", "d_real", "d_fake")
    }
    assert all(torch.isfinite(tensor).all() for tensor in tensors(checkpoint(options.output)))
    assert (options.output / "samples" / "step-0000010.png").exists()
    with Image.open(options.output / "samples" / "step-0000010.png") as strip:
        assert strip.width > 4 * 20

    info = read_info(summary.weights)
    assert info.architecture == "recurrent"
    assert info.config == {"scale": 4, "blocks": 1, "channels": 4, "aligned": True}
    training = json.loads(info.about["training"])
    assert training["generator"] == "recurrent, 1 blocks of 4 channels, its state moved along the motion"
    assert training["crops"] == "2 clips of 20x20, 3 frames each, at the end of a stage 4"
    card = (options.output / "card.md").read_text()
    assert training["generator"] in card and training["crops"] in card and "the last frames of 1 held-out clips" in card
    assert isinstance(load_network(summary.weights), RecurrentGenerator)
    assert find_partner(str(summary.weights)) == options.output / "pretrain.safetensors"


@pytest.mark.parametrize("stop", [2, 5, 8])
def test_a_run_stopped_at_any_update_resumes_as_if_uninterrupted(
    options: TrainOptions, tmp_path: Path, stop: int
) -> None:
    whole = replace(options, output=tmp_path / "whole")
    train(whole)
    done = [0]
    train(options, progress=lambda at: done.append(at.step), should_stop=lambda: done[-1] + 1 >= stop)
    assert checkpoint(options.output)["step"] == stop
    train(replace(options, resume=True))
    assert_same_end(options.output, whole.output)


def test_clips_are_longer_at_the_end_of_a_stage(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool, bool]] = []
    from vsr.training import trainer

    original = trainer.update_clips

    def keep(state: Any, clips: ClipBatch, rate: float) -> dict[str, Tensor]:
        seen.append((clips.lr.shape[1], clips.before is not None, clips.after is not None))
        return original(state, clips, rate)

    monkeypatch.setattr(trainer, "update_clips", keep)
    train(options)
    lengths = [3, 3, 4, 4, 3, 4, 3, 3, 4, 4]
    assert seen == [(frames, True, number >= 4) for number, frames in enumerate(lengths)]


def test_training_brings_the_loss_down(options: TrainOptions) -> None:
    recipe = override(options.recipe, pretrain_length=60, batch_size=4, pretrain_learning_rate=3e-3)
    losses: list[float] = []
    train(
        replace(options, recipe=recipe, stage="pretrain"),
        progress=lambda at: losses.append(at.losses["charbonnier"]),
    )
    assert sum(losses[-15:]) < 0.95 * sum(losses[:15])


def test_each_update_is_reported(options: TrainOptions) -> None:
    seen: list[TrainProgress] = []
    train(replace(options, stage="pretrain"), progress=seen.append)
    assert [(at.step, at.steps) for at in seen] == [(step, 4) for step in (1, 2, 3, 4)]


def test_parts_of_a_batch_agree_with_the_whole(options: TrainOptions) -> None:
    from types import SimpleNamespace

    clips, _, _ = load_clips(options)

    def batches(rank: int, size: int) -> ClipBatches:
        fabric: Any = SimpleNamespace(device=torch.device("cpu"), world_size=size, global_rank=rank)
        return ClipBatches(clips, options, fabric)

    (whole,) = batches(0, 1).stream(range(7, 8), both_ways=True)
    for rank in (0, 1):
        (part,) = batches(rank, 2).stream(range(7, 8), both_ways=True)
        expected = whole.alone(rank)
        assert torch.equal(part.lr, expected.lr) and torch.equal(part.hr, expected.hr)
        for mine, theirs in ((part.before, expected.before), (part.after, expected.after)):
            assert mine is not None and theirs is not None
            assert torch.equal(mine.flow, theirs.flow) and torch.equal(mine.trust, theirs.trust)
        (again,) = batches(rank, 2).whole().stream(range(7, 8))
        assert torch.equal(again.lr, whole.lr) and again.after is None


@pytest.mark.parametrize(("aligned", "teacher", "known"), [(True, None, True), (False, None, False)])
def test_motion_is_estimated_if_needed(
    options: TrainOptions, aligned: bool, teacher: Any, known: bool
) -> None:
    from types import SimpleNamespace

    chosen = replace(options, recipe=override(options.recipe, aligned=aligned))
    fabric: Any = SimpleNamespace(device=torch.device("cpu"), world_size=1, global_rank=0)
    (batch,) = ClipBatches(load_clips(chosen)[0], chosen, fabric).stream(range(1))
    assert (batch.before is not None) is known and batch.after is None


def test_the_shift_against_either_neighbour() -> None:
    """A picture that moves two pixels per frame to the right was two pixels to the left before."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (12, 20, 3), np.uint8)).resize((80, 48), Image.Resampling.BICUBIC)
    wide = torch.from_numpy(np.asarray(coarse).copy()).permute(2, 0, 1)
    lr = torch.stack([wide[:, :, 10 - 2 * number : 58 - 2 * number] for number in range(3)])[None]
    before, after = find_shift(lr, "before"), find_shift(lr, "after")
    assert before.flow.shape == (1, 2, 48, 48, 2) and before.trust.shape == (1, 2, 48, 48)
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    assert float(before.flow[inner][..., 0].median()) == pytest.approx(-2, abs=0.1)
    assert float(after.flow[inner][..., 0].median()) == pytest.approx(2, abs=0.1)
    assert float(before.flow[inner][..., 1].abs().median()) < 0.1 and float(before.trust[inner].median()) > 0.8


def test_the_last_frames_are_measured(options: TrainOptions) -> None:
    _, held_out, _ = load_clips(options)
    (pair,) = held_out
    assert pair.clip is not None and pair.clip.lr.shape == (1, 4, 3, 5, 5)
    assert torch.equal(pair.clip.hr[0, -1], pair.hr)
    network = RecurrentGenerator(blocks=1, channels=4, aligned=True)
    with torch.no_grad():
        network.tail.weight += 0.1
    quality, (sr,) = measure(network, held_out, None, scale=4, device=torch.device("cpu"))
    assert quality is not None
    with torch.no_grad():
        expected = upscale_clips(network, network, pair.clip.to(torch.device("cpu")))[-1][0]
    assert torch.equal(sr, expected.clamp(0, 1).mul(255).round().byte())


def test_centring_removes_most_of_a_shift() -> None:
    network = RecurrentGenerator(scale=2, blocks=1, channels=4)
    lr = torch.rand(2, 3, 3, 8, 8) * 0.5 + 0.2
    hr = torch.stack(upscale_clips(network, network, ClipBatch(lr, lr)), 1).detach().clamp(0, 1)
    with torch.no_grad():
        assert network.tail.bias is not None
        network.tail.bias += torch.tensor([0.02, -0.01, 0.005]).repeat_interleave(4)
    centre_recurrent(network, [ClipBatch(lr, hr)])
    assert float(network.tail.bias.detach().abs().max()) < 1e-4


def test_a_log_of_an_older_version_is_continued(options: TrainOptions) -> None:
    train(replace(options, stage="pretrain"))
    log = options.output / "log.csv"
    row = ["1", "pretrain", "1", *["0.5"] * (len(COLUMNS_OF_PICTURES) - 3)]
    log.write_text(f"{','.join(COLUMNS_OF_PICTURES)}\n{','.join(row)}\n")
    train(replace(options, stage="discriminator", resume=True))
    rows = read_log(log)
    assert rows["step"].tolist() == [1, 5, 6] and rows["mse"][0] == 0.5 and np.isnan(rows["charbonnier"][0])


def test_a_teacher_is_imitated(options: TrainOptions, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.safetensors"
    save_network(teacher, RecurrentGenerator(blocks=1, channels=6, aligned=True), {})
    recipe = override(options.recipe, aligned=False, pretrain_teacher=0.5)
    summary = train(replace(options, recipe=recipe, stage="pretrain", teacher=teacher))
    assert "teacher" in summary.losses["pretrain"]


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (Generator(blocks=1, channels=4), "is not a recurrent generator of scale 4"),
        (RecurrentGenerator(scale=2, blocks=1, channels=4), "is not a recurrent generator of scale 4"),
    ],
)
def test_an_unsuitable_teacher_is_refused(options: TrainOptions, tmp_path: Path, network: Any, sentence: str) -> None:
    teacher = tmp_path / "teacher.safetensors"
    save_network(teacher, network, {})
    recipe = override(options.recipe, pretrain_teacher=0.5)
    with pytest.raises(UsageError, match=sentence):
        train(replace(options, recipe=recipe, teacher=teacher))


def test_initial_weights_of_another_kind_are_refused(options: TrainOptions, tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    save_network(path, Generator(blocks=1, channels=4), {})
    with pytest.raises(UsageError, match="is a different kind of network"):
        train(replace(options, init=path))
    save_network(path, RecurrentGenerator(blocks=2, channels=4), {})
    with pytest.raises(WeightsError, match="blocks and channels must agree"):
        train(replace(options, init=path))
    save_network(path, RecurrentGenerator(blocks=1, channels=4), {})
    assert train(replace(options, init=path, stage="pretrain")).steps == 4


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("srgan", {"frames": 4}, "clips of several frames are for the recurrent generator: generator='recurrent'"),
    ("srgan", {"long_frames": 4}, "clips of several frames are for the recurrent generator: generator='recurrent'"),
    ("srgan", {"aligned": True}, "aligned is for the recurrent generator, which has a state: generator='recurrent'"),
    ("srgan", {"pretrain_ping_pong": 1.0}, "pretrain: the loss ping_pong is for the recurrent generator"),
    ("srgan", {"adversarial_teacher": 1.0}, "adversarial: the loss teacher is for the recurrent generator"),
    ("srgan", {"pretrain_artefacts": 1.0}, "pretrain: the loss artefacts is for the recurrent generator"),
    ("fast-recurrent", {"frames": 1}, "a recurrent generator is trained on clips: frames must be at least 2, got 1"),
    ("video-recurrent", {"frames": 2}, "the discriminator sees three frames: frames must be at least 3, got 2"),
    ("video-recurrent", {"long_frames": 5}, "long_frames must be 0, or not less than frames (10), got 5"),
    ("video-recurrent", {"long_frames": 65}, "long_frames must be at most 64, got 65"),
    ("video-recurrent", {"long_share": 1.5}, "long_share must lie in [0, 1], got 1.5"),
    ("video-recurrent", {"backprop_frames": -1}, "backprop_frames must not be negative, got -1"),
    ("video-recurrent", {"rising_frames": 0}, "rising_frames must be at least 1, got 0"),
    ("video-recurrent", {"content_frames": 0}, "content_frames must be at least 1, got 0"),
    ("video-recurrent", {"judged_frames": 0}, "judged_frames must be at least 1, got 0"),
    ("video-recurrent", {"scale": 8}, "a recurrent generator's scale is 2 or 4, got 8"),
    ("video-recurrent", {"upsampling": "nearest"}, "upsampling is for the generator srgan: a recurrent one has none"),
    ("video-recurrent", {"tanh": True}, "tanh is for the generator srgan: a recurrent one has none to choose"),
    ("video-recurrent", {"normalisation": "imagenet"}, "normalisation is for the generator srgan"),
    ("video-recurrent", {"unit": "epochs"}, "the stages of a recurrent generator are given in steps"),
    ("video-recurrent", {"crops_per_picture": 2}, "clips are drawn one by one: crops_per_picture must be 1, got 2"),
    ("video-recurrent", {"crop_size": 16}, "crop_size must be a multiple of 4, at least 20, got 16"),
]


@pytest.mark.parametrize(("name", "changes", "sentence"), WRONG)
def test_values_that_contradict_each_other(name: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        override(RECIPES[name], **changes)
    assert sentence in str(caught.value)
    assert len(str(caught.value).split("; ")) == 1, "one cause, one sentence"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"teacher": Path("a")},
            "a teacher has no effect without a weight of its loss, such as pretrain_teacher=0.5.",
        ),
        (
            {"recipe": override(TINY, adversarial_teacher=1.0)},
            "adversarial: the loss teacher needs the weights file of one: teacher.",
        ),
        (
            {"recipe": RECIPES["srgan"], "teacher": Path("a")},
            "a teacher has no effect without a weight of its loss, such as pretrain_teacher=0.5.",
        ),
    ],
)
def test_options_that_contradict_the_recipe(options: TrainOptions, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        replace(options, **changes)
    assert str(caught.value) == sentence


def test_out_of_memory_is_explained(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("Tried to allocate 2 GiB.")

    monkeypatch.setattr("vsr.training.trainer.update_clips", exhaust)
    with pytest.raises(Exception, match="has not enough memory for batches of 2 clips of 4 frames of 20: use a"):
        train(options)


def test_the_sizes_of_the_recipes() -> None:
    """Multiply-adds for each LR pixel: at most 1.2 million of ``video``, 0.3 of ``fast``."""

    def cost(recipe: Recipe) -> int:
        network = RecurrentGenerator(scale=recipe.scale, blocks=recipe.blocks, channels=recipe.channels)
        return sum(parameter.numel() for parameter in network.parameters() if parameter.dim() == 4)

    assert cost(RECIPES["video-recurrent"]) == pytest.approx(0.81e6, rel=0.01)
    assert cost(RECIPES["fast-recurrent"]) == pytest.approx(0.22e6, rel=0.03)
