"""The job folder beside an output, from which an interrupted job is resumed.

::

    out.mp4.vsr-job/
        lock              held by the process that works here
        manifest.json     the command, the source and settings of the segments, and the state of publishing
        000000/           a finished segment: the encoded video, or pictures ...
            record.json   ... and its record, with a digest of each file
        .000001-4711/     a segment that process 4711 is writing
        assembly/         temporary files for assembling the output

A segment's folder is synced to the disk and then renamed in one step: one with its final name is whole. If a file no
longer matches the record, the segment is computed again. Only files and folders with these names are ever removed; a
job folder without a manifest was not made by vsr, and is left alone.

This module holds the manifest, the folder (``JobFolder``, ``job_folder``), the records of segments (``seal``,
``read_record``), and ``SourceFingerprint``, which notices when the source changes during the work.
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

from vsr.errors import InputError, OutputError, UsageError, setting
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
TEMPORARY_MANIFEST = re.compile(r"\.vsr-\d+-manifest\.json")
UNFINISHED = re.compile(rf"\.\d{{6,}}-(\d+|cluster)|{TEMPORARY_MANIFEST.pattern}|{ASSEMBLY}")
"""Names of unfinished files and folders in a job folder."""

Settings = dict[str, Any]
"""Everything that affects pixels, by a name for messages."""

TILE, BATCH, THREADS = "the tile size", "the batch size", "the encoder's threads"
HALVINGS = "the number of times that segments are halved"
MEASURED = {TILE, BATCH, THREADS, HALVINGS}
"""Settings that depend on the machine unless they are chosen; a resumed job keeps them."""

DEVICES, SMALLER_TILE = "the kinds of device", "the tile size after memory ran out"
RECORDED = {DEVICES, SMALLER_TILE}
"""Settings that are recorded, but may differ when a job is resumed."""

DEVICE_DIFFERENCE = "where they meet, pixels may differ by a code value"
"""What to expect of parts of a clip that were computed by different kinds of device."""

OPAQUE = {"the colours", "the video format", "the network's weights"}
"""Settings whose values mean nothing to a user; they usually differ because others do."""

MACHINE_SETTINGS = {"the source", "the version of vsr", "the version of torch", "the version of PyAV", "the engine"}
"""Settings that no option of the command can restore."""


@dataclass(frozen=True)
class Command:
    """The inputs and the output of a command, from which a job can be resumed.

    Attributes:
        sources: the inputs, as absolute paths or patterns.
        target: the output as an absolute path; for many inputs, the folder of the outputs.
        recursive: whether subfolders were included.
    """

    sources: tuple[str, ...]
    target: str
    recursive: bool = False

    @classmethod
    def of(cls, sources: tuple[Path, ...], target: Path, recursive: bool = False) -> Command:
        """Return a command with absolute paths."""
        return cls(tuple(map(os.path.abspath, sources)), os.path.abspath(target), recursive)


@dataclass(frozen=True)
class Manifest:
    """The description of a job.

    Attributes:
        source: the job's input, an absolute path or pattern.
        target: the job's output, an absolute path.
        command: the command that the job is part of.
        options: the command's options, as returned by ``UpscaleOptions.to_dict``.
        settings: everything that affects pixels.
        num_frames: frames to do; None if that is unknown before decoding.
        publishing: what ``Output.complete`` recorded before it gave the output its name; None: not yet.
        done: the summary, once the output has its name and only this folder is left to remove.
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
        """Return the manifest as JSON, for ``from_json``."""
        job = asdict(self)
        return json.dumps({"format": FORMAT, "digest": _digest_of(job), "job": job}, indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Manifest:
        """Parse what ``to_json`` returned.

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
    """Return the path of an output's job folder."""
    return target.with_name(name_of_at_most(LONGEST_NAME, "", target.name, ".vsr-job"))


def read_job(target: Path) -> JobFolder | None:
    """Read an output's job folder without changing or locking it.

    Returns:
        the job folder; None if there is none, or nothing in it to resume.

    Raises:
        OutputError: its name is used by something that is no job folder.
    """
    job = JobFolder(job_folder_of(target))
    return job if job.read_manifest() else None


def resumable_job(target: Path) -> Manifest:
    """Find the job to resume for an output or a folder of outputs.

    Args:
        target: an output, whose job alone is resumed; or a folder of outputs, whose command is resumed.

    Returns:
        the job's manifest; for an output its command names the target as given here.

    Raises:
        UsageError: there is nothing to resume, or more than one command.
        OutputError: the job folder's name is used by something else.
    """
    own = read_job(target)
    if own is not None and own.manifest is not None:
        return replace(own.manifest, command=Command((own.manifest.source,), str(target)))
    manifests = []
    for path in sorted(target.rglob("*.vsr-job")) if target.is_dir() else []:
        job = JobFolder(path)
        if job.read_manifest() and job.manifest is not None:
            manifests.append(job.manifest)
    if not manifests:
        raise UsageError(f"there is nothing to resume for {target}: its job is done, or no segment of it was finished.")
    if any((job.command, job.options) != (manifests[0].command, manifests[0].options) for job in manifests):
        raise UsageError(
            f"{target} has several jobs; resume them one by one: {', '.join(job.target for job in manifests[:3])}."
        )
    return manifests[0]


class JobFolder:
    """A job's folder.

    Attributes:
        path: the folder.
        manifest: the manifest of an earlier run or this one; None: none yet.
        finished: the finished segments by number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: Manifest | None = None
        self.finished: dict[int, FinishedSegment] = {}

    def read_manifest(self) -> bool:
        """Read the manifest, and return whether there is one.

        Raises:
            OutputError: this is no job folder of vsr.
        """
        try:
            if not stat.S_ISDIR(self.path.lstat().st_mode):
                raise OutputError(f"{self.path} is not a job folder of vsr; move it away, or name another output.")
            names = {entry.name for entry in self.path.iterdir()}
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise OutputError(f"cannot read the folder {self.path}: {exc.strerror}.") from exc
        try:
            self.manifest = Manifest.from_json(read_regular(self.path / MANIFEST))
        except (OSError, ValueError, TypeError, KeyError) as exc:
            if foreign := sorted(name for name in names if name != LOCK and not TEMPORARY_MANIFEST.fullmatch(name)):
                raise OutputError(
                    f"{self.path} is no job folder of this version of vsr, or its {MANIFEST} is damaged (it holds "
                    f"{foreign[0]}); move it away, or name another output."
                ) from exc
        return self.manifest is not None

    @property
    def is_publishing(self) -> bool:
        """Whether an earlier run has begun to publish: an existing output may be its own."""
        return self.manifest is not None and self.manifest.publishing is not None

    @property
    def is_done(self) -> bool:
        """Whether an earlier run had only this folder left to remove."""
        return self.manifest is not None and self.manifest.done is not None

    def summary_of(
        self, manifest: Manifest, is_published: Callable[[Mapping[str, Any]], bool]
    ) -> Mapping[str, Any] | None:
        """Return the summary of an earlier run, if it finished this same job and its output still exists."""
        earlier = self.manifest
        if earlier is None or earlier.publishing is None or not _same_settings(earlier, manifest):
            return None
        same = all(earlier.options.get(name) == manifest.options[name] for name in ("audio", "subtitles"))
        return earlier.done if same and is_published(earlier.publishing) else None

    def earlier_settings(self) -> Settings:
        """Return the settings of an earlier run; empty if there was none."""
        return {} if self.manifest is None else self.manifest.settings

    def frames_kept(self) -> int:
        """Return the number of frames in finished segments."""
        return sum(done.frames for _, done in self._records())

    def adopt(
        self, manifest: Manifest, published: Callable[[Mapping[str, Any], int, str], Path | None] = lambda *_: None
    ) -> None:
        """Take over the finished segments of an earlier run, or begin a new job if there are none.

        A segment whose files do not match its record is removed with a warning.

        Args:
            manifest: the manifest of the job.
            published: returns where an earlier run may have moved a file, from what that run recorded when it began to
                publish, the number of the segment, and the file's name.

        Raises:
            OutputError: the segments were made with other settings, or the folder cannot be written.
        """
        earlier = self.manifest
        if earlier is not None and _same_settings(earlier, manifest):
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
                logger.warning("%s: begun on %s, continued on %s: %s.", manifest.target, *kinds, DEVICE_DIFFERENCE)
        elif earlier is not None:
            if kept := self.frames_kept():
                raise OutputError(_mismatch(self, Path(manifest.target), earlier.settings, manifest.settings, kept))
            self.clear()
        self._write(manifest)

    def note_smaller_tile(self, tile_size: int) -> None:
        """Record the tile size for which memory sufficed; a resumed job begins with it."""
        assert self.manifest is not None
        least = min(tile_size, self.manifest.settings.get(SMALLER_TILE) or tile_size)
        self._write(replace(self.manifest, settings=self.manifest.settings | {SMALLER_TILE: least}))

    def begin_publishing(self, what: Mapping[str, Any]) -> None:
        """Record that the output is about to get its name, and how to recognise it."""
        assert self.manifest is not None
        self._write(replace(self.manifest, publishing=dict(what)))

    def end_publishing(self, summary: Mapping[str, Any]) -> None:
        """Record that the output is published, and this folder can be removed."""
        assert self.manifest is not None
        self._write(replace(self.manifest, done=dict(summary)))

    def clear(self) -> None:
        """Remove everything that earlier runs left, the manifest last."""
        self._remove_unfinished()
        for number in self._numbers():
            shutil.rmtree(self.segment(number), ignore_errors=True)
        with suppress(OSError):
            (self.path / MANIFEST).unlink()
        self.manifest = None
        self.finished = {}

    def commit(self, done: FinishedSegment, folder: Path) -> None:
        """Give the sealed folder of a segment its final name.

        Raises:
            OutputError: it cannot be renamed or synced.
        """
        try:
            folder.rename(self.segment(done.number))
            sync(self.path)
        except OSError as exc:
            raise OutputError(f"cannot write to {self.path}: {exc.strerror}.") from exc
        self.finished[done.number] = done

    def segment(self, number: int) -> Path:
        """Return the folder of a finished segment."""
        return self.path / f"{number:06}"

    def assembly(self) -> Path:
        """Create an empty folder for the temporary files of assembling the output.

        Raises:
            OutputError: it cannot be created.
        """
        folder = self.path / ASSEMBLY
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        except OSError as exc:
            raise OutputError(f"cannot write to {self.path}: {exc.strerror}.") from exc
        return folder

    def keep_finished(self) -> None:
        """Keep finished segments for a later run, and remove everything else."""
        if self.frames_kept():
            self._remove_unfinished()
        else:
            self.remove()

    def remove(self) -> None:
        """Remove the folder. Files that vsr did not write are kept, with a warning."""
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
        """Return the numbers of all segments with their final names, whole or not."""
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
        """Whether all files of a segment match its record, here or where they were moved to."""
        folder = self.segment(number)
        if done is None:
            logger.warning("%s is damaged: %s cannot be read. The segment is computed again.", folder, RECORD)
            return False
        for name, digest in done.files.items():
            place: Path | None = folder / name
            if publishing is not None and not os.path.lexists(folder / name):
                place = published(publishing, number, name)
            damage = "is missing" if place is None else _find_damage(place, digest)
            if damage:
                logger.warning(
                    "%s is damaged: %s %s. Its %d frames are computed again.", folder, name, damage, done.frames
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


def _find_damage(path: Path, digest: str) -> str:
    """Describe the damage of a file; empty if it matches the digest."""
    try:
        return "" if digest_of(path) == digest else "has changed"
    except FileNotFoundError:
        return "is missing"
    except OSError as exc:
        return f"cannot be read ({exc.strerror})"


def _same_settings(earlier: Manifest, now: Manifest) -> bool:
    """Whether a job can be resumed from the segments of another."""
    before, after = (
        {name: value for name, value in each.settings.items() if name not in RECORDED} for each in (earlier, now)
    )
    return before == after


def _mismatch(job: JobFolder, target: Path, before: Settings, now: Settings, kept: int) -> str:
    """Describe how the settings differ, and how to resume or start over."""
    names = [name for name in {**now, **before} if name not in RECORDED and before.get(name) != now.get(name)]
    names = [name for name in names if name not in OPAQUE | MEASURED] or names
    differing = "; ".join(_describe_difference(name, before.get(name), now.get(name)) for name in names)
    if MACHINE_SETTINGS.intersection(names) or "the network's weights" in names:
        way = "Once that is restored, the same command"
    else:
        way = f"`vsr resume {target}`, or the former command,"
    return (
        f"{target} was begun with other settings: {differing}. {way} resumes from the {kept} frames in {job.path}; "
        f"{setting('resume', False)} starts over."
    )


def _describe_difference(name: str, before: object, now: object) -> str:
    if name in OPAQUE or name == "the source":
        return f"{name} {'are' if name.endswith('s') else 'is'} not the same"
    verb = "were" if name.endswith("options") else "was"
    return f"{name} {verb} {_format_value(before)} and {'are' if verb == 'were' else 'is'} now {_format_value(now)}"


def _format_value(value: object) -> str:
    return "not set" if value is None else str(value)


@contextmanager
def job_folder(target: Path) -> Iterator[JobFolder]:
    """Create and lock an output's job folder. At the end it is removed; after an exception finished segments are kept.

    Raises:
        OutputError: it cannot be created, its name is used by something else, or another process is using it.
    """
    job = JobFolder(job_folder_of(target))
    job.read_manifest()  # refuses a foreign folder before anything is written to it
    try:
        with suppress(FileExistsError):
            job.path.mkdir()
            sync(job.path.parent)
        lock = lock_file(job.path / LOCK, target)
    except OSError as exc:
        raise OutputError(f"cannot write to the folder {target.parent}: {exc.strerror}.") from exc
    try:
        job.read_manifest()  # another process may have used it until now
        try:
            yield job
        except BaseException:
            job.keep_finished()
            raise
        job.remove()
    finally:
        os.close(lock)


def remove_if_empty(target: Path) -> None:
    """Remove the folder of a job that was killed, if nothing but the lock is left in it."""
    path = job_folder_of(target)
    with suppress(OSError, OutputError):
        if not path.is_symlink() and [entry.name for entry in path.iterdir()] in ([], [LOCK]):
            with job_folder(target):
                """Leaving it removes it."""


def seal(folder: Path, done: FinishedSegment) -> FinishedSegment:
    """Write a segment's record into its folder, with a digest of each file, and sync all to the disk.

    Returns:
        the record with the digests.

    Raises:
        OutputError: the folder cannot be written.
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
    """Read the record that ``seal`` wrote.

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
    """Size, time and inode of each file of a source, to notice changes.

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
        """Check that the source has not changed.

        Args:
            segment: check the pictures of this segment only; None: all files.

        Raises:
            InputError: a file has changed or is missing.
        """
        numbers = range(len(self._files))
        if segment is not None and self._is_sequence:
            numbers = numbers[segment.first or 0 : segment.end]
        for number in numbers:
            if _stamp_or_none(self._files[number]) != self._stamps[number]:
                raise InputError(
                    f"{self._files[number]} was changed while it was being upscaled, and the output would mix both: "
                    f"restore the old one to resume, or start over with {setting('resume', False)}."
                )


def _stamp_or_none(path: Path) -> Stamp | None:
    try:
        return stamp_of(path)
    except OSError:
        return None
