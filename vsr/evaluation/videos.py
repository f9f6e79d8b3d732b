"""Clips against their reference: PSNR, SSIM, VMAF and steadiness of every frame.

All clips are decoded twice. The first pass learns the times of the frames and pairs them, so that clips that do not
belong together are refused before the hours of work; the second reads the reference and all outputs side by side, and
holds two frames of each.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch

from vsr.errors import InputError, UsageError
from vsr.evaluation.clips import Clip, Schedule, identify, read_rgb, read_schedule, said_once
from vsr.evaluation.pairing import ROUNDING, Pairing, name_frames, pair_times, require_pairs
from vsr.evaluation.steadiness import MIN_SIZE, Luma, find_transition, still_change, warping_error
from vsr.evaluation.tracks import Shown, Step, Track, read_paired
from vsr.evaluation.video_options import VideoEvalOptions
from vsr.evaluation.video_scores import OutputScore, VideoReport
from vsr.evaluation.vmaf import MIN_SIZE as MIN_VMAF_SIZE
from vsr.evaluation.vmaf import NO_VMAF, find_program_with_vmaf
from vsr.imaging.metrics import SSIM_WINDOW
from vsr.imaging.resize import resize_bicubic


@dataclass(frozen=True)
class VideoEvalProgress:
    """Where a comparison stands, given to the caller's callback after each frame.

    Attributes:
        stage: ``reading`` the times of one clip after the other, then ``comparing``.
        frames: frames read, of all clips; or frames of the reference compared.
        num_frames: in all; None where headers do not tell.
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
        FFmpegError: VMAF is asked for, and the ffmpeg program is missing, lacks libvmaf, or fails.
    """
    reference, *outputs = [identify(path) for path in (options.reference, *options.outputs)]
    lr = identify(options.lr) if options.lr is not None else None
    _check_sizes(reference, outputs, lr, options)
    if options.vmaf:
        find_program_with_vmaf()
    if not options.steadiness:
        lr = None  # which it serves alone
    clips = [reference, *outputs, *([lr] if lr is not None else [])]
    with said_once():
        schedules = _read_schedules(clips, progress)
        pairings = [_pair(clips, schedules, number, options) for number in range(1, len(clips))]
        with ExitStack() as stack:
            model, count = options.vmaf_model if options.vmaf else None, len(schedules[0].times)
            tracks = [
                stack.enter_context(Track(reference, clip, pairing, count, options.border, model))
                for clip, pairing in zip(outputs, pairings, strict=False)  # behind the outputs' lies that of LR
            ]
            bicubic = None
            if lr is not None:
                bicubic = stack.enter_context(closing(_enlarged(lr, pairings[-1], count, reference)))
            steps = stack.enter_context(closing(_steps(reference, schedules[0], bicubic, options.steadiness)))
            cuts = []
            for step in steps:
                for track in tracks:
                    track.take(step)
                if step.transition is not None and step.transition.is_cut:
                    cuts.append(step.number)
                if progress is not None:
                    progress(VideoEvalProgress("comparing", step.number + 1, count))
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
                f"{clip.path} is {clip.size} and {reference.path} is {reference.size}; clips of one size are compared."
            )
    if lr is not None and (lr.video.width > width or lr.video.height > height):
        raise InputError(
            f"{lr.path} is {lr.size}, larger than {reference.path} with {reference.size}; it is no LR clip."
        )
    if min(width, height) - 2 * options.border < SSIM_WINDOW:
        raise UsageError(
            f"{reference.path} is {reference.size}, of which a border of {options.border} leaves less than the "
            f"{SSIM_WINDOW} pixels that SSIM needs."
        )
    if options.vmaf and min(width, height) < MIN_VMAF_SIZE:
        raise InputError(
            f"{reference.path} is {reference.size}; VMAF needs {MIN_VMAF_SIZE} pixels each way; {NO_VMAF}."
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
    if options.align == "start":
        times = [tuple(time - each[0] for time in each) for each in times]
    pairing = pair_times(*times)
    require_pairs(pairing, (clips[0].path, times[0]), (clips[number].path, times[1]), options.max_unpaired)
    return pairing


def _notes(
    reference: Clip, schedule: Schedule, clip: Clip, own: Schedule, pairing: Pairing, by_time: bool
) -> tuple[str, ...]:
    """What is not alike in two clips, and was compared all the same."""
    notes = []
    for whose, unpaired, times in (
        ("the reference's", pairing.reference_unpaired, schedule.times),
        ("its own", pairing.output_unpaired, own.times),
    ):
        if unpaired:
            notes.append(f"Without a partner: {len(unpaired)} of {whose} frames, {name_frames(unpaired, times)}.")
    later = own.times[0] - schedule.times[0]
    if abs(later) > ROUNDING:
        hint = "; --align start pairs from the first frames instead" if by_time else ""
        notes.append(f"It starts {abs(float(later)):.3f} s {'after' if later > 0 else 'before'} the reference{hint}.")
    if not pairing.same_rate:
        notes.append(f"The frame rates differ; {len(pairing.pairs)} frames show the same moment.")
    if pairing.largest_offset > ROUNDING:
        notes.append(f"Paired frames lie up to {float(pairing.largest_offset) * 1000:.1f} ms apart.")
    if own.display_matrix != schedule.display_matrix:
        notes.append("Players turn or mirror the two clips differently; the frames are compared as coded.")
    elif own.display_matrix is not None:
        notes.append("Players turn or mirror both clips; the frames are compared as coded.")
    for what, theirs, ours in (
        ("pixel format", reference.video.pix_fmt, clip.video.pix_fmt),
        ("pixel aspect ratio", *(each.video.sample_aspect_ratio or 1 for each in (reference, clip))),
        ("matrix", reference.colour.matrix, clip.colour.matrix),
        ("range", *("full" if colour.full_range else "limited" for colour in (reference.colour, clip.colour))),
    ):
        if theirs != ours:
            notes.append(f"Its {what} is {ours}, the reference's {theirs}.")
    return tuple(notes)


def _enlarged(lr: Clip, pairing: Pairing, num_frames: int, reference: Clip) -> Generator[Luma | None, None, None]:
    """For each frame of the reference the LR clip's luma, enlarged to its size; None without a partner."""
    with closing(read_paired(lr, pairing, num_frames)) as frames:
        for rgb in frames:
            if rgb is None:
                yield None
            else:
                luma = torch.from_numpy(Shown(rgb).luma)  # luma is linear, and one plane is faster than three
                yield cast(Luma, resize_bicubic(luma, reference.video.height, reference.video.width).numpy())


def _steps(
    reference: Clip, schedule: Schedule, bicubic: Iterator[Luma | None] | None, steady: bool
) -> Generator[Step, None, None]:
    """The frames of the reference, each with what became of the last one."""
    steady = steady and min(reference.video.width, reference.video.height) >= MIN_SIZE
    last: Luma | None = None
    last_bicubic: Luma | None = None
    number = -1
    with closing(read_rgb(reference)) as frames:
        for number, (rgb, time) in enumerate(zip(frames, schedule.times, strict=False)):
            shown = Shown(rgb)
            at_bicubic = next(bicubic) if bicubic is not None else None
            step = Step(number, float(time), shown)
            if steady and last is not None:
                step = _with_transition(step, last, last_bicubic, at_bicubic)
            yield step
            last, last_bicubic = (shown.luma, at_bicubic) if steady else (None, None)
    if number + 1 != len(schedule.times):
        raise InputError(f"{reference.path} has changed while it was compared; leave it alone and start again.")


def _with_transition(step: Step, last: Luma, last_bicubic: Luma | None, bicubic: Luma | None) -> Step:
    transition = find_transition(last, step.shown.luma)
    bicubic_change = None
    if last_bicubic is not None and bicubic is not None:
        bicubic_change = still_change(last_bicubic, bicubic, transition)
    return replace(
        step,
        transition=transition,
        warping_error=warping_error(last, step.shown.luma, transition),
        still_change=still_change(last, step.shown.luma, transition),
        bicubic_still_change=bicubic_change,
    )
