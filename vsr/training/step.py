"""One update: the discriminator's, then the generator's, with every term of the losses in sight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vsr.imaging.metrics import psnr_y, ssim_y
from vsr.imaging.motion import estimate_motion
from vsr.imaging.warping import enlarge_flow, warp
from vsr.networks.recurrent import RecurrentGenerator, move_state
from vsr.networks.rewrites import float32_products
from vsr.training.launch import Fabric, joined
from vsr.training.losses import ADVERSARIAL, artefacts, charbonnier, draw_labels, l1, mse, total_variation
from vsr.training.recipes import LOSSES, Recipe, Stage, StageName

PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse, "l1": l1, "charbonnier": charbonnier}
"""Those that compare SR with HR pixel by pixel."""


@dataclass
class TrainableModel:
    """One of the two networks, ready to be trained, and its optimiser.

    Attributes:
        network: as Fabric wraps it, which casts, and averages gradients over all processes.
        optimizer: its Adam, as Fabric wraps it; ``optimizer.optimizer`` is Adam itself.
    """

    network: nn.Module
    optimizer: Any  # Fabric's classes of wrappers are private

    @property
    def plain(self) -> nn.Module:
        """The network itself."""
        return cast(nn.Module, self.network.module)


@dataclass
class TrainState:
    """All that an update reads and changes.

    Attributes:
        fabric: device, precision and processes.
        recipe: what is trained.
        seed: of the labels.
        generator: the generator.
        ema: its moving average.
        discriminator: None until the first stage that needs it.
        features: the content network of the stage, None without a content loss.
        teacher: a recurrent generator to follow, frozen; None without that loss.
        stage: the stage that runs.
        step: updates done in all stages together; with the seed it decides all that is drawn.
        stage_step: updates done in the stage.
        best: the best measurement of a stage so far, by the stage's name.
        quality: the last measurement, None before the first.
    """

    fabric: Fabric
    recipe: Recipe
    seed: int
    generator: TrainableModel
    ema: AveragedModel
    discriminator: TrainableModel | None = None
    features: nn.Module | None = None
    teacher: RecurrentGenerator | None = None
    stage: StageName = "pretrain"
    step: int = 0
    stage_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    quality: Quality | None = None

    @property
    def weights(self) -> Stage:
        """The stage's weights of the losses, among others."""
        return self.recipe.stage(self.stage)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Let both networks' next step have this learning rate."""
        for model in (self.generator, self.discriminator):
            for group in model.optimizer.param_groups if model is not None else ():
                group["lr"] = learning_rate


def update(state: TrainState, lr: Tensor, hr: Tensor, learning_rate: float) -> dict[str, Tensor]:
    """One update of the networks that the stage trains.

    Args:
        state: changed in place.
        lr: (N, 3, h, w) RGB in [0, 1], this process's part of the batch, on its device.
        hr: (N, 3, H, W) likewise.
        learning_rate: of this update.

    Returns:
        The terms of the losses, weighted as they enter their sums, and the discriminator's mean verdicts; detached and
        on the device.
    """
    state.set_learning_rate(learning_rate)
    trains_generator = state.stage != "discriminator"
    state.generator.network.train(trains_generator)
    with torch.set_grad_enabled(trains_generator):
        sr = state.generator.network(lr)
    seen: dict[str, Tensor] = {}
    if state.stage != "pretrain":
        seen |= _update_discriminator(state, sr.detach(), hr)
    if trains_generator:
        seen |= _update_generator(state, sr, hr)
    state.step += 1
    state.stage_step += 1
    return seen


def _update_discriminator(state: TrainState, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
    assert state.discriminator is not None
    discriminator = state.discriminator.network
    fake = joined(discriminator(sr))
    real = joined(discriminator(hr))
    random = np.random.default_rng([state.seed, state.step, 1])
    fake_labels = draw_labels(state.recipe.fake_labels, len(fake), random).to(fake)
    real_labels = draw_labels(state.recipe.real_labels, len(real), random).to(real)
    loss = ADVERSARIAL[state.recipe.adversarial_form].discriminator(fake, real, fake_labels, real_labels)
    _descend(state, state.discriminator, loss)
    return {
        "discriminator_loss": loss.detach(),
        "d_real": real.detach().sigmoid().mean(),
        "d_fake": fake.detach().sigmoid().mean(),
    }


def _update_generator(state: TrainState, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
    weights = state.weights
    terms: dict[str, Tensor] = {}
    for name, loss in PIXEL_LOSSES.items():
        if weight := getattr(weights, name):
            terms[name] = weight * loss(sr, hr)
    if weights.content:
        terms["content"] = weights.content * _content_loss(state, sr, hr)
    if weights.total_variation:
        terms["total_variation"] = weights.total_variation * total_variation(sr)
    if weights.adversarial:
        terms["adversarial"] = weights.adversarial * _adversarial_loss(state, sr, hr)
    return _minimise(state, terms)


def update_clips(state: TrainState, clips: ClipBatch, learning_rate: float) -> dict[str, Tensor]:
    """``update`` for a recurrent generator, on clips.

    Args:
        state: changed in place.
        clips: this process's part of the batch, on its device.
        learning_rate: of this update.

    Returns:
        As ``update``.
    """
    state.set_learning_rate(learning_rate)
    recipe, generator = state.recipe, cast(RecurrentGenerator, state.generator.plain)
    trains_generator = state.stage != "discriminator"
    if state.weights.ping_pong and trains_generator:
        clips = clips.round_trip()
    state.generator.network.train(trains_generator)
    with torch.set_grad_enabled(trains_generator):
        sr = upscale_clips(state.generator.network, generator, clips, backprop_frames=recipe.backprop_frames)
    hr = list(clips.hr.unbind(1))
    seen: dict[str, Tensor] = {}
    fake = real = None
    if state.stage != "pretrain":
        middles = _draw_frames(state, range(1, len(sr) - 1), recipe.judged_frames, 3)
        fake, real = (triplets(frames, clips, middles) for frames in (sr, hr))
        seen |= _update_discriminator(state, fake.detach(), real)
    if trains_generator:
        terms = _terms_of_clips(state, sr, hr, clips)
        if state.weights.adversarial:
            assert fake is not None and real is not None
            terms["adversarial"] = state.weights.adversarial * _adversarial_loss(state, fake, real)
        seen |= _minimise(state, terms)
    state.step += 1
    state.stage_step += 1
    return seen


def _terms_of_clips(state: TrainState, sr: list[Tensor], hr: list[Tensor], clips: ClipBatch) -> dict[str, Tensor]:
    """The weighted terms of the generator's loss on clips, but for the adversarial one."""
    weights, recipe = state.weights, state.recipe
    terms: dict[str, Tensor] = {}
    for name, loss in PIXEL_LOSSES.items():
        if weight := getattr(weights, name):
            terms[name] = weight * _over_frames(loss, sr, hr, recipe.rising_frames)
    if weights.content:
        chosen = _draw_frames(state, range(len(sr)), recipe.content_frames, 2)
        terms["content"] = weights.content * _content_loss(state, *(_picked(frames, chosen) for frames in (sr, hr)))
    if weights.total_variation:
        terms["total_variation"] = weights.total_variation * torch.stack([total_variation(one) for one in sr]).mean()
    if weights.ping_pong:
        there, back = sr[: len(sr) // 2], sr[: len(sr) // 2 : -1]  # a clip of T frames has become 2T - 1
        terms["ping_pong"] = weights.ping_pong * mse(torch.stack(there), torch.stack(back))
    if weights.teacher:
        assert state.teacher is not None
        wanted = _unlearnt(state, state.teacher, clips)
        terms["teacher"] = weights.teacher * _over_frames(l1, sr, wanted, recipe.rising_frames)
    if weights.artefacts:
        average = _unlearnt(state, cast(RecurrentGenerator, state.ema.module), clips)
        found = [artefacts(*frames) for frames in zip(sr, hr, average, strict=True)]
        terms["artefacts"] = weights.artefacts * torch.stack(found).mean()
    return terms


def _over_frames(
    loss: Callable[[Tensor, Tensor], Tensor], sr: list[Tensor], hr: list[Tensor], rising_frames: int
) -> Tensor:
    """The mean of a loss over the frames of a clip, the first of which count less."""
    shares = [min(1.0, (number + 1) / rising_frames) for number in range(len(sr))]
    losses = [share * loss(*frames) for share, *frames in zip(shares, sr, hr, strict=True)]
    return torch.stack(losses).sum() / sum(shares)


def _draw_frames(state: TrainState, frames: range, count: int, purpose: int) -> list[int]:
    """``count`` numbers out of ``frames``, or all, in order: a function of the seed, the update and the purpose."""
    random = np.random.default_rng([state.seed, state.step, purpose])
    return sorted(random.choice(frames, min(count, len(frames)), replace=False).tolist())


def _picked(frames: list[Tensor], numbers: list[int]) -> Tensor:
    return torch.cat([frames[number] for number in numbers])


@torch.no_grad()
def _unlearnt(state: TrainState, generator: RecurrentGenerator, clips: ClipBatch) -> list[Tensor]:
    """What a generator that is not trained here makes of the clips."""
    with state.fabric.autocast():
        return [_in_full(frame) for frame in upscale_clips(generator, generator, clips)]


def _minimise(state: TrainState, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """The generator's step down the sum of its terms."""
    assert terms.keys() <= set(LOSSES)
    loss = torch.stack(list(terms.values())).sum()
    _descend(state, state.generator, loss)
    state.ema.update_parameters(state.generator.plain)
    return {"generator_loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}


def _content_loss(state: TrainState, sr: Tensor, hr: Tensor) -> Tensor:
    assert state.features is not None
    with state.fabric.autocast():
        with torch.no_grad():
            wanted = state.features(hr)
        found = state.features(sr)
    return mse(_in_full(found), _in_full(wanted))


def _adversarial_loss(state: TrainState, sr: Tensor, hr: Tensor) -> Tensor:
    """Without gradients of the discriminator itself, and past the wrapper that would average them."""
    assert state.discriminator is not None
    form = ADVERSARIAL[state.recipe.adversarial_form]
    judge = state.discriminator.plain.requires_grad_(False)
    with state.fabric.autocast():
        fake = joined(judge(sr))
        real = torch.zeros_like(fake)
        if form.compares:
            with torch.no_grad():
                real = joined(judge(hr))
    judge.requires_grad_(True)
    return form.generator(_in_full(fake), _in_full(real))


def _in_full(tensor: Tensor) -> Tensor:
    """Out of half precision, for losses."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _descend(state: TrainState, model: TrainableModel, loss: Tensor) -> None:
    model.optimizer.zero_grad()
    state.fabric.backward(loss)
    if state.recipe.gradient_clip:
        state.fabric.clip_gradients(
            model.network, model.optimizer, max_norm=state.recipe.gradient_clip, error_if_nonfinite=False
        )
    model.optimizer.step()


Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""One frame of a recurrent generator: LR and state -> SR and state."""


@dataclass(frozen=True, eq=False)
class Shift:
    """From where in a neighbouring frame each pixel of an LR frame came, for T - 1 pairs of frames in N clips.

    Attributes:
        flow: (N, T-1, h, w, 2) in LR pixels, columns before rows.
        trust: (N, T-1, h, w) in [0, 1].
    """

    flow: Tensor
    trust: Tensor

    def to(self, device: torch.device) -> Shift:
        """The same on a device."""
        return Shift(self.flow.to(device, non_blocking=True), self.trust.to(device, non_blocking=True))

    def joined(self, other: Shift) -> Shift:
        """These pairs, then those of ``other`` in reverse order."""
        return Shift(
            torch.cat((self.flow, other.flow.flip(1)), 1), torch.cat((self.trust, other.trust.flip(1)), 1)
        )


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """A batch of clips, or a part of one.

    Attributes:
        lr: (N, T, 3, h, w) RGB in [0, 1].
        hr: (N, T, 3, H, W) likewise.
        before: the shift of each frame but the first against the frame before it; None where nobody asks for it.
        after: the shift of each frame but the last against the frame after it; likewise.
    """

    lr: Tensor
    hr: Tensor
    before: Shift | None = None
    after: Shift | None = None

    def to(self, device: torch.device) -> ClipBatch:
        """The same on a device, as floats: pictures of uint8 codes come into [0, 1] there."""
        lr, hr = (
            frames.float() / 255 if frames.dtype == torch.uint8 else frames
            for frames in (frames.to(device, non_blocking=True) for frames in (self.lr, self.hr))
        )
        before, after = (shift and shift.to(device) for shift in (self.before, self.after))
        return ClipBatch(lr, hr, before, after)

    def pin_memory(self) -> ClipBatch:
        """The same in memory from which a GPU copies without waiting."""
        before, after = (
            shift and Shift(shift.flow.pin_memory(), shift.trust.pin_memory()) for shift in (self.before, self.after)
        )
        return ClipBatch(self.lr.pin_memory(), self.hr.pin_memory(), before, after)

    def alone(self, number: int) -> ClipBatch:
        """The batch of one of its clips."""
        one = slice(number, number + 1)
        before, after = (
            shift and Shift(shift.flow[one], shift.trust[one]) for shift in (self.before, self.after)
        )
        return ClipBatch(self.lr[one], self.hr[one], before, after)

    def round_trip(self) -> ClipBatch:
        """The clips forth, then back to their first frames: T frames become 2T - 1.

        Raises:
            ValueError: the shifts are known one way alone.
        """
        if (self.before is None) != (self.after is None):
            raise ValueError("a clip that runs back needs the shifts both ways, or none")
        lr, hr = (torch.cat((frames, frames[:, :-1].flip(1)), 1) for frames in (self.lr, self.hr))
        if self.before is None or self.after is None:
            return ClipBatch(lr, hr)
        return ClipBatch(lr, hr, self.before.joined(self.after), self.after.joined(self.before))


def find_shift(lr: Tensor, neighbour: Literal["before", "after"]) -> Shift:
    """Estimate the motion between the frames of clips.

    Args:
        lr: (N, T, 3, h, w) uint8 RGB, on the CPU.
        neighbour: of a frame, against which it is: the one before it or the one after.

    Returns:
        The shifts of all frames that have such a neighbour, with the trust that suits detail that LR does not show.
    """
    clips = np.ascontiguousarray(lr.movedim(2, -1).numpy())
    first, second = (clips[:, :-1], clips[:, 1:]) if neighbour == "before" else (clips[:, 1:], clips[:, :-1])
    count, pairs, height, width = first.shape[:4]
    flow = np.empty((count, pairs, height, width, 2), np.float32)
    trust = np.empty((count, pairs, height, width), np.float32)
    for place in np.ndindex(count, pairs):
        motion = estimate_motion(first[place], second[place])
        flow[place], trust[place] = motion.flow, motion.trust_high
    return Shift(torch.from_numpy(flow), torch.from_numpy(trust))


def upscale_clips(
    step: Step, generator: RecurrentGenerator, clips: ClipBatch, *, backprop_frames: int = 0
) -> list[Tensor]:
    """Upscale clips frame by frame, all N of them at once.

    Args:
        step: the generator as it is to be called, which may be wrapped.
        generator: the same by itself, which says how its state is handled.
        clips: with ``before`` where the generator is aligned.
        backprop_frames: frames after which the state is cut off from what made it; 0: never.

    Returns:
        T tensors (N, 3, H, W), not clipped.

    Raises:
        ValueError: an aligned generator without ``clips.before``.
    """
    if generator.aligned and clips.before is None:
        raise ValueError("an aligned generator needs the motion between the frames")
    frames = [frame.contiguous(memory_format=torch.channels_last) for frame in clips.lr.unbind(1)]
    state = generator.initial_state(frames[0])
    upscaled = []
    for number, lr in enumerate(frames):
        if number and backprop_frames and number % backprop_frames == 0:
            state = state.detach()
        if number and generator.aligned and clips.before is not None:
            flow, trust = clips.before.flow[:, number - 1], clips.before.trust[:, number - 1]
            state = move_state(state, flow, trust)
        sr, state = step(lr, state)
        upscaled.append(sr)
    return upscaled


def triplets(frames: Sequence[Tensor], clips: ClipBatch, middles: Sequence[int]) -> Tensor:
    """What the discriminator sees of SR or HR frames: each middle one between its neighbours, and by itself.

    The neighbours are moved onto the middle frame along the motion of LR, so that what is left of a difference is
    flicker, as in TecoGAN (Chu et al. 2020, https://arxiv.org/abs/1811.09393). A frame by itself is given three times,
    as a clip that stands still: so one discriminator judges motion and picture, and there is one loss to balance.

    Args:
        frames: T tensors (N, 3, H, W).
        clips: whose frames these are, with both shifts.
        middles: numbers of frames, from 1 to T - 2.

    Returns:
        (N * 2 * len(middles), 9, H, W).
    """
    assert clips.before is not None and clips.after is not None
    scale = frames[0].shape[-1] // clips.lr.shape[-1]
    seen = []
    for middle in middles:
        earlier = warp(frames[middle - 1], enlarge_flow(clips.before.flow[:, middle - 1], scale), "bicubic")
        later = warp(frames[middle + 1], enlarge_flow(clips.after.flow[:, middle], scale), "bicubic")
        seen += [torch.cat((earlier, frames[middle], later), 1), frames[middle].repeat(1, 3, 1, 1)]
    # The clips one after the other, as processes that share a batch join theirs.
    return torch.stack(seen, 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)


LARGEST = 320
"""Edge of the middle part of a picture that is measured, in pixels: enough to see the trend, and quick."""


@dataclass(frozen=True)
class HeldOut:
    """One picture to measure on, or the last frame of a clip.

    Attributes:
        lr: (3, h, w) uint8 RGB.
        hr: (3, scale*h, scale*w) uint8 RGB.
        clip: the clip, a batch of one, for a recurrent generator; None: a picture by itself.
    """

    lr: Tensor
    hr: Tensor
    clip: ClipBatch | None = None


@dataclass(frozen=True)
class Quality:
    """Means over the held-out pictures.

    Attributes:
        psnr_y: in dB; greater is better.
        ssim_y: at most 1; greater is better.
        lpips: 0 for equal pictures; smaller is better. None where it is not measured.
    """

    psnr_y: float
    ssim_y: float
    lpips: float | None


def least_size(scale: int) -> int:
    """Pixels each way below which a picture cannot be measured: SSIM's window inside the border, and LPIPS."""
    return -(-max(17, 11 + 2 * scale) // scale) * scale


def middle(picture: Tensor, scale: int) -> Tensor:
    """The middle of (3, H, W), at most ``LARGEST`` on an edge, and a multiple of the scale."""
    height, width = (min(size, LARGEST) // scale * scale for size in picture.shape[-2:])
    top, left = (picture.shape[-2] - height) // 2, (picture.shape[-1] - width) // 2
    return picture[:, top : top + height, left : left + width].contiguous()


@float32_products(tf32=False)
@torch.inference_mode()
def measure(
    generator: nn.Module, held_out: Sequence[HeldOut], lpips: nn.Module | None, *, scale: int, device: torch.device
) -> tuple[Quality | None, list[Tensor]]:
    """Upscale the held-out pictures and compare them with their originals, in float32 whatever the run computes in.

    Args:
        generator: (N, 3, h, w) RGB in [0, 1] -> (N, 3, scale*h, scale*w); or a recurrent one.
        held_out: the pictures.
        lpips: two batches of RGB in [0, 1] -> distances; None leaves it out.
        scale: of the generator, and by custom the border that PSNR and SSIM leave out.
        device: of the generator and of ``lpips``.

    Returns:
        The means, None without pictures, and the upscaled pictures, (3, H, W) uint8 each on the CPU.
    """
    was_training = generator.training
    generator.eval()
    values: list[tuple[float, float, float]] = []
    upscaled = []
    for pair in held_out:
        sr, hr = _upscaled(generator, pair, device), pair.hr[None].to(device).float() / 255
        sr = sr.mul(255).round().clamp(0, 255) / 255
        distance = float("nan") if lpips is None else float(lpips(sr, hr))
        values.append((float(psnr_y(sr, hr, border=scale)), float(ssim_y(sr, hr, border=scale)), distance))
        upscaled.append(sr[0].mul(255).round().byte().cpu())
    generator.train(was_training)
    if not values:
        return None, []
    psnr, ssim, distance = (sum(column) / len(values) for column in zip(*values, strict=True))
    return Quality(psnr, ssim, None if lpips is None else distance), upscaled


def _upscaled(generator: nn.Module, pair: HeldOut, device: torch.device) -> Tensor:
    """(1, 3, scale*h, scale*w)."""
    if pair.clip is not None:
        assert isinstance(generator, RecurrentGenerator)
        return upscale_clips(generator, generator, pair.clip.to(device))[-1]
    lr = pair.lr[None].to(device).float() / 255
    sr: Tensor = generator(lr.contiguous(memory_format=torch.channels_last))
    return sr
