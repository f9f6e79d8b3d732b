"""The folder beside an output where its finished segments wait: what a job that was stopped goes on from.

::

    out.mp4.vsr-job/
        lock              held by the process that works here
        manifest.json     the command, what the segments are made from and with, and how far publishing has come
        000000/           a finished segment: the encoded video, or pictures ...
            record.json   ... and what became of it, with a digest of each file
        .000001-4711/     one that process 4711 is at
        assembly/         what lies between the segments and the output

A segment's folder is synced to the disk before it gets its name, in one step: what has a name is whole, and what is no
longer as its record says is computed again. Only what is called so is ever removed; a folder of that name without a
manifest is not ours, and is left alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from vsr.errors import InputError, OutputError, UsageError
from vsr.files import (
    LONGEST_NAME,
    Stamp,
    digest_of,
    lock_file,
    name_of_at_most,
    read_regular,
    stamp_of,
    sync,
    write_whole,
)
from vsr.media.clip import ClipInfo
from vsr.pipeline.segments import FinishedSegment, Segment

logger = logging.getLogger(__name__)

MANIFEST, RECORD, LOCK, ASSEMBLY = "manifest.json", "record.json", "lock", "assembly"
FORMAT = "vsr-job-2"

SEGMENT = re.compile(r"\d{6,}")
HALF_MANIFEST = re.compile(r"\.vsr-\d+-manifest\.json")
UNFINISHED = re.compile(rf"\.\d{{6,}}-(\d+|cluster)|{HALF_MANIFEST.pattern}|{ASSEMBLY}")
"""Names of folders and files that vsr makes in a job's folder, beside the manifest and the lock."""

Settings = dict[str, Any]
"""All that changes a pixel, by what to call it."""

TILE, BATCH, THREADS = "the tile size", "the batch size", "the encoder's threads"
HALVINGS = "the number of times that segments are halved"
MEASURED = {TILE, BATCH, THREADS, HALVINGS}
"""Settings that follow from the machine unless they are chosen; a job that goes on keeps those that it had."""

DEVICES, SMALLER_TILE = "the kinds of device", "the tile size after memory ran out"
NOTED = {DEVICES, SMALLER_TILE}
"""Settings that are kept, and need not be the same for a job to go on."""

WHERE_KINDS_MEET = "where they meet, pixels may differ by a code value"
"""Of parts of a clip that devices of different kinds compute."""

OPAQUE = {"the colours", "the video format", "the network's weights"}
"""Settings whose values would tell nobody anything; they follow from others where those differ."""

OF_THE_MACHINE = {"the source", "the version of vsr", "the version of torch", "the version of PyAV", "the engine"}
"""Settings that no word of the command brings back."""


@dataclass(frozen=True)
class Command:
    """What was asked for, from which a job can be started again.

    Attributes:
        sources: the inputs, as absolute paths or patterns.
        target: the output as an absolute path; of many inputs, their folder.
        recursive: whether folders within folders were looked into.
    """

    sources: tuple[str, ...]
    target: str
    recursive: bool = False

    @classmethod
    def of(cls, sources: tuple[Path, ...], target: Path, recursive: bool = False) -> Command:
        """The same from any folder."""
        return cls(tuple(map(os.path.abspath, sources)), os.path.abspath(target), recursive)


@dataclass(frozen=True)
class Manifest:
    """What a job is.

    Attributes:
        source: of this job, an absolute path or pattern.
        target: its output, an absolute path.
        command: that it is part of.
        options: of the command, as ``UpscaleOptions.to_dict`` writes them.
        settings: all that changes a pixel.
        num_frames: to be done; None where only decoding tells.
        publishing: what ``Output.complete`` said before it gave the output its name; None: it has not come so far.
        done: the summary, once the output has its name and nothing is left but to remove this folder.
    """

    source: str
    target: str
    command: Command
    options: Mapping[str, Any]
    settings: Settings
    num_frames: int | None = None
    publishing: Mapping[str, Any] | None = None
    done: Mapping[str, Any] | None = None

    def to_json(self) -> bytes:
        """As ``from_json`` reads it."""
        job = asdict(self)
        return json.dumps({"format": FORMAT, "digest": _digest_of(job), "job": job}, indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Manifest:
        """What ``to_json`` wrote.

        Raises:
            ValueError: it is something else, or damaged.
        """
        read = json.loads(content)
        if not isinstance(read, dict) or read.get("format") != FORMAT or read.get("digest") != _digest_of(read["job"]):
            raise ValueError("not a manifest")
        job = read["job"]
        if not isinstance(job, dict) or job.keys() != {each.name for each in fields(cls)}:
            raise ValueError("not a manifest")
        command = job["command"] | {"sources": tuple(job["command"]["sources"])}
        return cls(**job | {"command": Command(**command)})


def job_folder_of(target: Path) -> Path:
    """Where the segments of an output wait."""
    return target.with_name(name_of_at_most(LONGEST_NAME, "", target.name, ".vsr-job"))


def read_job(target: Path) -> JobFolder | None:
    """Look at an output's job folder without touching it, or anyone's lock.

    Returns:
        None where there is none, or one that waits for nothing.

    Raises:
        OutputError: what stands there under its name is no job folder.
    """
    job = JobFolder(job_folder_of(target))
    return job if job.look() else None


def resumable_job(target: Path) -> Manifest:
    """The job that waits to go on, for an output or a folder of outputs.

    Args:
        target: an output: then that alone goes on. A folder of outputs: the command that was to fill it.

    Returns:
        its manifest, whose command names the target as it is named here.

    Raises:
        UsageError: there is nothing to resume, or more than one command.
        OutputError: what stands there is no job folder.
    """
    own = read_job(target)
    if own is not None and own.manifest is not None:
        return replace(own.manifest, command=Command((own.manifest.source,), str(target)))
    waiting = []
    for path in sorted(target.rglob("*.vsr-job")) if target.is_dir() else []:
        job = JobFolder(path)
        if job.look() and job.manifest is not None:
            waiting.append(job.manifest)
    if not waiting:
        raise UsageError(f"there is nothing to resume for {target}: its job is done, or no part of it was finished.")
    if any((job.command, job.options) != (waiting[0].command, waiting[0].options) for job in waiting):
        raise UsageError(
            f"several jobs wait in {target}; resume them one by one: {', '.join(job.target for job in waiting[:3])}."
        )
    return waiting[0]


class JobFolder:
    """A job's folder.

    Attributes:
        path: the folder.
        manifest: what an earlier run or this one wrote; None: nothing yet.
        finished: the segments that are done, by number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: Manifest | None = None
        self.finished: dict[int, FinishedSegment] = {}

    def look(self) -> bool:
        """Read the manifest; whether there was one.

        Raises:
            OutputError: this is no job folder of vsr.
        """
        try:
            if not stat.S_ISDIR(self.path.lstat().st_mode):
                raise OutputError(f"{self.path} is not a folder of vsr's; move it away, or name another output.")
            names = {entry.name for entry in self.path.iterdir()}
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise OutputError(f"cannot read the folder {self.path}: {exc.strerror}.") from exc
        try:
            self.manifest = Manifest.from_json(read_regular(self.path / MANIFEST))
        except (OSError, ValueError, TypeError, KeyError) as exc:
            if foreign := sorted(name for name in names if name != LOCK and not HALF_MANIFEST.fullmatch(name)):
                raise OutputError(
                    f"{self.path} is no job folder of this version of vsr, or its {MANIFEST} is damaged (it holds "
                    f"{foreign[0]}); move it away, or name another output."
                ) from exc
        return self.manifest is not None

    @property
    def is_publishing(self) -> bool:
        """Whether an earlier run was giving the output its name: what stands there may be ours."""
        return self.manifest is not None and self.manifest.publishing is not None

    @property
    def is_done(self) -> bool:
        """Whether an earlier run had nothing left to do but to remove this folder."""
        return self.manifest is not None and self.manifest.done is not None

    def summary_of(
        self, manifest: Manifest, is_published: Callable[[Mapping[str, Any]], bool]
    ) -> Mapping[str, Any] | None:
        """What ``end_publishing`` was told, if it was of this very job, and its output is still there."""
        earlier = self.manifest
        if earlier is None or earlier.publishing is None or not _same(earlier, manifest):
            return None
        same = all(earlier.options.get(name) == manifest.options[name] for name in ("audio", "subtitles"))
        return earlier.done if same and is_published(earlier.publishing) else None

    def earlier(self) -> Settings:
        """The settings of the run that left something here; empty where none did."""
        return {} if self.manifest is None else self.manifest.settings

    def frames_kept(self) -> int:
        """How many frames are in the finished segments."""
        return sum(done.frames for _, done in self._records())

    def adopt(
        self, manifest: Manifest, published: Callable[[Mapping[str, Any], int, str], Path | None] = lambda *_: None
    ) -> None:
        """Take over the finished segments of an earlier run, or where there are none, begin anew.

        A segment whose files are not what its record says is removed, and a warning says so.

        Args:
            manifest: of the job that is to be done.
            published: where a file of a segment may have been moved by an earlier run: of what that run said when it
                began publishing, the number of the segment, and the file's name.

        Raises:
            OutputError: the segments were made with other settings, or the folder cannot be written.
        """
        earlier = self.manifest
        if earlier is not None and _same(earlier, manifest):
            self._remove_unfinished()
            before, now = (set(each.settings.get(DEVICES, ())) for each in (earlier, manifest))
            noted = manifest.settings | {DEVICES: sorted(before | now)}
            manifest = replace(manifest, publishing=earlier.publishing, settings=noted)
            found = {done.number: done for _, done in self._records()}
            for number in self._numbers():
                if self._is_whole(number, found.get(number), manifest.publishing, published):
                    self.finished[number] = found[number]
                else:
                    shutil.rmtree(self.segment(number), ignore_errors=True)
            if self.finished and before and now - before:
                kinds = (" and ".join(sorted(each)) for each in (before, now))
                logger.warning("%s: begun on %s, goes on on %s: %s.", manifest.target, *kinds, WHERE_KINDS_MEET)
        elif earlier is not None:
            if kept := self.frames_kept():
                raise OutputError(_refusal(self, Path(manifest.target), earlier.settings, manifest.settings, kept))
            self.clear()
        self._write(manifest)

    def note_smaller_tile(self, tile_size: int) -> None:
        """Remember the tile that memory sufficed for: a job that goes on begins with it."""
        assert self.manifest is not None
        least = min(tile_size, self.manifest.settings.get(SMALLER_TILE) or tile_size)
        self._write(replace(self.manifest, settings=self.manifest.settings | {SMALLER_TILE: least}))

    def begin_publishing(self, what: Mapping[str, Any]) -> None:
        """Remember that the output is about to get its name, and by what it can be told from another's."""
        assert self.manifest is not None
        self._write(replace(self.manifest, publishing=dict(what)))

    def end_publishing(self, summary: Mapping[str, Any]) -> None:
        """Remember that the output is where it belongs: all that is here can go."""
        assert self.manifest is not None
        self._write(replace(self.manifest, done=dict(summary)))

    def clear(self) -> None:
        """Forget what earlier runs left; the manifest goes last."""
        self._remove_unfinished()
        for number in self._numbers():
            shutil.rmtree(self.segment(number), ignore_errors=True)
        with suppress(OSError):
            (self.path / MANIFEST).unlink()
        self.manifest = None
        self.finished = {}

    def commit(self, done: FinishedSegment, folder: Path) -> None:
        """Give a sealed folder its name.

        Raises:
            OutputError: the disk refuses.
        """
        try:
            folder.rename(self.segment(done.number))
            sync(self.path)
        except OSError as exc:
            raise OutputError(f"cannot write to {self.path}: {exc.strerror}.") from exc
        self.finished[done.number] = done

    def segment(self, number: int) -> Path:
        """The folder of a finished segment."""
        return self.path / f"{number:06}"

    def assembly(self) -> Path:
        """An empty folder for what lies between the segments and the output.

        Raises:
            OutputError: it cannot be made.
        """
        folder = self.path / ASSEMBLY
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        except OSError as exc:
            raise OutputError(f"cannot write to {self.path}: {exc.strerror}.") from exc
        return folder

    def leave(self) -> None:
        """The work is interrupted: keep what is finished, by whichever run, and nothing else."""
        if self.frames_kept():
            self._remove_unfinished()
        else:
            self.remove()

    def remove(self) -> None:
        """The work is done, or came to nothing. What is not vsr's stays, with a warning."""
        self.clear()
        with suppress(OSError):
            left = sorted(entry.name for entry in self.path.iterdir() if entry.name != LOCK)
            if left:
                logger.warning("%s stays: it holds %s, which vsr did not write.", self.path, ", ".join(left[:3]))
            (self.path / LOCK).unlink()
            if not left:
                self.path.rmdir()

    def _write(self, manifest: Manifest) -> None:
        if manifest != self.manifest:
            write_whole(self.path / MANIFEST, manifest.to_json(), durable=True)
        self.manifest = manifest

    def _numbers(self) -> list[int]:
        """The numbers of all segments that have their names, whole or not."""
        with suppress(OSError):
            names = sorted(entry.name for entry in os.scandir(self.path) if entry.is_dir(follow_symlinks=False))
            return [int(name) for name in names if SEGMENT.fullmatch(name) and self.segment(int(name)).name == name]
        return []

    def _records(self) -> Iterator[tuple[int, FinishedSegment]]:
        for number in self._numbers():
            with suppress(OSError, ValueError, TypeError, KeyError):
                done = read_record(self.segment(number))
                if done.number == number:
                    yield number, done

    def _is_whole(
        self, number: int, done: FinishedSegment | None, publishing: Mapping[str, Any] | None,
        published: Callable[[Mapping[str, Any], int, str], Path | None],
    ) -> bool:  # fmt: skip
        """Whether all files of a segment are what its record says, here or where they have moved to."""
        folder = self.segment(number)
        if done is None:
            logger.warning("%s is damaged: %s cannot be read. The segment is computed again.", folder, RECORD)
            return False
        for name, digest in done.files.items():
            place: Path | None = folder / name
            if publishing is not None and not os.path.lexists(folder / name):
                place = published(publishing, number, name)
            wrong = "is missing" if place is None else _wrong_with(place, digest)
            if wrong:
                logger.warning(
                    "%s is damaged: %s %s. Its %d frames are computed again.", folder, name, wrong, done.frames
                )
                return False
        return True

    def _remove_unfinished(self) -> None:
        with suppress(OSError):
            for entry in list(os.scandir(self.path)):
                if UNFINISHED.fullmatch(entry.name):
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        os.unlink(entry.path)


def _wrong_with(path: Path, digest: str) -> str:
    """What is wrong with a file, in words; empty where it is as it was written."""
    try:
        return "" if digest_of(path) == digest else "is not as it was written"
    except FileNotFoundError:
        return "is missing"
    except OSError as exc:
        return f"cannot be read ({exc.strerror})"


def _same(earlier: Manifest, now: Manifest) -> bool:
    """Whether one job can go on from what another made."""
    before, after = (
        {name: value for name, value in each.settings.items() if name not in NOTED} for each in (earlier, now)
    )
    return before == after


def _refusal(job: JobFolder, target: Path, before: Settings, now: Settings, kept: int) -> str:
    """What differs, and how to go on either way."""
    names = [name for name in {**now, **before} if name not in NOTED and before.get(name) != now.get(name)]
    names = [name for name in names if name not in OPAQUE | MEASURED] or names
    differing = "; ".join(_difference(name, before.get(name), now.get(name)) for name in names)
    if OF_THE_MACHINE.intersection(names) or "the network's weights" in names:
        way = "With what it was begun with, the same command"
    else:
        way = f"`vsr resume {target}`, or the command as it was,"
    return (
        f"{target} was begun otherwise: {differing}. {way} goes on from the {kept} frames in {job.path}; "
        "--no-resume begins anew."
    )


def _difference(name: str, before: object, now: object) -> str:
    if name in OPAQUE or name == "the source":
        return f"{name} {'are' if name.endswith('s') else 'is'} not the same"
    verb = "were" if name.endswith("options") else "was"
    return f"{name} {verb} {_shown(before)} and {'are' if verb == 'were' else 'is'} now {_shown(now)}"


def _shown(value: object) -> str:
    return "not set" if value is None else str(value)


@contextmanager
def job_folder(target: Path) -> Iterator[JobFolder]:
    """The folder of an output, made and locked. An exception leaves in it what is finished; else it goes.

    Raises:
        OutputError: it cannot be made, what stands there is another's, or another process is at work there.
    """
    job = JobFolder(job_folder_of(target))
    job.look()  # before anything is written to it
    try:
        with suppress(FileExistsError):
            job.path.mkdir()
            sync(job.path.parent)
        lock = lock_file(job.path / LOCK, target)
    except OSError as exc:
        raise OutputError(f"cannot write to the folder {target.parent}: {exc.strerror}.") from exc
    try:
        job.look()  # another may have been here until now
        try:
            yield job
        except BaseException:
            job.leave()
            raise
        job.remove()
    finally:
        os.close(lock)


def remove_if_empty(target: Path) -> None:
    """Remove the folder of a job that was killed when nothing but the lock was left in it."""
    path = job_folder_of(target)
    with suppress(OSError, OutputError):
        if not path.is_symlink() and [entry.name for entry in path.iterdir()] in ([], [LOCK]):
            with job_folder(target):
                """Leaving it removes it."""


def seal(folder: Path, done: FinishedSegment) -> FinishedSegment:
    """Write what became of a segment into its folder, with a digest of each file, and see all to the disk.

    Returns:
        the same with the digests.

    Raises:
        OutputError: the disk refuses.
    """
    try:
        done = replace(done, files={path.name: digest_of(path) for path in sorted(folder.iterdir())})
        record = asdict(done)
        (folder / RECORD).write_text(json.dumps({"digest": _digest_of(record), "segment": record}))
        for path in folder.iterdir():
            sync(path)
        sync(folder)
    except OSError as exc:
        raise OutputError(f"cannot write to {folder.parent}: {exc.strerror}.") from exc
    return done


def read_record(folder: Path) -> FinishedSegment:
    """What ``seal`` wrote.

    Raises:
        OSError: there is none.
        ValueError, TypeError, KeyError: it is damaged.
    """
    read = json.loads(read_regular(folder / RECORD))
    if read["digest"] != _digest_of(read["segment"]):
        raise ValueError("the record is damaged")
    return FinishedSegment.from_dict(read["segment"])


def _digest_of(value: object) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


class SourceFingerprint:
    """Remembers size, time and inode of each file of a source.

    Raises:
        InputError: a file is missing.
    """

    def __init__(self, clip: ClipInfo) -> None:
        self._is_sequence = bool(clip.pictures) and clip.pictures != (clip.path,)
        self._files = clip.pictures or (clip.path,)
        self._stamps = [_stamp_or_none(path) for path in self._files]
        if None in self._stamps:
            raise InputError(f"{self._files[self._stamps.index(None)]} has disappeared; put it back and run again.")

    def check(self, segment: Segment | None = None) -> None:
        """See to it that nobody has written to the source.

        Args:
            segment: look at what lies in it alone; None: at everything.

        Raises:
            InputError: a file is another than it was, or is gone.
        """
        numbers = range(len(self._files))
        if segment is not None and self._is_sequence:
            numbers = numbers[segment.first or 0 : segment.end]
        for number in numbers:
            if _stamp_or_none(self._files[number]) != self._stamps[number]:
                raise InputError(
                    f"{self._files[number]} was changed while it was being upscaled, and the output would mix both: "
                    "put the old one back to go on from what is finished, or begin anew with --no-resume."
                )


def _stamp_or_none(path: Path) -> Stamp | None:
    try:
        return stamp_of(path)
    except OSError:
        return None
