"""Measure clips against their reference: PSNR, SSIM, VMAF and steadiness of every frame.

All clips are decoded twice. The first pass reads the times of the frames and pairs them, so that clips that do not
belong together are refused before hours of work; the second reads the reference and all outputs side by side, with two
frames of each in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import Literal, cast

import torch
from torch import Tensor

from vsr.errors import InputError, UsageError, setting
from vsr.evaluation.options import VideoEvalOptions
from vsr.evaluation.pairing import (
    ROUNDING,
    Clip,
    Pairing,
    Schedule,
    identify,
    name_frames,
    pair_parts,
    pair_times,
    read_rgb,
    read_schedule,
    require_pairs,
    warnings_once,
)
from vsr.evaluation.scores import FrameScore, OutputScore, VideoReport
from vsr.evaluation.steadiness import Luma, Transition, find_transition, still_change, warping_error
from vsr.evaluation.vmaf import DEPTHS, VmafScorer, find_program_with_vmaf, without_vmaf
from vsr.evaluation.vmaf import MIN_SIZE as MIN_VMAF_SIZE
from vsr.imaging.colour import ColourSpec, PixelLayout, rgb_to_planes
from vsr.imaging.metrics import SSIM_WINDOW, luma, psnr_y, ssim_y
from vsr.imaging.motion import MIN_FLOW_SIZE
from vsr.imaging.resize import resize_bicubic
from vsr.media.clip import Plane


@dataclass(frozen=True)
class VideoEvalProgress:
    """The progress of a comparison, given to the caller's callback after each frame.

    Attributes:
        stage: ``reading`` the times of one clip after the other, then ``comparing``.
        frames: number of frames read, of all clips; or of frames of the reference compared.
        num_frames: their total; None if the headers do not state it.
    """

    stage: Literal["reading", "comparing"]
    frames: int
    num_frames: int | None


def evaluate_videos(
    options: VideoEvalOptions, progress: Callable[[VideoEvalProgress], None] | None = None
) -> VideoReport:
    """Measure outputs against a reference, frame by frame, paired by their times.

    Args:
        options: what to measure.
        progress: called after each frame.

    Raises:
        InputError: a clip is missing, damaged, a picture, or of another size, or its frames do not pair with those of
            the reference.
        UsageError: the border leaves nothing to compare.
        FFmpegError: VMAF is to be measured, and the ffmpeg program is missing, lacks libvmaf, or fails.
    """
    reference, *outputs = [identify(path) for path in (options.reference, *options.outputs)]
    lr = identify(options.lr) if options.lr is not None else None
    _check_sizes(reference, outputs, lr, options)
    if options.vmaf:
        find_program_with_vmaf()
    if not options.steadiness:
        lr = None  # used for steadiness only
    clips = [reference, *outputs, *([lr] if lr is not None else [])]
    with warnings_once():
        schedules = _read_schedules(clips, progress)
        pairings = [_pair(clips, schedules, number, options) for number in range(1, len(clips))]
        with ExitStack() as stack:
            model, numbers = options.vmaf_model if options.vmaf else None, _numbers(pairings[: len(outputs)])
            partners = [
                stack.enter_context(closing(read_paired(clip, pairing, numbers)))
                for clip, pairing in zip(clips[1:], pairings, strict=True)
            ]
            tracks = [
                stack.enter_context(Track(reference, clip, pairing, frames, options.border, model))
                for clip, pairing, frames in zip(outputs, pairings, partners, strict=False)  # LR's are the last
            ]
            bicubic = _enlarge(partners[-1], reference) if lr is not None else None
            steps = stack.enter_context(
                closing(_read_steps(reference, schedules[0], numbers, bicubic, options.steadiness))
            )
            cuts = []
            for step in steps:
                for track in tracks:
                    track.compare(step)
                if step.transition is not None and step.transition.is_cut:
                    cuts.append(step.number)
                if progress is not None:
                    progress(VideoEvalProgress("comparing", step.number - numbers.start + 1, len(numbers)))
            scores = [track.finish() for track in tracks]
    found = []
    for clip, frames, pairing, schedule in zip(outputs, scores, pairings, schedules[1:], strict=False):
        notes = _notes(reference, schedules[0], clip, schedule, pairing, options.align == "time")
        found.append(OutputScore(clip.path, frames, pairing, schedule.times, notes))
    width, height, version = reference.video.width, reference.video.height, tracks[0].vmaf_version
    return VideoReport(options, width, height, schedules[0].times, tuple(cuts), version, tuple(found))


def _check_sizes(reference: Clip, outputs: Sequence[Clip], lr: Clip | None, options: VideoEvalOptions) -> None:
    width, height = reference.video.width, reference.video.height
    for clip in outputs:
        if (clip.video.width, clip.video.height) != (width, height):
            raise InputError(
                f"{clip.path} is {clip.size} and {reference.path} is {reference.size}; clips must have the same size."
            )
    if lr is not None and (lr.video.width > width or lr.video.height > height):
        raise InputError(
            f"{lr.path} is {lr.size}, larger than {reference.path} with {reference.size}; it is no LR clip."
        )
    if min(width, height) - 2 * options.border < SSIM_WINDOW:
        raise UsageError(
            f"{reference.path} is {reference.size}, and a border of {options.border} leaves less than the "
            f"{SSIM_WINDOW} pixels that SSIM needs."
        )
    if options.vmaf and min(width, height) < MIN_VMAF_SIZE:
        raise InputError(
            f"{reference.path} is {reference.size}; VMAF needs {MIN_VMAF_SIZE} pixels each way; {without_vmaf()}."
        )


def _read_schedules(clips: Sequence[Clip], progress: Callable[[VideoEvalProgress], None] | None) -> list[Schedule]:
    estimates = [clip.video.num_frames_estimated for clip in clips]
    total = sum(cast(int, estimate) for estimate in estimates) if None not in estimates else None
    schedules: list[Schedule] = []
    done = 0

    def report(frames: int) -> None:
        if progress is not None:
            progress(VideoEvalProgress("reading", done + frames, total))

    for clip in clips:
        schedules.append(read_schedule(clip, report))
        done += len(schedules[-1].times)
    return schedules


def _pair(clips: Sequence[Clip], schedules: Sequence[Schedule], number: int, options: VideoEvalOptions) -> Pairing:
    """Pair a clip's frames with those of the first clip, the reference."""
    times = [schedules[index].times for index in (0, number)]
    parts = any(clips[index].part_start is not None for index in (0, number))
    if options.align == "start":
        times = [tuple(time - each[0] for time in each) for each in times]
    pairing = pair_parts(*times) if parts and options.align == "time" else pair_times(*times)
    require_pairs(pairing, (clips[0].path, times[0]), (clips[number].path, times[1]), options.max_unpaired)
    return pairing


def _numbers(pairings: Sequence[Pairing]) -> range:
    """Return the numbers of the reference's frames from the first to the last that has a partner in an output."""
    firsts, lasts = zip(*((pairing.pairs[0][0], pairing.pairs[-1][0]) for pairing in pairings), strict=True)
    return range(min(firsts), max(lasts) + 1)


def _notes(
    reference: Clip, schedule: Schedule, clip: Clip, own: Schedule, pairing: Pairing, by_time: bool
) -> tuple[str, ...]:
    """Return sentences on differences between two clips that did not prevent their comparison."""
    notes = []
    for whose, unpaired, times in (
        ("the reference's", pairing.reference_unpaired, schedule.times),
        ("its own", pairing.output_unpaired, own.times),
    ):
        if unpaired:
            notes.append(f"Without a partner: {len(unpaired)} of {whose} frames, {name_frames(unpaired, times)}.")
    later = own.times[0] - schedule.times[0]
    if not by_time:
        later -= (clip.part_start or 0) - (reference.part_start or 0)
    parts = [each.part_start is not None for each in (reference, clip)]
    if any(parts) and by_time:
        whose = "The reference shows" if parts[0] else "It shows"
        first, last = (float(schedule.times[pair[0]]) for pair in (pairing.pairs[0], pairing.pairs[-1]))
        notes.append(f"{whose} a part of the source; both are compared from {first:.3f} to {last:.3f} s.")
    elif abs(later) > ROUNDING:
        hint = f"; {setting('align', 'start')} pairs from the first frames instead" if by_time else ""
        notes.append(f"It starts {abs(float(later)):.3f} s {'after' if later > 0 else 'before'} the reference{hint}.")
    if not pairing.same_rate:
        notes.append(f"The frame rates differ; {len(pairing.pairs)} frames show the same moment.")
    if pairing.largest_offset > ROUNDING:
        notes.append(f"Paired frames are up to {float(pairing.largest_offset) * 1000:.1f} ms apart.")
    if own.display_matrix != schedule.display_matrix:
        notes.append("Players rotate or mirror the two clips differently; the frames are compared as coded.")
    elif own.display_matrix is not None:
        notes.append("Players rotate or mirror both clips; the frames are compared as coded.")
    for what, theirs, ours in (
        ("pixel format", reference.video.pix_fmt, clip.video.pix_fmt),
        ("pixel aspect ratio", *(each.video.sample_aspect_ratio or 1 for each in (reference, clip))),
        ("matrix", reference.colour.matrix, clip.colour.matrix),
        ("range", *("full" if colour.full_range else "limited" for colour in (reference.colour, clip.colour))),
    ):
        if theirs != ours:
            notes.append(f"Its {what} is {ours}, the reference's {theirs}.")
    return tuple(notes)


def _enlarge(lr: Iterator[Tensor | None], reference: Clip) -> Iterator[Luma | None]:
    """Yield the luma of frames of the LR clip, enlarged to the reference's size; None for None."""
    for rgb in lr:
        if rgb is None:
            yield None
        else:
            luma = torch.from_numpy(ComparedFrame(rgb).luma)  # luma is linear, and one plane is faster than three
            yield cast(Luma, resize_bicubic(luma, reference.video.height, reference.video.width).numpy())


def _read_steps(
    reference: Clip, schedule: Schedule, numbers: range, bicubic: Iterator[Luma | None] | None, steadiness: bool
) -> Generator[Step, None, None]:
    """Yield the frames of the reference with these numbers, each with its transition from the previous one."""
    steadiness = steadiness and min(reference.video.width, reference.video.height) >= MIN_FLOW_SIZE
    last: Luma | None = None
    last_bicubic: Luma | None = None
    number = numbers.start - 1
    with closing(read_rgb(reference, numbers.start)) as frames:
        for number, rgb in zip(numbers, frames, strict=False):
            frame = ComparedFrame(rgb)
            bicubic_luma = next(bicubic) if bicubic is not None else None
            step = Step(number, float(schedule.times[number]), frame)
            if steadiness and last is not None:
                step = _with_transition(step, last, last_bicubic, bicubic_luma)
            yield step
            last, last_bicubic = (frame.luma, bicubic_luma) if steadiness else (None, None)
    if number + 1 != numbers.stop:
        raise InputError(f"{reference.path} was changed during the comparison; start again without changing it.")


def _with_transition(step: Step, last: Luma, last_bicubic: Luma | None, bicubic: Luma | None) -> Step:
    transition = find_transition(last, step.frame.luma)
    bicubic_change = None
    if last_bicubic is not None and bicubic is not None:
        bicubic_change = still_change(last_bicubic, bicubic, transition)
    return replace(
        step,
        transition=transition,
        warping_error=warping_error(last, step.frame.luma, transition),
        still_change=still_change(last, step.frame.luma, transition),
        bicubic_still_change=bicubic_change,
    )


class ComparedFrame:
    """A frame in the forms in which it is compared, each computed on first use.

    Args:
        rgb: (1, 3, H, W) float32, not clipped.
    """

    def __init__(self, rgb: Tensor) -> None:
        self._rgb = rgb

    @cached_property
    def rgb(self) -> Tensor:
        """(1, 3, H, W) float32 as a display shows it, in [0, 1]."""
        return self._rgb.clamp(0, 1)

    @cached_property
    def luma(self) -> Luma:
        """(H, W) MATLAB's Y, 16..235."""
        return cast(Luma, luma(self.rgb)[0].numpy())

    def coded_luma(self, matrix: str, bit_depth: int) -> Plane:
        """Return (H, W) luma of limited range: the file's own if it has this matrix, range and depth."""
        layout, colour = PixelLayout("grey", bit_depth), ColourSpec(matrix=matrix, full_range=False)
        return cast(Plane, rgb_to_planes(self._rgb, layout, colour)[0][0].numpy())


@dataclass(frozen=True)
class Step:
    """A frame of the reference, and its transition from the previous one.

    Attributes:
        number: number of the frame, from 0.
        seconds: its time.
        frame: the frame.
        transition: from the previous frame; None for the first, or if steadiness is not measured.
        warping_error: the reference's own; None at a cut, and if no pixel is visible in both frames.
        still_change: the reference's own.
        bicubic_still_change: that of the enlarged LR clip.
    """

    number: int
    seconds: float
    frame: ComparedFrame
    transition: Transition | None = None
    warping_error: float | None = None
    still_change: float | None = None
    bicubic_still_change: float | None = None


class Track:
    """An output that is read along with the reference; a context manager, which ends VMAF.

    Args:
        reference: the clip to compare with.
        clip: the output.
        pairing: the pairs of the two.
        frames: the partners of the frames that ``compare`` gets, as of ``read_paired``.
        border: pixels that PSNR and SSIM leave out at each side.
        vmaf_model: name of libvmaf's model; None: VMAF is not measured.
    """

    def __init__(
        self, reference: Clip, clip: Clip, pairing: Pairing, frames: Iterator[Tensor | None], border: int,
        vmaf_model: str | None,
    ) -> None:  # fmt: skip
        self._partner = dict(pairing.pairs)
        self._border = border
        self._matrix = reference.colour.matrix
        deepest = max(reference.layout.bit_depth, clip.layout.bit_depth)
        self._bit_depth = next(depth for depth in DEPTHS if depth >= deepest)
        self._scores: list[FrameScore] = []
        self._last: Luma | None = None
        self.vmaf_version = ""
        self._frames = frames
        self._vmaf: VmafScorer | None = None
        self._resources = ExitStack()
        if vmaf_model is not None:
            scorer = VmafScorer(clip.video.width, clip.video.height, self._bit_depth, vmaf_model)
            self._vmaf = self._resources.enter_context(scorer)

    def compare(self, step: Step) -> None:
        """Compare the partner of the reference's next frame, if it has one.

        Raises:
            InputError: the clip was changed since its times were read.
            FFmpegError: VMAF failed.
        """
        rgb = next(self._frames)
        if rgb is None:
            self._last = None
            return
        frame = ComparedFrame(rgb)
        score = FrameScore(
            number=step.number,
            output_number=self._partner[step.number],
            seconds=step.seconds,
            psnr_y=psnr_y(frame.rgb, step.frame.rgb, border=self._border).item(),
            ssim_y=ssim_y(frame.rgb, step.frame.rgb, border=self._border).item(),
        )
        if self._vmaf is not None:
            planes = (each.coded_luma(self._matrix, self._bit_depth) for each in (step.frame, frame))
            self._vmaf.add(*planes)
        if step.transition is not None and self._last is not None:
            score = self._with_steadiness(score, self._last, frame.luma, step, step.transition)
        self._scores.append(score)
        self._last = frame.luma

    @staticmethod
    def _with_steadiness(
        score: FrameScore, earlier: Luma, later: Luma, step: Step, transition: Transition
    ) -> FrameScore:
        change = still_change(earlier, later, transition)
        return replace(
            score,
            warping_error=warping_error(earlier, later, transition),
            reference_warping_error=step.warping_error,
            still_pixels=int(transition.still.sum()) if change is not None else 0,
            still_change=change,
            reference_still_change=step.still_change,
            bicubic_still_change=step.bicubic_still_change,
        )

    def finish(self) -> tuple[FrameScore, ...]:
        """Return the scores of all frames that have a partner; call it once, after the last frame.

        Raises:
            FFmpegError: VMAF failed.
        """
        if self._vmaf is None:
            return tuple(self._scores)
        values = self._vmaf.finish()
        self.vmaf_version = self._vmaf.version
        return tuple(replace(score, vmaf=value) for score, value in zip(self._scores, values, strict=True))

    def __enter__(self) -> Track:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()


def read_paired(clip: Clip, pairing: Pairing, numbers: range) -> Generator[Tensor | None, None, None]:
    """Yield for each of the reference's frames its partner as RGB (1, 3, H, W); None if it has none.

    Args:
        clip: the clip to read.
        pairing: its pairs with the reference.
        numbers: numbers of the reference's frames.

    Raises:
        InputError: the clip has fewer frames than when its times were read.
    """
    partner = dict(pairing.pairs)
    first = next((partner[number] for number in numbers if number in partner), 0)
    position = first - 1
    with closing(read_rgb(clip, first)) as frames:
        for number in numbers:
            wanted = partner.get(number)
            if wanted is None:
                yield None
                continue
            for rgb in frames:
                position += 1
                if position == wanted:
                    yield rgb
                    break
            else:
                raise InputError(f"{clip.path} was changed during the comparison; start again without changing it.")
