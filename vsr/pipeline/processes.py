"""Processes of this machine: one for each GPU, or several on the CPU.

This process hands out the segments and keeps what is finished. A worker that dies is replaced, and what it was at is
done again; one whose master dies ends at the next word that it wants to say.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vsr.errors import VsrError, is_out_of_memory
from vsr.inference.device import choose_device, kind_of
from vsr.inference.engine import Engine
from vsr.pipeline.journal import WHERE_KINDS_MEET
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.segment import ClipJob, EngineCache, EngineSpec, upscale_segments
from vsr.pipeline.segments import Segment
from vsr.signals import shielded, signals_held_back

if TYPE_CHECKING:
    from vsr.pipeline.scheduler import Report

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a segment is tried whose workers die."""

STOP_SECONDS = 0.1
"""How soon a worker that waits for a segment hears that nobody wants it."""

PATIENCE_SECONDS = 2.0
"""How long a worker that was told to end may take, before it is killed."""

SEGMENTS_PER_WORKER = 2
"""Segments that a worker has: one to compute and the next to decode."""


class Processes:
    """Workers in processes of their own.

    Args:
        options: how many, and on which devices.
    """

    def __init__(self, options: UpscaleOptions) -> None:
        self._devices = [options.devices[index % len(options.devices)] for index in range(options.num_workers)]
        self._workers: list[_Worker] = []
        self._engines = EngineCache()  # to plan by

    def __enter__(self) -> Processes:
        warn_of_different(kind_of(choose_device(device)) for device in self._devices)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @shielded
    def _end(self) -> None:
        for worker in self._workers:
            worker.request_stop()
        for worker in self._workers:
            worker.end()
        self._workers = []

    def load(self, spec: EngineSpec) -> Engine:
        """As ``Executor``."""
        return self._engines.load(spec)

    def run(self, job: ClipJob, segments: Sequence[Segment], folder: Path, report: Report, engine: Engine) -> None:
        """As ``Executor``."""
        try:
            if not self._workers:
                threads = max(1, (os.cpu_count() or 1) // len(self._devices))
                self._workers = [_Worker(device, threads) for device in self._devices]
                for worker in self._workers:
                    worker.start()
            work = _Work(job, segments, folder, report)
            for worker in self._workers:
                work.begin(worker)
            while any(worker.busy for worker in self._workers):
                ready = wait([worker.connection for worker in self._workers if worker.busy])
                for worker in [worker for worker in self._workers if worker.connection in ready]:
                    work.hear(worker)
        except BaseException:
            self._end()  # whatever they are at, nobody wants it
            raise


class _Worker:
    """The master's end of a process.

    Attributes:
        connection: to it.
        segments: that it has been given and has not finished.
        computed: frames of those.
        waiting: it has asked for a segment and got no answer yet.
        busy: it has not yet heard that there is no more.
    """

    connection: Connection

    def __init__(self, device: str, threads: int) -> None:
        self._device, self._threads = device, threads
        self._process: BaseProcess | None = None

    def start(self) -> None:
        """Start the process, or another in its place.

        Raises:
            VsrError: the system refuses.
        """
        context = multiprocessing.get_context("spawn")
        self.segments: dict[int, Segment] = {}
        self.computed = 0
        self.waiting = self.busy = False
        level = logging.getLogger("vsr").getEffectiveLevel()
        try:
            with signals_held_back():  # until the process has an owner, and has been told what it is
                self.connection, other = context.Pipe()
                with other:
                    arguments = (other, self._device, self._threads, level)
                    self._process = context.Process(target=_serve, args=arguments, daemon=True)
                    with _interrupts_blocked(), _without_main_module():
                        self._process.start()
        except BrokenPipeError:
            """It died before it had heard what it is: its connection tells."""
        except OSError as exc:
            raise VsrError(f"cannot start a worker: {exc.strerror or exc}.") from exc

    def request_stop(self) -> None:
        """Tell the process to end: at once where it is at work."""
        if self._process is None or self._process.pid is None:
            return
        if self.busy:
            self._process.terminate()
        self.connection.close()

    def end(self) -> None:
        """Wait until the process has ended, but not for one that is stopped or hangs."""
        if self._process is not None and self._process.pid is not None:
            self._join_or_kill(self._process)
            self._process.close()
        self._process = None

    def _join_or_kill(self, process: BaseProcess) -> int | None:
        process.join(PATIENCE_SECONDS)
        if process.is_alive():
            process.kill()  # which ends a stopped one too
            process.join()
        return process.exitcode

    def exit_reason(self) -> str:
        """How it ended, in words."""
        if self._process is None or self._process.pid is None:
            return "no word"
        code = self._join_or_kill(self._process)
        return f"signal {-code}" if code is not None and code < 0 else f"code {code}"


def warn_of_different(kinds: Iterable[str]) -> None:
    """Say that the parts of a clip do not all come from one kind of device, where it is so."""
    if len(different := sorted(set(kinds))) > 1:
        logger.warning("%s share the work: %s.", " and ".join(different), WHERE_KINDS_MEET)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """What is started here never hears Ctrl-C, which reaches all processes of a terminal: the master decides.

    It inherits that SIGINT is blocked. Were it ignored instead, one that comes meanwhile would be lost for the master.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # Process.start would, and unblock SIGINT thereby
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Have what is started here not run the caller's script again, as Python has each new process do.

    A worker needs nothing of it. A script that does not guard its work by ``if __name__ == "__main__"`` would begin the
    same job again in each of them; one from standard input cannot even be run again.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


class _Work:
    """What there is to do for one clip, and who does it."""

    def __init__(self, job: ClipJob, segments: Sequence[Segment], folder: Path, report: Report) -> None:
        self._job, self._folder, self._report = job, folder, report
        self._left = deque(segments)
        self._tries: Counter[int] = Counter()
        self._deaths = 0  # of workers that had no segment yet

    def begin(self, worker: _Worker) -> None:
        """Let a worker know the clip."""
        worker.busy = True
        with suppress(OSError):  # it has died meanwhile: its connection tells
            worker.connection.send((self._job, self._folder))

    def hear(self, worker: _Worker) -> None:
        """Take what a worker says, and give it what it asks for."""
        try:
            kind, *said = worker.connection.recv()
        except (EOFError, OSError):
            self._on_worker_death(worker)
            return
        match kind:
            case "frames":
                worker.computed += said[0]
                self._report.frames(said[0])
            case "finished":
                done, folder = said
                self._report.finished(done, folder)
                worker.computed -= done.frames
                del worker.segments[done.number]
            case "tile":
                self._report.smaller_tile(said[0])
                spec = replace(self._job.engine, tile_size=said[0])
                self._job = replace(self._job, engine=spec)  # for a worker that comes later
            case "next":
                worker.waiting = True
            case "log":
                logging.getLogger(said[0]).log(said[1], "%s", said[2])
            case "error":
                raise said[0]
            case "done":
                worker.busy = False
        self._send_next(worker)

    def _send_next(self, worker: _Worker) -> None:
        if not worker.waiting or (self._left and len(worker.segments) >= SEGMENTS_PER_WORKER):
            return
        segment = self._left.popleft() if self._left else None
        worker.waiting = False
        if segment is not None:
            worker.segments[segment.number] = segment
            self._tries[segment.number] += 1
        with suppress(OSError):
            worker.connection.send(segment)

    def _on_worker_death(self, worker: _Worker) -> None:
        """A worker has died: what it was at is done again, by its successor."""
        how, at = worker.exit_reason(), list(worker.segments)
        if not at:
            self._deaths += 1
        if max([self._deaths, *(self._tries[number] for number in at)]) >= ATTEMPTS:
            raise VsrError(
                f"workers ended with {how}, {ATTEMPTS} times at the same place; if memory ran out, take fewer "
                "--jobs or a smaller --tile."
            )
        logger.warning("a worker ended with %s; segments that are done again: %d.", how, len(at))
        self._left.extendleft(reversed(worker.segments.values()))
        self._report.frames(-worker.computed)
        worker.connection.close()
        worker.start()
        self.begin(worker)


def _serve(connection: Connection, device: str, threads: int, level: int) -> None:
    """The life of a worker."""
    import torch

    torch.set_num_threads(threads)
    master = _Driver(connection)
    logging.getLogger("vsr").handlers[:] = [_Forward(master)]
    logging.getLogger("vsr").setLevel(level)
    engines = EngineCache()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job, folder = connection.recv()
            try:
                requests, engine = _Requests(master), engines.load(replace(job.engine, device=device))

                def use_smaller_tile(tile_size: int) -> None:
                    engines.forget()  # another clip finds out for itself
                    master.tell("tile", tile_size)

                engine.on_smaller_tile = use_smaller_tile
                upscale_segments(
                    job, requests, engine, folder,
                    on_frames=lambda count: master.tell("frames", count),
                    on_finished=lambda done, at: master.tell("finished", done, at),
                    on_leave=requests.stop,
                )  # fmt: skip
                master.tell("done")
            except (BrokenPipeError, ConnectionResetError, EOFError):
                raise
            except Exception as exc:
                master.tell("error", _portable(exc))


class _Driver:
    """The worker's end."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def tell(self, kind: str, *words: Any) -> None:
        """Say something; from any thread."""
        with self._lock:
            self._connection.send((kind, *words))

    def ask(self, stopped: threading.Event) -> Segment | None:
        """The next segment; None: there is no more, or nobody wants it any longer."""
        self.tell("next")
        while not self._connection.poll(STOP_SECONDS):
            if stopped.is_set():
                return None
        segment: Segment | None = self._connection.recv()
        return segment


class _Requests:
    """The segments that the master gives, one by one."""

    def __init__(self, master: _Driver) -> None:
        self._master, self._stopped = master, threading.Event()

    def stop(self) -> None:
        """No more is wanted; from any thread."""
        self._stopped.set()

    def __iter__(self) -> Iterator[Segment]:
        while (segment := self._master.ask(self._stopped)) is not None:
            yield segment


class _Forward(logging.Handler):
    """Sends messages to the master, who shows them."""

    def __init__(self, master: _Driver) -> None:
        super().__init__()
        self._master = master

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            self._master.tell("log", record.name, record.levelno, record.getMessage())


def _portable(error: Exception) -> Exception:
    """An exception that can be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever another's exception class does
        kind = MemoryError if is_out_of_memory(error) else VsrError
        return kind(f"{type(error).__name__}: {error}")
    return error
