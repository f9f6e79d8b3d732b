"""Processes of this machine: one for each GPU, or several on the CPU.

The process that started them hands out the segments and keeps what is finished. A worker whose parent dies ends when
it next has something to say.
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

from vsr.errors import VsrError, is_out_of_memory
from vsr.inference.device import choose_device, kind_of
from vsr.inference.engine import Engine
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.scheduler import Listener, Work, warn_of_different
from vsr.pipeline.segment import ClipJob, EngineCache, EngineSpec, upscale_segments
from vsr.pipeline.segments import Segment
from vsr.signals import shielded, signals_held_back

logger = logging.getLogger(__name__)

STOP_SECONDS = 0.1
"""How soon a worker that waits for a segment hears that nobody wants it."""

PATIENCE_SECONDS = 2.0
"""How long a worker that was told to end may take, before it is killed."""


class Processes:
    """Workers in processes of their own: an ``Executor``, and the ``Transport`` to them.

    Args:
        options: how many, and on which devices.
    """

    segments_per_worker = 2  # one to compute and the next to decode

    def __init__(self, options: UpscaleOptions) -> None:
        self._devices = [options.devices[index % len(options.devices)] for index in range(options.num_workers)]
        self._workers: list[_Worker] = []
        self._engines = EngineCache()  # to plan by
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
            self._end()  # whatever they are at, nobody wants it
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
                kind, *words = worker.connection.recv()
            except (EOFError, OSError):
                work.died(worker, worker.exit_reason())
            else:
                pass_on(worker, kind, words, work)

    def replace(self, worker: _Worker) -> _Worker:
        """As ``Transport``."""
        worker.connection.close()
        worker.start()
        return worker

    def loss_message(self, reason: str, segments: Sequence[Segment]) -> str:
        """As ``Transport``."""
        return f"a worker ended with {reason}; segments that are done again: {len(segments)}."

    def failure_message(self, reason: str, segment: Segment | None, attempts: int) -> str:
        """As ``Transport``."""
        return (
            f"workers ended with {reason}, {attempts} times at the same place; if memory ran out, take fewer "
            "--jobs or a smaller --tile."
        )


def pass_on(worker: _Worker, kind: str, words: Sequence[Any], work: Work[_Worker]) -> None:
    """Tell the scheduler what a worker says.

    Raises:
        Exception: what the worker has raised.
    """
    match kind:
        case "frames":
            work.frames(worker, *words)
        case "finished":
            work.finished(worker, *words)
        case "tile":
            work.smaller_tile(*words)
        case "next":
            work.ready(worker)
        case "log":
            name, level, message = words
            logging.getLogger(name).log(level, "%s", message)
        case "error":
            raise words[0]
        case "done":
            worker.busy = False


class _Worker:
    """A process, as the scheduler's process sees it.

    Attributes:
        connection: to it.
        busy: it has not yet said that it is done with the clip.
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
        self.busy = False
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

    def send(self, words: object) -> None:
        """Send something to the process. Where it has died, its connection tells ``listen`` so."""
        with suppress(OSError):
            self.connection.send(words)

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


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """What is started here never hears Ctrl-C, which reaches all processes of a terminal: the driver decides.

    It inherits that SIGINT is blocked. Were it ignored instead, one that comes meanwhile would be lost for the driver.
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


def _serve(connection: Connection, device: str, threads: int, level: int) -> None:
    """The life of a worker."""
    import torch

    torch.set_num_threads(threads)
    driver = _Driver(connection)
    logging.getLogger("vsr").handlers[:] = [_Forward(driver)]
    logging.getLogger("vsr").setLevel(level)
    engines = EngineCache()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job, folder = connection.recv()
            try:
                requests, engine = _Requests(driver), engines.load(replace(job.engine, device=device))

                def use_smaller_tile(tile_size: int) -> None:
                    engines.forget()  # another clip finds out for itself
                    driver.tell("tile", tile_size)

                engine.on_smaller_tile = use_smaller_tile
                upscale_segments(
                    job, requests, engine, folder,
                    on_frames=lambda count: driver.tell("frames", count),
                    on_finished=lambda done, at: driver.tell("finished", done, at),
                    on_leave=requests.stop,
                )  # fmt: skip
                driver.tell("done")
            except (BrokenPipeError, ConnectionResetError, EOFError):
                raise
            except Exception as exc:
                driver.tell("error", _portable(exc))


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
    """The segments that the driver gives, one by one."""

    def __init__(self, driver: _Driver) -> None:
        self._driver, self._stopped = driver, threading.Event()

    def stop(self) -> None:
        """No more is wanted; from any thread."""
        self._stopped.set()

    def __iter__(self) -> Iterator[Segment]:
        while (segment := self._driver.ask(self._stopped)) is not None:
            yield segment


class _Forward(logging.Handler):
    """Sends messages to the driver, who shows them."""

    def __init__(self, driver: _Driver) -> None:
        super().__init__()
        self._driver = driver

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            self._driver.tell("log", record.name, record.levelno, record.getMessage())


def _portable(error: Exception) -> Exception:
    """An exception that can be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever another's exception class does
        kind = MemoryError if is_out_of_memory(error) else VsrError
        return kind(f"{type(error).__name__}: {error}")
    return error
