"""Many inputs, each with an output of its own: what fails stops nothing else, what is done is not done again."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vsr.errors import InputError, OutputError, UnknownModelError, UsageError, VsrError
from vsr.imaging.pictures import is_animated
from vsr.media.formats import CONTAINERS, VIDEO_ENDINGS
from vsr.media.pictures import files_named, find_pictures, is_pattern, is_picture_name, names_many_files, natural_order
from vsr.pipeline.job import UpscaleProgress, UpscaleSummary, executor_for, upscale_clip
from vsr.pipeline.journal import Command, read_job, remove_if_empty
from vsr.pipeline.options import UpscaleOptions

logger = logging.getLogger(__name__)

PICTURE = -1
"""In place of a clip's size in bytes."""


@dataclass(frozen=True)
class Pair:
    """An input and what becomes of it."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
        pair: the input and its output.
        state: ``done``; ``damaged``: done, but the source was not whole; ``there``: an earlier run did it; ``failed``.
        error: why it failed, or what there is to say of it.
        summary: of what was done.
    """

    pair: Pair
    state: Literal["done", "damaged", "there", "failed"]
    error: str = ""
    summary: UpscaleSummary | None = None


@dataclass(frozen=True)
class FolderProgress:
    """Where the work on many inputs stands.

    Attributes:
        pair: the input that is worked on.
        number: its place, from 1.
        count: how many inputs there are.
        frames: done in all inputs, without those that were there before.
        num_frames: to be done in all, about: inputs that have not begun are estimated by the sizes of their files.
        clip: where the input stands.
    """

    pair: Pair
    number: int
    count: int
    frames: int
    num_frames: int
    clip: UpscaleProgress


def has_many_outputs(sources: Sequence[Path], target: Path) -> bool:
    """Whether an output is a folder, for one output for each input.

    A name without an ending is one where the input is more than one file, or the folder is there already.

    Raises:
        UsageError: there are several inputs, or a folder of clips, and the output is a file; a name is too long.
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
            raise UsageError(f"the name {path} is too long for this system; take a shorter one.") from exc


def pair_inputs(sources: Sequence[Path], folder: Path, *, recursive: bool = False) -> list[Pair]:
    """An output in a folder for each input, under its own name.

    Args:
        sources: files, folders, of which the videos and pictures are taken, and patterns such as ``clips/*.mp4`` and
            ``frames/%04d.png``.
        folder: of the outputs; folders within a source are found again in it.
        recursive: take folders within folders too.

    Raises:
        InputError: a folder or pattern has nothing to upscale.
        UsageError: two inputs would become one output.
    """
    pairs: dict[Path, Path] = {}
    for source in sources:
        for path, relative in _found(source, folder, recursive):
            target = folder / relative.with_name(_output_name(path))
            if pairs.get(target, path) != path and target.suffix != relative.suffix:
                target = target.with_name(relative.name + target.suffix)
            if pairs.setdefault(target, path) != path:
                raise UsageError(f"{pairs[target]} and {path} would both become {target}; upscale them apart.")
    return [Pair(source, target) for target, source in pairs.items()]


def _found(source: Path, outputs: Path, recursive: bool) -> Iterator[tuple[Path, Path]]:
    """The inputs that a name stands for, and how each is called below it."""
    if source.is_dir():
        inputs = [path for path in _inputs_in(source, recursive) if outputs not in path.parents or outputs == source]
        if not inputs:
            deeper = "" if recursive else "; --recursive looks into its folders"
            raise InputError(f"the folder {source} holds no videos and no pictures{deeper}.")
        yield from ((path, path.relative_to(source)) for path in inputs)
    elif names_many_files(source):
        for match in files_named(source, recursive=recursive):
            yield from _found(match, outputs, recursive)
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
    """The input's own where vsr writes such files; else Matroska, which holds every stream."""
    if is_picture_name(source):
        return f"{source.stem}.mkv" if is_animated(source) else source.name
    return source.name if source.suffix.lower() in CONTAINERS else f"{source.stem}.mkv"


def upscale_folder(
    pairs: Sequence[Pair],
    options: UpscaleOptions,
    *,
    progress: Callable[[FolderProgress], None] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    command: Command | None = None,
) -> list[Outcome]:
    """Upscale every input; one that fails does not stop the rest.

    Args:
        pairs: what is to be done, as ``pair_inputs`` says; folders of outputs are made.
        options: for all of them; without ``overwrite`` an output that stands already is left alone.
        progress: called as ``upscale``'s.
        on_outcome: called with each input's end.
        command: that the inputs are part of; None: each is one of its own.

    Raises:
        UnknownModelError: there is no such model, for any of them.
        VsrError: where the work cannot even begin.
    """
    outcomes: list[Outcome] = []
    tally = _FolderCounter(pairs, options, progress) if progress is not None else None
    with executor_for(options) as executor:
        for number, pair in enumerate(pairs, start=1):
            try:
                outcome = existing_outcome(pair, options)
                if outcome is None:
                    _make_folder(pair.target.parent)
                    shown = None if tally is None else tally.of(number)
                    summary = upscale_clip(pair.source, pair.target, options, shown, executor, command)
                    damaged = summary.damage and not options.tolerant
                    outcome = Outcome(pair, "damaged" if damaged else "done", summary.damage, summary)
            except UnknownModelError:
                raise
            except VsrError as exc:
                logger.info("the error in full", exc_info=True)
                outcome = Outcome(pair, "failed", str(exc))
            outcomes.append(outcome)
            if on_outcome is not None:
                on_outcome(outcome)
    return outcomes


def existing_outcome(pair: Pair, options: UpscaleOptions) -> Outcome | None:
    """An output that stands already is whole, since it gets its name at the end.

    Raises:
        OutputError: its name is too long, or what stands in the place of its job's folder is another's.
    """
    try:
        if options.overwrite or not pair.target.exists() or pair.target.resolve() == pair.source.resolve():
            return None
    except OSError as exc:
        raise OutputError(f"cannot write {pair.target}: {exc.strerror}.") from exc
    if (job := read_job(pair.target)) is not None and job.is_publishing:
        return None  # an earlier run had no time to say so
    remove_if_empty(pair.target)
    return Outcome(pair, "there", "exists already; --overwrite replaces it")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"cannot make the folder {folder}: {exc.strerror}.") from exc


class _FolderCounter:
    """The frames of all inputs: of those that have begun as they say, of the others by the sizes of their files.

    None is opened for it. A picture is one frame; clips have as many for each byte as those that have begun.
    """

    def __init__(
        self, pairs: Sequence[Pair], options: UpscaleOptions, progress: Callable[[FolderProgress], None]
    ) -> None:
        self._pairs, self._progress = pairs, progress
        self._sizes = [_bytes_to_do(pair, options) for pair in pairs]
        self._pictures_left = sum(size == PICTURE for size in self._sizes)
        self._clips_left = sum(size > 0 for size in self._sizes)
        self._bytes_left = sum(size for size in self._sizes if size > 0)
        self._done = self._clip_frames = self._clip_bytes = 0  # of inputs before this one
        self._size, self._at = 0, UpscaleProgress(0, 0)  # of this one

    def of(self, number: int) -> Callable[[UpscaleProgress], None]:
        """What to call with the progress of an input, which begins after all for which this was called before."""
        self._end()
        self._size, self._at = self._sizes[number - 1], UpscaleProgress(0, 0)
        self._pictures_left -= self._size == PICTURE
        if self._size > 0:
            self._clips_left -= 1
            self._bytes_left -= self._size

        def show(at: UpscaleProgress) -> None:
            self._at = at
            frames, total = self._done + at.frames, self._done + _frames_in_all(at) + self._still_to_begin()
            self._progress(FolderProgress(self._pairs[number - 1], number, len(self._pairs), frames, total, at))

        return show

    def _end(self) -> None:
        self._done += self._at.frames
        if self._size > 0 and _frames_in_all(self._at):
            self._clip_frames += _frames_in_all(self._at)
            self._clip_bytes += self._size

    def _still_to_begin(self) -> int:
        """The frames of inputs that have not begun."""
        frames, num_bytes = self._clip_frames, self._clip_bytes
        if self._size > 0:
            frames, num_bytes = frames + _frames_in_all(self._at), num_bytes + self._size
        clips = round(self._bytes_left * frames / num_bytes) if num_bytes else 0
        return self._pictures_left + max(clips, self._clips_left)


def _frames_in_all(at: UpscaleProgress) -> int:
    return at.frames if at.num_frames is None else at.num_frames


def _bytes_to_do(pair: Pair, options: UpscaleOptions) -> int:
    """The size of a clip, ``PICTURE``, or 0 where nothing is to be done."""
    try:
        if existing_outcome(pair, options):
            return 0
        return PICTURE if is_picture_name(pair.source) else pair.source.stat().st_size
    except (VsrError, OSError):  # its turn comes, and then it is told
        return 0
