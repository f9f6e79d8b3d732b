"""Several batches in an update: the gradients of one that is so many times as large, in the memory of one."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor, nn

from vsr.training.batches import Batches, ClipBatches, load_clips, load_pictures
from vsr.training.checkpoint import begin_stage, new_train_state
from vsr.training.options import TrainOptions
from vsr.training.recipes import Labels, Recipe, Stage, StageName, override
from vsr.training.step import ClipBatch, Shift, TrainState, update, update_clips
from vsr.training.trainer import train

CLIPS = Recipe(
    follows="nobody",
    generator="recurrent",
    aligned=True,
    frames=4,
    pretrain=Stage(length=4, charbonnier=1.0, total_variation=0.1, ping_pong=0.2),
    adversarial=Stage(length=4, charbonnier=1.0, adversarial=0.5),
    discriminator_head="pooled",
    discriminator_channels=4,
    real_labels=Labels("uniform", 0.7, 1.0),
    gradient_clip=0.5,
    blocks=1,
    channels=4,
    batch_size=4,
    crop_size=32,
)


def state_of(recipe: Recipe, stage: StageName) -> TrainState:
    options = TrainOptions(data=(Path("data"),), output=Path("run"), recipe=recipe, device="cpu")
    state = new_train_state(Fabric(accelerator="cpu", devices=1), options)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():  # away from its start the generator has gradients everywhere
        for parameter in state.generator.plain.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=random)
    state.ema.module.load_state_dict(state.generator.plain.state_dict())
    begin_stage(state, stage, options)
    return state


def clips() -> ClipBatch:
    shifts = [Shift(torch.randn(4, 3, 8, 8, 2), torch.rand(4, 3, 8, 8)) for _ in range(2)]
    return ClipBatch(torch.rand(4, 4, 3, 8, 8), torch.rand(4, 4, 3, 32, 32), *shifts)


def without_batch_statistics(network: nn.Module) -> None:
    """Replace what depends on the other crops of a batch."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, nn.GroupNorm(1, child.num_features))
        else:
            without_batch_statistics(child)


def gradients(network: nn.Module) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys() and len(one) > 3
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(2, 2), (1, 4)])
def test_pretraining_on_clips_has_the_gradients_of_one_batch(batch_size: int, accumulate: int) -> None:
    """Clipped as a whole, and with the same means reported."""
    batch = clips()
    states = [
        state_of(override(CLIPS, batch_size=size, accumulate=count), "pretrain")
        for size, count in ((4, 1), (batch_size, accumulate))
    ]
    whole, parts = (update_clips(state, batch, 1e-3) for state in states)
    assert_close(gradients(states[0].generator.plain), gradients(states[1].generator.plain))
    assert_close({name: term[None] for name, term in whole.items()}, {name: term[None] for name, term in parts.items()})
    assert [(state.step, int(state.ema.n_averaged)) for state in states] == [(1, 1)] * 2


@pytest.mark.parametrize("form", ["bce", "hinge"])
def test_both_networks_have_the_gradients_of_one_batch(form: str) -> None:
    """The generator's against the updated discriminator, and with the labels of the whole batch."""
    batch = clips()
    found = []
    for size, count in ((4, 1), (2, 2)):
        state = state_of(override(CLIPS, batch_size=size, accumulate=count, adversarial_form=form), "adversarial")
        assert state.discriminator is not None
        without_batch_statistics(state.discriminator.plain)
        optimizer = state.discriminator.optimizer.optimizer
        optimizer.param_groups[0]["params"] = list(state.discriminator.plain.parameters())
        update_clips(state, batch, 1e-3)
        found.append((gradients(state.generator.plain), gradients(state.discriminator.plain)))
    for whole, parts in zip(*found, strict=True):
        assert_close(whole, parts)


def test_the_statistics_of_normalisations_see_each_batch_once(tiny_recipe: Recipe) -> None:
    """Though it passes the generator twice in the adversarial stage."""
    lr, hr = torch.rand(4, 3, 4, 4), torch.rand(4, 3, 16, 16)
    state = state_of(override(tiny_recipe, batch_size=2, accumulate=2), "adversarial")
    by_hand = copy.deepcopy(state.generator.plain).train()
    update(state, lr, hr, 1e-3)
    with torch.no_grad():
        for part in lr.chunk(2):
            by_hand(part)
    buffers = dict(state.generator.plain.named_buffers())
    for name, expected in by_hand.named_buffers():
        if "running" in name:
            torch.testing.assert_close(buffers[name], expected, msg=name)
    assert any("running" in name for name in buffers)


def fabric(rank: int = 0, processes: int = 1) -> Any:
    return SimpleNamespace(device=torch.device("cpu"), world_size=processes, global_rank=rank)


@pytest.mark.parametrize("degradation", ["bicubic", "video"])
def test_the_crops_of_an_update_are_those_of_one_batch(options: TrainOptions, degradation: str) -> None:
    whole, parts = (
        replace(options, recipe=override(options.recipe, degradation=degradation, batch_size=size, accumulate=count))
        for size, count in ((8, 1), (4, 2))
    )
    pictures = load_pictures(options)[0]
    (one,) = Batches(pictures, whole, fabric()).stream(range(3, 4))
    (other,) = Batches(pictures, parts, fabric()).stream(range(3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    # Of two processes each has its half of each batch.
    for rank, which in enumerate(([0, 1, 4, 5], [2, 3, 6, 7])):
        (share,) = Batches(pictures, parts, fabric(rank, 2)).stream(range(3, 4))
        assert all(torch.equal(a, b[which]) for a, b in zip(share, one, strict=True))


def test_the_clips_of_an_update_are_those_of_one_batch(options: TrainOptions) -> None:
    whole, parts = (
        replace(options, recipe=override(CLIPS, batch_size=size, accumulate=count, crop_size=20))
        for size, count in ((4, 1), (2, 2))
    )
    source = load_clips(whole)[0]
    (one,), (other,) = (
        ClipBatches(source, each, fabric()).stream(range(3, 4), both_ways=True) for each in (whole, parts)
    )
    assert torch.equal(one.hr, other.hr) and torch.equal(one.lr, other.lr)
    assert one.before is not None and other.before is not None and torch.equal(one.before.flow, other.before.flow)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("stop", [2, 7])
def test_a_stopped_run_resumes_as_if_uninterrupted(options: TrainOptions, recurrent: bool, stop: int) -> None:
    recipe = override(CLIPS, crop_size=20) if recurrent else options.recipe
    options = replace(options, recipe=override(recipe, batch_size=2, accumulate=2))
    whole = train(replace(options, output=options.output.with_name("whole")))
    done = [0]
    train(options, progress=lambda at: done.append(at.step), should_stop=lambda: done[-1] + 1 >= stop)
    resumed = train(replace(options, resume=True))
    assert resumed.steps == whole.steps == 8 and done[-1] == stop
    one, other = load_file(whole.weights), load_file(resumed.weights)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert "2 x 2 " in (options.output / "card.md").read_text()
