"""The folder beside an output where its finished segments wait: what a job that was stopped goes on from.

::

    out.mp4.vsr-job/
        lock              held by the process that works here
        manifest.json     what the segments were made from and with
        000000/           a finished segment: the encoded video, or pictures ...
            record.json   ... and what became of it
        .000001-4711/     one that process 4711 is at

A segment's folder is synced to the disk before it gets its name, in one step: what has a name is whole.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from vsr.errors import OutputError
from vsr.files import sync, write_whole
from vsr.pipeline.segments import Finished

MANIFEST, RECORD, LOCK = "manifest.json", "record.json", "lock"

Settings = dict[str, Any]


def job_folder_of(target: Path) -> Path:
    """Where the segments of an output wait."""
    return target.with_name(target.name + ".vsr-job")


class JobFolder:
    """A job's folder, locked.

    Attributes:
        path: the folder.
        finished: the segments that are done, by number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finished: dict[int, Finished] = {}

    def earlier(self) -> Settings:
        """The settings of the run that left something here; empty where none did."""
        with suppress(OSError, ValueError):
            read = json.loads((self.path / MANIFEST).read_bytes())
            if isinstance(read, dict):
                return read
        return {}

    def adopt(self, settings: Settings) -> list[str]:
        """Take over the finished segments of an earlier run if they were made alike; else begin anew.

        Args:
            settings: all that changes a pixel, by what to call it.

        Returns:
            what differs, where segments had to be thrown away for it; else nothing.

        Raises:
            OutputError: the folder cannot be written.
        """
        earlier = self.earlier()
        if earlier == settings:
            self._clean(all=False)
            self.finished = dict(self._records())
            for path in self.path.glob("[0-9]*"):
                if path not in map(self.segment, self.finished):
                    shutil.rmtree(path, ignore_errors=True)
            return []
        differing = list(_difference(earlier, settings)) if earlier and any(self._records()) else []
        self.clear()
        write_whole(self.path / MANIFEST, json.dumps(settings, indent=1).encode(), durable=True)
        return differing

    def clear(self) -> None:
        """Forget what earlier runs left."""
        self._clean(all=True)

    def commit(self, done: Finished, folder: Path) -> None:
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

    def _records(self) -> Iterator[tuple[int, Finished]]:
        for folder in sorted(self.path.glob("[0-9]*")):
            with suppress(OSError, ValueError, TypeError, KeyError):
                done = Finished.from_dict(json.loads((folder / RECORD).read_bytes()))
                if self.segment(done.number) == folder:
                    yield done.number, done

    def _clean(self, *, all: bool) -> None:
        """Remove what is half-written, or everything."""
        for path in self.path.iterdir():
            if path.name == LOCK or (not all and (path.name == MANIFEST or path.name.isdigit())):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def leave(self) -> None:
        """The work is interrupted: keep what is finished, by whichever run, and nothing else."""
        if any(done.frames for _, done in self._records()):
            self._clean(all=False)
        else:
            self.remove()

    def remove(self) -> None:
        """The work is done. The manifest goes first: a folder without one waits for nothing."""
        (self.path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in now:
        if before.get(name) != now[name]:
            yield f"{name} was {before.get(name)}, now {now[name]}"


@contextmanager
def job_folder(target: Path) -> Iterator[JobFolder]:
    """The folder of an output, made and locked. An exception leaves in it what is finished; else it goes.

    Raises:
        OutputError: it cannot be made, or another process is at work there.
    """
    path = job_folder_of(target)
    try:
        path.mkdir(exist_ok=True)
        lock = open(path / LOCK, "w")  # noqa: SIM115 - closed below, apart from what else may raise an OSError
    except OSError as exc:
        raise OutputError(f"cannot write to the folder {target.parent}: {exc.strerror}.") from exc
    with lock:
        _lock(lock, target)
        job = JobFolder(path)
        try:
            yield job
        except BaseException:
            job.leave()
            raise
        job.remove()


def remove_remains(target: Path) -> None:
    """Remove a folder that a job which was done had no time to remove."""
    path = job_folder_of(target)
    if path.is_dir() and not (path / MANIFEST).exists():
        with suppress(OutputError), job_folder(target):
            """Leaving it removes it."""


def _lock(file: IO[str], target: Path) -> None:
    """Refuse to write what another process is writing; where the system knows no such locks, hope for the best."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise OutputError(f"another vsr is writing {target}; wait for it, or name another output.") from exc
    except OSError:  # a filesystem without locks
        return
    if not Path(file.name).exists():  # the other has ended in between
        raise OutputError(f"another vsr was writing {target}; run again.")


def seal(folder: Path, files: Mapping[str, bytes]) -> None:
    """Add files to a folder, and see all that it holds safely to the disk.

    Raises:
        OutputError: the disk refuses.
    """
    try:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        for path in folder.iterdir():
            sync(path)
        sync(folder)
    except OSError as exc:
        raise OutputError(f"cannot write to {folder.parent}: {exc.strerror}.") from exc
