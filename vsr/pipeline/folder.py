"""Many inputs with an output each: a failure does not stop the others, and existing outputs are not made again."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vsr.errors import InputError, OutputError, UnknownModelError, UsageError, VsrError, setting
from vsr.imaging.pictures import is_animated
from vsr.media.formats import CONTAINERS, VIDEO_ENDINGS
from vsr.media.pictures import (
    files_named,
    find_pictures,
    is_pattern,
    is_picture_name,
    names_many_files,
    natural_order,
)
from vsr.media.provenance import read_provenance
from vsr.networks.weights import scale_of
from vsr.pipeline.job import ClipPlan, Stop, UpscaleProgress, UpscaleSummary, executor_for, speed, upscale_clip
from vsr.pipeline.journal import Command, read_job, remove_if_empty
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.scheduler import Executor

logger = logging.getLogger(__name__)

PICTURE = -1
"""Stands for the size in bytes of a picture, whose number of frames is known."""


@dataclass(frozen=True)
class Pair:
    """An input and its output."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """The result of one input.

    Attributes:
        pair: the input and its output.
        state: ``done``; ``damaged``: done, from a damaged source; ``there``: the output existed before; ``failed``;
            ``stopped``: the caller has stopped the work, and inputs after it have no outcome.
        error: why it failed, or a remark on the result.
        summary: of the job, where one ran.
    """

    pair: Pair
    state: Literal["done", "damaged", "there", "failed", "stopped"]
    error: str = ""
    summary: UpscaleSummary | None = None


@dataclass(frozen=True)
class FolderProgress:
    """The progress of the work on many inputs.

    Attributes:
        pair: the current input and its output.
        number: its number, from 1.
        count: number of inputs.
        frames: frames done in all inputs, without those whose output existed before.
        num_frames: frames to do in all, estimated by file size for inputs that have not begun.
        clip: the progress of the current input.
        frames_per_second: of all inputs in this run; None until the first frame is done.
        seconds_left: for all inputs; None as long as it is unknown.
    """

    pair: Pair
    number: int
    count: int
    frames: int
    num_frames: int
    clip: UpscaleProgress
    frames_per_second: float | None = None
    seconds_left: float | None = None


def split_output(names: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """Take the output from the end of a list of names, as ``cp`` does.

    The last of several is the output if it does not exist, ends in a slash, is a pattern with a number, or can be
    recognised as the output of the command before.

    Returns:
        The inputs, and the output; None: there is none among them.

    Raises:
        UsageError: the last one could be an input as well as the output.
    """
    *inputs, last = names
    path = Path(last)
    if not inputs or (names_many_files(path) and not is_pattern(path)):
        return tuple(names), None
    sources, folder = [Path(name) for name in inputs], path.is_dir()
    if not os.path.lexists(last) or (folder and _receives(path, last, sources)):
        return tuple(inputs), last
    if not folder and len(inputs) == 1 and (read_job(path) is not None or read_provenance(path) is not None):
        return tuple(inputs), last
    if folder or len(inputs) == 1:
        raise UsageError(
            f"{last} {'is a folder' if folder else 'exists'}: is it the output, or an input too? For the output write "
            f"-o {last}; for several inputs name a folder of the outputs, such as -o upscaled/."
        )
    return tuple(names), None


def _receives(folder: Path, name: str, sources: Sequence[Path]) -> bool:
    """Whether an existing folder is meant for the outputs: it is empty, named with a slash, or has some of them."""
    if name.endswith(("/", os.sep)) and not all(source.is_dir() for source in sources):
        return True
    with suppress(InputError, OSError):  # a folder without inputs, or one that cannot be read
        if not any(folder.iterdir()) or any(folder.glob("*.vsr-job")):
            return True
        for source in sources:
            for path, relative in _expand(source, folder, False):
                if (folder / relative.with_name(_output_name(path))).exists():
                    return True
    return False


def outputs_beside(sources: Sequence[Path], options: UpscaleOptions, *, recursive: bool = False) -> list[Pair]:
    """Return an output beside each input: ``clip_x4.mp4`` for ``clip.mp4``, and for a folder the folder ``clips_x4``.

    What an earlier command has made of another input is no input itself: ``*.mp4`` finds it too.

    Args:
        sources: files and folders.
        options: the scale or the size, and the part, are in the names.
        recursive: include subfolders.

    Raises:
        InputError: a folder has nothing to upscale.
        UnknownModelError: there is no such model.
        UsageError: beside an input there is no place for an output, or it would replace another input.
    """
    suffix, pairs = _suffix_of(options), dict[Path, Path]()
    for source in sources:
        for pair in _beside(source, suffix, recursive):
            target = pair.target
            if pairs.get(target, pair.source) != pair.source:
                target = target.with_name(f"{pair.source.name}{suffix}{target.suffix}")
            if pairs.setdefault(target, pair.source) != pair.source:
                raise UsageError(f"{pairs[target]} and {pair.source} would both become {target}; name a folder.")
    former = [source for source in pairs.values() if source in pairs]
    for source in former:
        if read_provenance(source) is None:
            raise UsageError(f"{source} is an input, and {pairs[source]} would become it too; name a folder with -o.")
    if former:
        logger.warning("left out, as outputs of other inputs: %s", ", ".join(path.name for path in former))
    return [Pair(source, target) for target, source in pairs.items() if source not in former]


def _beside(source: Path, suffix: str, recursive: bool) -> Iterator[Pair]:
    _check_length(source)
    if source.is_dir():
        folder = Path(os.path.abspath(source))
        if not folder.name:
            raise UsageError(f"there is no place beside {source}: name the output with -o.")
        yield from pair_inputs([source], folder.with_name(folder.name + suffix), recursive=recursive)
    elif names_many_files(source):
        if is_pattern(source):
            raise UsageError(f"{source} stands for many pictures: name the output with -o, a clip or a folder.")
        for path in files_named(source, recursive=recursive):
            yield from _beside(path, suffix, recursive)
    else:
        name = Path(_output_name(source))
        target = source.with_name(f"{name.stem}{suffix}{name.suffix}")
        if is_picture_name(target) and is_pattern(target):
            raise UsageError(f"{target} would stand for many pictures: name the output with -o.")
        yield Pair(source, target)


def _suffix_of(options: UpscaleOptions) -> str:
    """Return ``_x4``, ``_1080p`` or ``_1920x1080``, and for a part its time: ``_x4_60s-70s``."""
    if options.size is not None:
        text = "_{}x{}".format(*options.size)
    elif options.height is not None:
        text = f"_{options.height}p"
    else:
        text = f"_x{scale_of(options.model) if options.scale is None else options.scale:g}"
    if options.start is None and options.end is None:
        return text
    start, end = float(options.start or 0), "" if options.end is None else f"{float(options.end):g}s"
    return f"{text}_{start:g}s-{end}"


def has_many_outputs(sources: Sequence[Path], target: Path) -> bool:
    """Whether the output is a folder for one output per input.

    It is if the folder exists, or if its name has no ending and the input is more than one file.

    Raises:
        UsageError: there are several inputs, or a folder of clips, and the output is a file; or a name is too long.
    """
    first = sources[0]
    for path in (*sources, target):
        _check_length(path)
    several = len(sources) > 1 or first.is_dir() or names_many_files(first)
    if target.is_dir() or (several and not target.suffix and not is_pattern(target)):
        return True
    if len(sources) > 1:
        raise UsageError(f"there are {len(sources)} inputs, and {target} is one file; name a folder.")
    if first.is_dir() and not find_pictures(first) and any(_inputs_in(first, False)):
        raise UsageError(f"{first} holds clips, and {target} is one file; name a folder for the outputs.")
    return False


def _check_length(path: Path) -> None:
    try:
        path.lstat()
    except OSError as exc:
        if exc.errno == errno.ENAMETOOLONG:
            raise UsageError(f"the name {path} is too long for this system; choose a shorter one.") from exc


def pair_inputs(sources: Sequence[Path], folder: Path, *, recursive: bool = False) -> list[Pair]:
    """Return an output in ``folder`` for each input, under the input's name.

    Args:
        sources: files, folders of videos and pictures, and patterns such as ``clips/*.mp4`` and ``frames/%04d.png``.
        folder: the folder of the outputs; it gets the subfolders of the sources.
        recursive: include subfolders.

    Raises:
        InputError: a folder or pattern has nothing to upscale.
        UsageError: two inputs would have the same output.
    """
    pairs: dict[Path, Path] = {}
    for source in sources:
        for path, relative in _expand(source, folder, recursive):
            target = folder / relative.with_name(_output_name(path))
            if pairs.get(target, path) != path and target.suffix != relative.suffix:
                target = target.with_name(relative.name + target.suffix)
            if pairs.setdefault(target, path) != path:
                raise UsageError(f"{pairs[target]} and {path} would both become {target}; upscale them separately.")
    return [Pair(source, target) for target, source in pairs.items()]


def _expand(source: Path, outputs: Path, recursive: bool) -> Iterator[tuple[Path, Path]]:
    """Yield the inputs that a name stands for, each with its path relative to it."""
    if source.is_dir():
        inputs = [path for path in _inputs_in(source, recursive) if outputs not in path.parents or outputs == source]
        if not inputs:
            deeper = "" if recursive else f"; {setting('recursive', True)} includes subfolders"
            raise InputError(f"the folder {source} holds no videos and no pictures{deeper}.")
        yield from ((path, path.relative_to(source)) for path in inputs)
    elif names_many_files(source):
        for match in files_named(source, recursive=recursive):
            yield from _expand(match, outputs, recursive)
    else:
        yield source, Path(source.name)


def _inputs_in(folder: Path, recursive: bool) -> Iterator[Path]:
    found = folder.rglob("*") if recursive else folder.iterdir()
    for path in sorted(found, key=lambda path: [natural_order(Path(part)) for part in path.parts]):
        hidden = any(part.startswith(".") or part.endswith(".vsr-job") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file() and (is_picture_name(path) or _is_video_name(path)):
            yield path


def _is_video_name(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_ENDINGS


def _output_name(source: Path) -> str:
    """Return the input's name where vsr writes such files; else one of Matroska, which holds every stream."""
    if is_picture_name(source):
        return f"{source.stem}.mkv" if is_animated(source) else source.name
    return source.name if source.suffix.lower() in CONTAINERS else f"{source.stem}.mkv"


def upscale_folder(
    pairs: Sequence[Pair],
    options: UpscaleOptions,
    *,
    progress: Callable[[FolderProgress], object] | None = None,
    on_outcome: Callable[[Outcome], object] | None = None,
    on_plan: Callable[[ClipPlan], None] | None = None,
    command: Command | None = None,
    executor: Executor | None = None,
    stop: Stop | None = None,
) -> list[Outcome]:
    """Upscale every input; one that fails does not stop the others.

    Args:
        pairs: inputs and outputs, as ``pair_inputs`` returns them; missing folders are created.
        options: for all inputs; without ``overwrite`` an existing output is left alone.
        progress: called after each batch of frames; the work stops if it returns False.
        on_outcome: called with the result of each input.
        on_plan: called with the plan of each input, before its first frame.
        command: the command that the inputs are part of; None: each input is a command of its own.
        executor: an open executor; None: one is opened.
        stop: the work stops once it is set.

    Raises:
        UnknownModelError: there is no such model.
        VsrError: the work cannot begin.
    """
    outcomes: list[Outcome] = []
    counter = _FolderCounter(pairs, options, progress) if progress is not None else None
    with executor_for(options) if executor is None else nullcontext(executor) as executor:
        for number, pair in enumerate(pairs, start=1):
            try:
                outcome = existing_outcome(pair, options)
                if outcome is None:
                    shown = None if counter is None else counter.begin(number)
                    summary = upscale_clip(
                        pair.source, pair.target, options, shown, executor, command, on_plan, stop
                    )
                    outcome = Outcome(pair, _state_of(summary, options), summary.damage, summary)
            except UnknownModelError:
                raise
            except VsrError as exc:
                logger.info("the error in full", exc_info=True)
                outcome = Outcome(pair, "failed", str(exc))
            outcomes.append(outcome)
            if on_outcome is not None:
                on_outcome(outcome)
            if outcome.state == "stopped":
                break
    return outcomes


def _state_of(summary: UpscaleSummary, options: UpscaleOptions) -> Literal["done", "damaged", "stopped"]:
    if summary.stopped:
        return "stopped"
    return "damaged" if summary.damage and not options.tolerant else "done"


def existing_outcome(pair: Pair, options: UpscaleOptions) -> Outcome | None:
    """Return the outcome of an output that exists already, else None.

    An output gets its name when it is complete, so an existing one is whole.

    Raises:
        OutputError: its name is too long, or its job folder's name is used by something else.
    """
    try:
        if options.overwrite or not pair.target.exists() or pair.target.resolve() == pair.source.resolve():
            return None
    except OSError as exc:
        raise OutputError(f"cannot write {pair.target}: {exc.strerror}.") from exc
    if (job := read_job(pair.target)) is not None and job.is_publishing:
        return None  # an earlier run was interrupted before it could finish the job
    remove_if_empty(pair.target)
    return Outcome(pair, "there", f"exists already; {setting('overwrite', True)} replaces it")


class _FolderCounter:
    """Counts the frames of all inputs, and estimates those of inputs that have not begun by the sizes of their files.

    No input is opened for it. A picture is one frame; clips are assumed to have as many frames per byte as those that
    have begun.
    """

    def __init__(
        self, pairs: Sequence[Pair], options: UpscaleOptions, progress: Callable[[FolderProgress], object]
    ) -> None:
        self._pairs, self._progress = pairs, progress
        self._started = time.monotonic()
        self._resumed = 0  # frames of earlier runs, in inputs before this one
        self._sizes = [_size_of_work(pair, options) for pair in pairs]
        self._pictures_left = sum(size == PICTURE for size in self._sizes)
        self._clips_left = sum(size > 0 for size in self._sizes)
        self._bytes_left = sum(size for size in self._sizes if size > 0)
        self._done = self._clip_frames = self._clip_bytes = 0  # of inputs before this one
        self._size, self._at = 0, UpscaleProgress(0, 0)  # of the current one

    def begin(self, number: int) -> Callable[[UpscaleProgress], object]:
        """End the input before, begin the next one, and return the function to call with its progress."""
        self._end()
        self._size, self._at = self._sizes[number - 1], UpscaleProgress(0, 0)
        self._pictures_left -= self._size == PICTURE
        if self._size > 0:
            self._clips_left -= 1
            self._bytes_left -= self._size

        def show(at: UpscaleProgress) -> object:
            self._at = at
            frames, total = self._done + at.frames, self._done + _total_frames(at) + self._frames_not_begun()
            seconds = time.monotonic() - self._started
            rate, left = speed(frames - self._resumed - at.resumed, seconds, total - frames)
            return self._progress(
                FolderProgress(self._pairs[number - 1], number, len(self._pairs), frames, total, at, rate, left)
            )

        return show

    def _end(self) -> None:
        self._done += self._at.frames
        self._resumed += self._at.resumed
        if self._size > 0 and _total_frames(self._at):
            self._clip_frames += _total_frames(self._at)
            self._clip_bytes += self._size

    def _frames_not_begun(self) -> int:
        """Estimate the frames of inputs that have not begun."""
        frames, num_bytes = self._clip_frames, self._clip_bytes
        if self._size > 0:
            frames, num_bytes = frames + _total_frames(self._at), num_bytes + self._size
        clips = round(self._bytes_left * frames / num_bytes) if num_bytes else 0
        return self._pictures_left + max(clips, self._clips_left)


def _total_frames(at: UpscaleProgress) -> int:
    return at.frames if at.num_frames is None else at.num_frames


def _size_of_work(pair: Pair, options: UpscaleOptions) -> int:
    """Return the size of a clip in bytes, ``PICTURE`` for a picture, or 0 where nothing is left to do."""
    try:
        if existing_outcome(pair, options):
            return 0
        return PICTURE if is_picture_name(pair.source) else pair.source.stat().st_size
    except (VsrError, OSError):  # reported when its turn comes
        return 0
