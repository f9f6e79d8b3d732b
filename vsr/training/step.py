"""One update of a run, on pictures or clips, and the measurement of its quality.

``update`` and ``update_clips`` train the discriminator, then the generator, with all terms of the losses.
``ClipBatch``, ``upscale_clips`` and ``triplets`` handle clips; ``measure`` compares upscaled held-out pictures with HR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vsr.imaging.metrics import psnr_y, ssim_y
from vsr.imaging.motion import estimate_motion
from vsr.imaging.warping import enlarge_flow, warp
from vsr.networks import LPIPS_MIN_SIZES, LpipsChoice
from vsr.networks.recurrent import RecurrentGenerator, move_state
from vsr.networks.rewrites import float32_products
from vsr.training.launch import Fabric, joined
from vsr.training.losses import ADVERSARIAL, PIXEL_LOSSES, artefacts, draw_labels, l1, mse, total_variation
from vsr.training.recipes import LOSSES, Recipe, Stage, StageName


@dataclass
class TrainableModel:
    """A network, ready to be trained, and its optimiser.

    Attributes:
        network: the network in Fabric's wrapper, which casts, and averages gradients over all processes.
        optimizer: Adam in Fabric's wrapper; ``optimizer.optimizer`` is Adam itself.
    """

    network: nn.Module
    optimizer: Any  # Fabric's wrapper classes are private

    @property
    def plain(self) -> nn.Module:
        """The network without the wrapper."""
        return cast(nn.Module, self.network.module)


@dataclass
class TrainState:
    """All that an update reads and changes.

    Attributes:
        fabric: device, precision and processes.
        recipe: the recipe of the run.
        seed: the seed of all random numbers.
        generator: the generator.
        ema: the moving average of the generator.
        discriminator: the discriminator; None until the first stage that needs it.
        features: the content network of the stage; None without a content loss.
        teacher: a frozen recurrent generator to imitate; None without that loss.
        stage: the current stage.
        step: number of updates done in all stages; with the seed it determines all random numbers.
        stage_step: number of updates done in the current stage.
        best: the best score of each stage so far, by its name.
        quality: the last measurement; None before the first.
        measures_gradients: whether the next update also measures the gradients of the adversarial and the other terms;
            the same in all processes, which join their gradients.
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
    measures_gradients: bool = False

    @property
    def weights(self) -> Stage:
        """The current stage of the recipe, with the weights of its losses."""
        return self.recipe.stage(self.stage)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of both networks."""
        for model in (self.generator, self.discriminator):
            for group in model.optimizer.param_groups if model is not None else ():
                group["lr"] = learning_rate


def update(state: TrainState, lr: Tensor, hr: Tensor, learning_rate: float) -> dict[str, Tensor]:
    """Do one update of the networks that the stage trains.

    Args:
        state: the state of the run; changed in place.
        lr: (N, 3, h, w) RGB in [0, 1], this process's part of the update's batches, one after the other, on its device.
        hr: (N, 3, H, W) likewise.
        learning_rate: the learning rate of this update.

    Returns:
        The weighted terms of the losses, and the discriminator's mean outputs; detached, on the device. Also the norms
        of gradients if ``state.measures_gradients``.
    """

    def forward(part: tuple[Tensor, Tensor]) -> _Forward:
        sr = state.generator.network(part[0])
        return _Forward([sr], sr, part[1])

    def terms(sr: list[Tensor], part: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return _terms_of_crops(state, sr[0], part[1])

    state.set_learning_rate(learning_rate)
    return _update(state, split(lr, hr, state.recipe.accumulate), forward, terms)


def split(lr: Tensor, hr: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
    """Split the crops of an update into its ``count`` batches."""
    return list(zip(lr.chunk(count), hr.chunk(count), strict=True))


def _terms_of_crops(state: TrainState, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
    """Return the weighted terms of the generator's loss on crops, without the adversarial term."""
    weights = state.weights
    terms: dict[str, Tensor] = {}
    for name, loss in PIXEL_LOSSES.items():
        if weight := getattr(weights, name):
            terms[name] = weight * loss(sr, hr)
    if weights.content:
        terms["content"] = weights.content * _content_loss(state, sr, hr)
    if weights.total_variation:
        terms["total_variation"] = weights.total_variation * total_variation(sr)
    return terms


def update_clips(state: TrainState, clips: ClipBatch, learning_rate: float) -> dict[str, Tensor]:
    """Do one update of a recurrent generator and its discriminator on clips.

    Args:
        state: the state of the run; changed in place.
        clips: this process's part of the update's batches, one after the other, on its device.
        learning_rate: the learning rate of this update.

    Returns:
        The same as ``update``.
    """
    recipe, generator = state.recipe, cast(RecurrentGenerator, state.generator.plain)
    if state.weights.ping_pong and state.stage != "discriminator":
        clips = clips.round_trip()

    def forward(part: ClipBatch) -> _Forward:
        sr = upscale_clips(state.generator.network, generator, part, backprop_frames=recipe.backprop_frames)
        if state.stage == "pretrain":
            return _Forward(sr)
        middles = _draw_frames(state, range(1, len(sr) - 1), recipe.judged_frames, 3)
        fake, real = (triplets(frames, part, middles) for frames in (sr, part.hr.unbind(1)))
        return _Forward(sr, fake, real)

    def terms(sr: list[Tensor], part: ClipBatch) -> dict[str, Tensor]:
        return _generator_terms(state, sr, list(part.hr.unbind(1)), part)

    state.set_learning_rate(learning_rate)
    return _update(state, clips.split(recipe.accumulate), forward, terms)


@dataclass(frozen=True, eq=False)
class _Forward:
    """What the generator makes of a batch.

    Attributes:
        sr: the frames, or the one picture, each (N, 3, H, W).
        fake: the discriminator's input made of SR; None in a stage without it.
        real: the same made of HR.
    """

    sr: list[Tensor]
    fake: Tensor | None = None
    real: Tensor | None = None


Part = TypeVar("Part")
"""One of the batches of an update: crops, or clips."""


def _update(
    state: TrainState,
    parts: Sequence[Part],
    forward: Callable[[Part], _Forward],
    terms: Callable[[list[Tensor], Part], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Do one update on all batches of it: the discriminator's step, then the generator's against its result.

    A single batch goes through the generator once, for both steps. Of several the graphs would not fit into memory at
    once, so that each goes through it again for the generator's step.
    """
    trains_generator, single = state.stage != "discriminator", len(parts) == 1
    state.generator.network.train(trains_generator)
    made: list[_Forward] = []
    if single:
        with torch.set_grad_enabled(trains_generator):
            made = [forward(parts[0])]
    elif state.stage != "pretrain":
        with torch.no_grad(), _kept_statistics(state.generator.plain):
            made = [forward(part) for part in parts]
    reported = _update_discriminator(state, made) if state.stage != "pretrain" else {}
    if trains_generator:

        def loss_of(number: int) -> tuple[Tensor, dict[str, Tensor]]:
            found = made[0] if single else forward(parts[number])
            weighted = terms(found.sr, parts[number])
            if state.weights.adversarial:
                weighted["adversarial"] = state.weights.adversarial * _adversarial_loss(state, found)
            assert weighted.keys() <= set(LOSSES)
            loss = torch.stack(list(weighted.values())).sum()
            norms = _gradient_norms(weighted, found.sr) if state.measures_gradients and number == 0 else {}
            detached = {name: term.detach() for name, term in weighted.items()}
            return loss, {"generator_loss": loss.detach(), **detached, **norms}

        reported |= _take_step(state, state.generator, len(parts), loss_of)
        state.ema.update_parameters(state.generator.plain)
    state.step += 1
    state.stage_step += 1
    return reported


@contextmanager
def _kept_statistics(network: nn.Module) -> Iterator[None]:
    """Keep the running statistics of normalisations while batches pass that will pass again."""
    normalisations = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [module.momentum for module in normalisations]
    try:
        for module in normalisations:
            module.momentum = 0.0
        yield
    finally:
        for module, momentum in zip(normalisations, momenta, strict=True):
            module.momentum = momentum


def _update_discriminator(state: TrainState, made: Sequence[_Forward]) -> dict[str, Tensor]:
    assert state.discriminator is not None
    discriminator, recipe = state.discriminator.network, state.recipe

    def loss_of(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        upscaled, original = made[number].fake, made[number].real
        assert upscaled is not None
        fake, real = joined(discriminator(upscaled.detach())), joined(discriminator(original))
        random = np.random.default_rng([state.seed, state.step, 1])
        fake_labels, real_labels = (
            # Those of the whole update, as if it were one batch; then the part of this batch.
            draw_labels(labels, len(logits) * len(made), random).chunk(len(made))[number].to(logits)
            for labels, logits in ((recipe.fake_labels, fake), (recipe.real_labels, real))
        )
        loss = ADVERSARIAL[recipe.adversarial_form].discriminator(fake, real, fake_labels, real_labels)
        return loss, {
            "discriminator_loss": loss.detach(),
            "d_real": real.detach().sigmoid().mean(),
            "d_fake": fake.detach().sigmoid().mean(),
        }

    return _take_step(state, state.discriminator, len(made), loss_of)


def _generator_terms(state: TrainState, sr: list[Tensor], hr: list[Tensor], clips: ClipBatch) -> dict[str, Tensor]:
    """Return the weighted terms of the generator's loss on clips, without the adversarial term."""
    weights, recipe = state.weights, state.recipe
    terms: dict[str, Tensor] = {}
    for name, loss in PIXEL_LOSSES.items():
        if weight := getattr(weights, name):
            terms[name] = weight * _mean_over_frames(loss, sr, hr, recipe.rising_frames)
    if weights.content:
        chosen = _draw_frames(state, range(len(sr)), recipe.content_frames, 2)
        terms["content"] = weights.content * _content_loss(state, *(_select(frames, chosen) for frames in (sr, hr)))
    if weights.total_variation:
        terms["total_variation"] = weights.total_variation * torch.stack([total_variation(one) for one in sr]).mean()
    if weights.ping_pong:
        there, back = sr[: len(sr) // 2], sr[: len(sr) // 2 : -1]  # a clip of T frames has become 2T - 1
        terms["ping_pong"] = weights.ping_pong * mse(torch.stack(there), torch.stack(back))
    if weights.teacher:
        assert state.teacher is not None
        wanted = _upscale_frozen(state, state.teacher, clips)
        terms["teacher"] = weights.teacher * _mean_over_frames(l1, sr, wanted, recipe.rising_frames)
    if weights.artefacts:
        average = _upscale_frozen(state, cast(RecurrentGenerator, state.ema.module), clips)
        found = [artefacts(*frames) for frames in zip(sr, hr, average, strict=True)]
        terms["artefacts"] = weights.artefacts * torch.stack(found).mean()
    return terms


def _mean_over_frames(
    loss: Callable[[Tensor, Tensor], Tensor], sr: list[Tensor], hr: list[Tensor], rising_frames: int
) -> Tensor:
    """Return the mean of a loss over the frames of a clip, with lower weights for the first frames."""
    shares = [min(1.0, (number + 1) / rising_frames) for number in range(len(sr))]
    losses = [share * loss(*frames) for share, *frames in zip(shares, sr, hr, strict=True)]
    return torch.stack(losses).sum() / sum(shares)


def _draw_frames(state: TrainState, frames: range, count: int, purpose: int) -> list[int]:
    """Draw ``count`` numbers from ``frames``, or all, in order; a function of the seed, the update and the purpose."""
    random = np.random.default_rng([state.seed, state.step, purpose])
    return sorted(random.choice(frames, min(count, len(frames)), replace=False).tolist())


def _select(frames: list[Tensor], numbers: list[int]) -> Tensor:
    return torch.cat([frames[number] for number in numbers])


@torch.no_grad()
def _upscale_frozen(state: TrainState, generator: RecurrentGenerator, clips: ClipBatch) -> list[Tensor]:
    """Upscale clips without gradients by another generator."""
    with state.fabric.autocast():
        return [_to_float32(frame) for frame in upscale_clips(generator, generator, clips)]


def _gradient_norms(terms: Mapping[str, Tensor], sr: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the norms of the gradients at SR of the adversarial term, and of all others together.

    Args:
        terms: the weighted terms of the generator's loss.
        sr: the frames that they depend on.

    Returns:
        Both norms by their columns of the log; nothing if either side has no term.
    """
    others = [term for name, term in terms.items() if name != "adversarial"]
    if not others or len(others) == len(terms):
        return {}
    sides = (torch.stack(others).sum(), terms["adversarial"])
    norms = []
    for side in sides:
        # Raised, as half precision would round small gradients to zero.
        found = torch.autograd.grad(side * 2**16, sr, retain_graph=True, allow_unused=True)
        squares = [gradient.float().square().sum() for gradient in found if gradient is not None]
        norms.append(torch.stack(squares).sum().sqrt() / 2**16)
    return dict(zip(("content_gradient", "adversarial_gradient"), norms, strict=True))


def _content_loss(state: TrainState, sr: Tensor, hr: Tensor) -> Tensor:
    assert state.features is not None
    with state.fabric.autocast():
        with torch.no_grad():
            wanted = state.features(hr)
        found = state.features(sr)
    return mse(_to_float32(found), _to_float32(wanted))


def _adversarial_loss(state: TrainState, made: _Forward) -> Tensor:
    """Return the adversarial loss, without gradients of the discriminator and without Fabric's wrapper of it."""
    assert state.discriminator is not None
    form = ADVERSARIAL[state.recipe.adversarial_form]
    discriminator = state.discriminator.plain.requires_grad_(False)
    with state.fabric.autocast():
        fake = joined(discriminator(made.fake))
        real = torch.zeros_like(fake)
        if form.compares:
            with torch.no_grad():
                real = joined(discriminator(made.real))
    discriminator.requires_grad_(True)
    return form.generator(_to_float32(fake), _to_float32(real))


def _to_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32, for losses."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _take_step(
    state: TrainState, model: TrainableModel, count: int, loss_of: Callable[[int], tuple[Tensor, dict[str, Tensor]]]
) -> dict[str, Tensor]:
    """Do one step of an optimiser on the mean loss of ``count`` batches.

    Args:
        state: the state of the run.
        model: the network to train.
        count: number of batches.
        loss_of: returns the loss of a batch, and what to report of it.

    Returns:
        The means of what is reported.
    """
    model.optimizer.zero_grad()
    reported = []
    for number in range(count):
        loss, seen = loss_of(number)
        state.fabric.backward(loss / count)
        reported.append(seen)
    if state.recipe.gradient_clip:
        state.fabric.clip_gradients(
            model.network, model.optimizer, max_norm=state.recipe.gradient_clip, error_if_nonfinite=False
        )
    model.optimizer.step()
    return {name: torch.stack([seen[name] for seen in reported if name in seen]).mean() for name in reported[0]}


Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""One frame of a recurrent generator: LR and state -> SR and state."""


@dataclass(frozen=True, eq=False)
class Shift:
    """The motion from each pixel of an LR frame to a neighbouring frame, for T - 1 pairs of frames in N clips.

    Attributes:
        flow: (N, T-1, h, w, 2) in LR pixels, x before y.
        trust: (N, T-1, h, w) in [0, 1].
    """

    flow: Tensor
    trust: Tensor

    def to(self, device: torch.device) -> Shift:
        """Return a copy on a device."""
        return Shift(self.flow.to(device, non_blocking=True), self.trust.to(device, non_blocking=True))

    def joined(self, other: Shift) -> Shift:
        """Return these pairs followed by those of ``other`` in reverse order."""
        return Shift(
            torch.cat((self.flow, other.flow.flip(1)), 1), torch.cat((self.trust, other.trust.flip(1)), 1)
        )


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """A batch of clips, or a part of one.

    Attributes:
        lr: (N, T, 3, h, w) RGB in [0, 1].
        hr: (N, T, 3, H, W) likewise.
        before: the shift from each frame but the first to the previous one; None if it is not needed.
        after: the shift from each frame but the last to the next one; None if it is not needed.
    """

    lr: Tensor
    hr: Tensor
    before: Shift | None = None
    after: Shift | None = None

    def to(self, device: torch.device) -> ClipBatch:
        """Return a copy on a device, as floats; uint8 frames are scaled to [0, 1]."""
        lr, hr = (
            frames.float() / 255 if frames.dtype == torch.uint8 else frames
            for frames in (frames.to(device, non_blocking=True) for frames in (self.lr, self.hr))
        )
        before, after = (shift and shift.to(device) for shift in (self.before, self.after))
        return ClipBatch(lr, hr, before, after)

    def pin_memory(self) -> ClipBatch:
        """Return a copy in pinned memory."""
        before, after = (
            shift and Shift(shift.flow.pin_memory(), shift.trust.pin_memory()) for shift in (self.before, self.after)
        )
        return ClipBatch(self.lr.pin_memory(), self.hr.pin_memory(), before, after)

    def alone(self, number: int) -> ClipBatch:
        """Return a batch of one of the clips."""
        return self._part(slice(number, number + 1))

    def split(self, count: int) -> list[ClipBatch]:
        """Split the clips of an update into its ``count`` batches."""
        size = len(self.lr) // count
        return [self._part(slice(number * size, (number + 1) * size)) for number in range(count)]

    def _part(self, which: slice) -> ClipBatch:
        before, after = (
            shift and Shift(shift.flow[which], shift.trust[which]) for shift in (self.before, self.after)
        )
        return ClipBatch(self.lr[which], self.hr[which], before, after)

    def round_trip(self) -> ClipBatch:
        """Append the clips in reverse order: T frames become 2T - 1.

        Raises:
            ValueError: only one of the shifts is known.
        """
        if (self.before is None) != (self.after is None):
            raise ValueError("a round trip needs both shifts, or none")
        lr, hr = (torch.cat((frames, frames[:, :-1].flip(1)), 1) for frames in (self.lr, self.hr))
        if self.before is None or self.after is None:
            return ClipBatch(lr, hr)
        return ClipBatch(lr, hr, self.before.joined(self.after), self.after.joined(self.before))


def find_shift(lr: Tensor, neighbour: Literal["before", "after"]) -> Shift:
    """Estimate the motion between the frames of clips.

    Args:
        lr: (N, T, 3, h, w) uint8 RGB, on the CPU.
        neighbour: whether to estimate the motion to the previous or to the next frame.

    Returns:
        The shifts of all frames that have such a neighbour, with the trust for detail finer than LR.
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
    """Upscale N clips together, frame by frame.

    Args:
        step: the generator to call, which may be wrapped.
        generator: the generator without the wrapper, which defines the state.
        clips: the clips; ``before`` is required if the generator is aligned.
        backprop_frames: interval in frames at which the state is detached; 0 means never.

    Returns:
        T tensors (N, 3, H, W), not clipped.

    Raises:
        ValueError: the generator is aligned and ``clips.before`` is None.
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
    """Make the discriminator's input from SR or HR frames: each middle frame between its neighbours, and by itself.

    The neighbours are warped onto the middle frame along the motion of LR, so that the remaining difference is flicker,
    as in TecoGAN (Chu et al. 2020, https://arxiv.org/abs/1811.09393). A frame by itself is repeated three times, as a
    still clip: so one discriminator rates motion and picture, and there is one loss to balance.

    Args:
        frames: T tensors (N, 3, H, W).
        clips: the clips of these frames, with both shifts.
        middles: numbers of the middle frames, from 1 to T - 2.

    Returns:
        (N * 2 * len(middles), 9, H, W).
    """
    assert clips.before is not None and clips.after is not None
    scale = frames[0].shape[-1] // clips.lr.shape[-1]
    inputs = []
    for middle in middles:
        earlier = warp(frames[middle - 1], enlarge_flow(clips.before.flow[:, middle - 1], scale), "bicubic")
        later = warp(frames[middle + 1], enlarge_flow(clips.after.flow[:, middle], scale), "bicubic")
        inputs += [torch.cat((earlier, frames[middle], later), 1), frames[middle].repeat(1, 3, 1, 1)]
    # Ordered by clip, as processes that share a batch concatenate theirs.
    return torch.stack(inputs, 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)


LARGEST = 320
"""Greatest edge of the middle part of a picture that is measured, in pixels: enough to see the trend, and quick."""


@dataclass(frozen=True)
class HeldOut:
    """A held-out picture, or the last frame of a held-out clip.

    Attributes:
        lr: (3, h, w) uint8 RGB.
        hr: (3, scale*h, scale*w) uint8 RGB.
        clip: the clip, a batch of one, for a recurrent generator; None for a picture.
    """

    lr: Tensor
    hr: Tensor
    clip: ClipBatch | None = None


@dataclass(frozen=True)
class Quality:
    """Mean quality over the held-out pictures.

    Attributes:
        psnr_y: in dB; greater is better.
        ssim_y: at most 1; greater is better.
        lpips: 0 for equal pictures; smaller is better. None if it is not measured.
        lpips_backbone: the name of its backbone; None if it is not measured.
    """

    psnr_y: float
    ssim_y: float
    lpips: float | None
    lpips_backbone: str | None = None


def least_size(scale: int, lpips: LpipsChoice = "squeeze") -> int:
    """Return the least edge of a picture that can be measured: SSIM's window inside the border, and LPIPS."""
    return -(-max(LPIPS_MIN_SIZES.get(lpips, 1), 11 + 2 * scale) // scale) * scale


def middle(picture: Tensor, scale: int) -> Tensor:
    """Return the middle of (3, H, W) with edges of at most ``LARGEST`` and multiples of the scale."""
    height, width = (min(size, LARGEST) // scale * scale for size in picture.shape[-2:])
    top, left = (picture.shape[-2] - height) // 2, (picture.shape[-1] - width) // 2
    return picture[:, top : top + height, left : left + width].contiguous()


@float32_products(tf32=False)
@torch.inference_mode()
def measure(
    generator: nn.Module, held_out: Sequence[HeldOut], lpips: nn.Module | None, *, scale: int, device: torch.device
) -> tuple[Quality | None, list[Tensor]]:
    """Upscale the held-out pictures and compare them with HR, in float32 whatever the precision of the run.

    Args:
        generator: (N, 3, h, w) RGB in [0, 1] -> (N, 3, scale*h, scale*w); or a recurrent one.
        held_out: the pictures.
        lpips: two batches of RGB in [0, 1] -> distances; None to skip LPIPS.
        scale: the scale of the generator; by convention also the border that PSNR and SSIM exclude.
        device: the device of the generator and of ``lpips``.

    Returns:
        The means (None without pictures), and the upscaled pictures, (3, H, W) uint8 each on the CPU.
    """
    was_training = generator.training
    generator.eval()
    values: list[Quality] = []
    upscaled = []
    for pair in held_out:
        sr = _upscale(generator, pair, device).mul(255).round().clamp(0, 255)[0].byte().cpu()
        values.append(compare(sr, pair.hr, lpips, scale=scale, device=device))
        upscaled.append(sr)
    generator.train(was_training)
    if not values:
        return None, []
    psnr, ssim = (sum(getattr(each, name) for each in values) / len(values) for name in ("psnr_y", "ssim_y"))
    distances = [each.lpips for each in values if each.lpips is not None]
    return Quality(psnr, ssim, sum(distances) / len(distances) if distances else None), upscaled


@float32_products(tf32=False)
@torch.inference_mode()
def compare(sr: Tensor, hr: Tensor, lpips: nn.Module | None, *, scale: int, device: torch.device) -> Quality:
    """Compare one picture with HR, both (3, H, W) uint8 RGB; see ``measure``."""
    x, y = (picture[None].to(device).float() / 255 for picture in (sr, hr))
    distance = None if lpips is None else float(lpips(x, y))
    return Quality(float(psnr_y(x, y, border=scale)), float(ssim_y(x, y, border=scale)), distance)


def _upscale(generator: nn.Module, pair: HeldOut, device: torch.device) -> Tensor:
    """Upscale a picture, or a clip's last frame: (1, 3, scale*h, scale*w)."""
    if pair.clip is not None:
        assert isinstance(generator, RecurrentGenerator)
        return upscale_clips(generator, generator, pair.clip.to(device))[-1]
    lr = pair.lr[None].to(device).float() / 255
    sr: Tensor = generator(lr.contiguous(memory_format=torch.channels_last))
    return sr
