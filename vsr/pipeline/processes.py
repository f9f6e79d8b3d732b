"""An executor with worker processes on this machine: one per GPU, or several on the CPU.

The process that starts them (the driver) assigns the segments and keeps finished ones. A worker whose driver dies ends
when it next sends a message. The first part of this module runs in the driver, ``_serve`` and what follows in a worker.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from vsr.errors import VsrError, is_out_of_memory, setting, settings_are_flags, spell_settings
from vsr.inference.device import choose_device, kind_of
from vsr.inference.engine import Engine
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.scheduler import Listener, Work, warn_of_different
from vsr.pipeline.segment import ClipJob, EngineCache, EngineSpec, upscale_segments
from vsr.pipeline.segments import Segment
from vsr.signals import shielded, signals_held_back

logger = logging.getLogger(__name__)

STOP_SECONDS = 0.1
"""How often a worker that waits for a segment checks whether it was stopped."""

EXIT_SECONDS = 2.0
"""How long a worker may take to exit before it is killed."""


class Processes:
    """An ``Executor`` with workers in processes of their own, and the ``Transport`` to them.

    Args:
        options: hold the number of workers and their devices.
    """

    segments_per_worker = 2  # one to compute and the next to decode

    def __init__(self, options: UpscaleOptions) -> None:
        self._devices = [options.devices[index % len(options.devices)] for index in range(options.num_workers)]
        self._workers: list[_Worker] = []
        self._engines = EngineCache()  # for planning
        self._folder = Path()

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

    def run(self, job: ClipJob, segments: Sequence[Segment], folder: Path, listener: Listener, engine: Engine) -> None:
        """As ``Executor``."""
        self._folder = folder
        try:
            if not self._workers:
                threads = max(1, (os.cpu_count() or 1) // len(self._devices))
                self._workers = [_Worker(device, threads) for device in self._devices]
                for worker in self._workers:
                    worker.start()
            Work(self, job, segments, listener).run(self._workers)
        except BaseException:
            self._end()  # their work is no longer needed
            raise

    @property
    def busy(self) -> bool:
        """As ``Transport``."""
        return any(worker.busy for worker in self._workers)

    def begin(self, worker: _Worker, job: ClipJob) -> None:
        """As ``Transport``."""
        worker.busy = True
        worker.send((job, self._folder))

    def assign(self, worker: _Worker, segment: Segment | None) -> None:
        """As ``Transport``."""
        worker.send(segment)

    def listen(self, work: Work[_Worker]) -> None:
        """As ``Transport``."""
        ready = wait([worker.connection for worker in self._workers if worker.busy])
        for worker in [worker for worker in self._workers if worker.connection in ready]:
            try:
                kind, *values = worker.connection.recv()
            except (EOFError, OSError):
                work.died(worker, worker.exit_reason())
            else:
                handle_message(worker, kind, values, work)

    def replace(self, worker: _Worker) -> _Worker:
        """As ``Transport``."""
        worker.connection.close()
        worker.start()
        return worker

    def loss_message(self, reason: str, segments: Sequence[Segment]) -> str:
        """As ``Transport``."""
        return f"a worker ended with {reason}; segments to compute again: {len(segments)}."

    def failure_message(self, reason: str, segment: Segment | None, attempts: int) -> str:
        """As ``Transport``."""
        return (
            f"workers ended with {reason}, {attempts} times at the same place; if memory ran out, use fewer "
            f"{setting('jobs')} or a smaller {setting('tile_size', flag='--tile')}."
        )


def handle_message(worker: _Worker, kind: str, values: Sequence[Any], work: Work[_Worker]) -> None:
    """Pass a worker's message to the scheduler.

    Args:
        worker: the sender.
        kind: the kind of the message.
        values: its values.
        work: the scheduler.

    Raises:
        Exception: the exception of the worker.
    """
    match kind:
        case "frames":
            work.frames(worker, *values)
        case "finished":
            work.finished(worker, *values)
        case "tile":
            work.smaller_tile(*values)
        case "next":
            work.ready(worker)
        case "log":
            name, level, message = values
            logging.getLogger(name).log(level, "%s", message)
        case "error":
            raise values[0]
        case "done":
            worker.busy = False


class _Worker:
    """A worker process, in the driver.

    Attributes:
        connection: to the process.
        busy: whether it has not yet reported that it is done with the clip.
    """

    connection: Connection

    def __init__(self, device: str, threads: int) -> None:
        self._device, self._threads = device, threads
        self._process: BaseProcess | None = None

    def start(self) -> None:
        """Start the process, or another in its place.

        Raises:
            VsrError: the system cannot start it.
        """
        context = multiprocessing.get_context("spawn")
        self.busy = False
        level = logging.getLogger("vsr").getEffectiveLevel()
        try:
            with signals_held_back():  # until the process is stored and has its arguments
                self.connection, other = context.Pipe()
                with other:
                    arguments = (other, self._device, self._threads, level, settings_are_flags())
                    self._process = context.Process(target=_serve, args=arguments, daemon=True)
                    with _interrupts_blocked(), _without_main_module():
                        self._process.start()
        except BrokenPipeError:
            """It died before it received its arguments; ``listen`` notices it by the connection."""
        except OSError as exc:
            raise VsrError(f"cannot start a worker: {exc.strerror or exc}.") from exc

    def send(self, message: object) -> None:
        """Send a message to the process. If it has died, ``listen`` notices it by the connection."""
        with suppress(OSError):
            self.connection.send(message)

    def request_stop(self) -> None:
        """Make the process end, at once if it is busy."""
        if self._process is None or self._process.pid is None:
            return
        if self.busy:
            self._process.terminate()
        self.connection.close()

    def end(self) -> None:
        """Wait until the process has ended; kill it if it is suspended or hangs."""
        if self._process is not None and self._process.pid is not None:
            self._join_or_kill(self._process)
            self._process.close()
        self._process = None

    def _join_or_kill(self, process: BaseProcess) -> int | None:
        process.join(EXIT_SECONDS)
        if process.is_alive():
            process.kill()  # ends a suspended process too
            process.join()
        return process.exitcode

    def exit_reason(self) -> str:
        """Describe how the process ended."""
        if self._process is None or self._process.pid is None:
            return "an unknown code"
        code = self._join_or_kill(self._process)
        return f"signal {-code}" if code is not None and code < 0 else f"code {code}"


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C, which reaches all processes of a terminal, in processes that are started in this context.

    They inherit that SIGINT is blocked. If it were ignored instead, the driver would lose one that arrives meanwhile.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else Process.start does it, which unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep processes that are started in this context from running the caller's script, as Python makes them do.

    A worker needs nothing from it. A script without ``if __name__ == "__main__"`` would begin the same job again in
    each worker, and one from standard input cannot be run again at all.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _serve(connection: Connection, device: str, threads: int, level: int, as_flags: bool) -> None:
    """Run a worker: upscale clips until the driver closes the connection."""
    import torch

    spell_settings(as_flags=as_flags)
    torch.set_num_threads(threads)
    driver = _DriverConnection(connection)
    logging.getLogger("vsr").handlers[:] = [_ForwardingHandler(driver)]
    logging.getLogger("vsr").setLevel(level)
    engines = EngineCache()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job, folder = connection.recv()
            try:
                requests, engine = _Requests(driver), engines.load(replace(job.engine, device=device))

                def use_smaller_tile(tile_size: int) -> None:
                    engines.forget()  # the next clip starts with the default tile size
                    driver.send("tile", tile_size)

                engine.on_smaller_tile = use_smaller_tile
                upscale_segments(
                    job, requests, engine, folder,
                    on_frames=lambda count: driver.send("frames", count),
                    on_finished=lambda done, at: driver.send("finished", done, at),
                    on_leave=requests.stop,
                )  # fmt: skip
                driver.send("done")
            except (BrokenPipeError, ConnectionResetError, EOFError):
                raise
            except Exception as exc:
                driver.send("error", _picklable(exc))


class _DriverConnection:
    """The worker's connection to the driver."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def send(self, kind: str, *values: Any) -> None:
        """Send a message; from any thread."""
        with self._lock:
            self._connection.send((kind, *values))

    def next_segment(self, stopped: threading.Event) -> Segment | None:
        """Request the next segment; return None if there is none left, or ``stopped`` is set."""
        self.send("next")
        while not self._connection.poll(STOP_SECONDS):
            if stopped.is_set():
                return None
        segment: Segment | None = self._connection.recv()
        return segment


class _Requests:
    """Iterates over the segments that the driver assigns."""

    def __init__(self, driver: _DriverConnection) -> None:
        self._driver, self._stopped = driver, threading.Event()

    def stop(self) -> None:
        """End the iteration; from any thread."""
        self._stopped.set()

    def __iter__(self) -> Iterator[Segment]:
        while (segment := self._driver.next_segment(self._stopped)) is not None:
            yield segment


class _ForwardingHandler(logging.Handler):
    """Sends log messages to the driver, which shows them."""

    def __init__(self, driver: _DriverConnection) -> None:
        super().__init__()
        self._driver = driver

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            self._driver.send("log", record.name, record.levelno, record.getMessage())


def _picklable(error: Exception) -> Exception:
    """Return the exception, or a substitute that can be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # exception classes of other libraries can fail in any way
        kind = MemoryError if is_out_of_memory(error) else VsrError
        return kind(f"{type(error).__name__}: {error}")
    return error
