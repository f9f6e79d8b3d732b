"""A Ray cluster: an actor for each GPU, or for the CPUs of each node, that holds the model; segments as its tasks.

Where a node dies, what its actor was at is given to another, and a new one waits for a node with room. A file that a
node does not see by its path travels to it as an object.
"""

from __future__ import annotations

import logging
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsr.errors import OutputError, UsageError, VsrError
from vsr.inference.engine import Engine
from vsr.pipeline.job_folder import RECORD, seal
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.order import EngineSpec, Order
from vsr.pipeline.segment import upscale_segments
from vsr.pipeline.segments import Finished, Segment

if TYPE_CHECKING:
    from vsr.pipeline.executors import Report

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a segment is tried whose nodes die."""

PATIENCE_SECONDS = 120
"""How long to wait for any actor, where none is alive."""

KNOCKING_SECONDS = 10
"""How long the head of a cluster may take to answer."""

LEAVING_SECONDS = 2
"""How long actors get to remove what they have on their nodes."""

Files = dict[str, bytes]
"""By name."""


class Cluster:
    """Actors on a cluster.

    Args:
        options: its address, and how many actors; None: one for each GPU, or where there are none for each node.

    Raises:
        UsageError: Ray is not installed.
        VsrError: there is no cluster at that address.
    """

    def __init__(self, options: UpscaleOptions) -> None:
        try:
            import ray
        except ImportError as exc:
            raise UsageError('--cluster needs Ray: pip install "vsr[cluster]".') from exc
        self._ray: Any = ray  # its types change from version to version
        self._options = options
        self._actors: list[Any] = []
        self._demand: dict[str, float] = {}
        self._joined = False

    def __enter__(self) -> Cluster:
        if not self._ray.is_initialized():
            self._join()
            self._joined = True
        count, self._demand = self._shares()
        self._actors = [self._start() for _ in range(count)]
        return self

    def _join(self) -> None:
        terminated = signal.getsignal(signal.SIGTERM)
        try:
            _knock(self._options.cluster or "")
            self._ray.init(address=self._options.cluster, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError, OverflowError) as exc:
            where, why = self._options.cluster, str(exc).partition("\n")[0].rstrip(". ")
            raise VsrError(f"there is no Ray cluster at {where}: {why}. `ray start --head` starts one.") from exc
        finally:
            if threading.current_thread() is threading.main_thread():  # Ray puts a handler of its own there
                signal.signal(signal.SIGTERM, terminated)

    def _start(self) -> Any:
        kind = self._ray.remote(**self._demand, scheduling_strategy="SPREAD")(SegmentActor)
        return kind.remote(int(self._demand.get("num_cpus", 1)))

    def _successor(self, actor: Any) -> Any:
        """Another in place of one that has died."""
        self._actors[self._actors.index(actor)] = started = self._start()
        return started

    def _shares(self) -> tuple[int, dict[str, float]]:
        """How many actors, and what each of them needs."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        if gpus and self._options.device != "cpu":
            return self._options.jobs or gpus, {"num_gpus": 1}
        each = max(1, int(min((node["CPU"] for node in nodes if node.get("CPU")), default=1)))
        room = int(sum(node.get("CPU", 0) // each for node in nodes))
        if self._options.jobs and self._options.jobs > room:
            each = max(1, each * room // self._options.jobs)
        return self._options.jobs or max(1, room), {"num_cpus": each}

    def __exit__(self, *_: object) -> None:
        leaving = [actor.leave.remote() for actor in self._actors]
        self._ray.wait(leaving, num_returns=len(leaving), timeout=LEAVING_SECONDS)
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        if self._joined:
            self._ray.shutdown()

    def run(self, order: Order, segments: Sequence[Segment], folder: Path, report: Report, engine: Engine) -> None:
        """As ``Executor``."""
        order = _portable(order, "cuda" if "num_gpus" in self._demand else "cpu")
        with redirect_stdout(sys.stderr):  # where Ray prints what it has to say of lost nodes
            _Work(self._ray, self._actors, self._successor, order, segments, folder, report).finish()


def _knock(address: str) -> None:
    """See whether anything answers there; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCKING_SECONDS).close()


@dataclass
class _Task:
    """What an actor is at: a segment, or None while it gets ready for one."""

    actor: Any
    segment: Segment | None


class _Work:
    """What there is to do for one clip, and who does it."""

    def __init__(
        self, ray: Any, actors: Sequence[Any], successor: Callable[[Any], Any], order: Order,
        segments: Sequence[Segment], folder: Path, report: Report,
    ) -> None:  # fmt: skip
        self._ray, self._successor, self._folder, self._report = ray, successor, folder, report
        self._left = deque(segments)
        self._tries: Counter[int | None] = Counter()
        self._order = ray.put(order)
        self._sources = {path: _size(path) for path in _needed(order)}
        self._objects: dict[str, Any] = {}
        self._tasks: dict[Any, _Task] = {}
        for actor in actors:
            self._greet(actor)

    def finish(self) -> None:
        """Give out segments until none is left."""
        while (busy := any(task.segment for task in self._tasks.values())) or self._left:
            ready, _ = self._ray.wait(list(self._tasks), timeout=None if busy else PATIENCE_SECONDS)
            if not ready:
                raise VsrError(
                    f"no node of the cluster has had room for {PATIENCE_SECONDS} seconds; `ray status` says why."
                )
            for result in ready:
                self._take(result, self._tasks.pop(result))

    def _greet(self, actor: Any) -> None:
        self._tasks[actor.sees.remote(self._sources)] = _Task(actor, None)

    def _take(self, result: Any, task: _Task) -> None:
        try:
            answer = self._ray.get(result)
        except self._ray.exceptions.RayTaskError as exc:
            raise (
                exc.cause
                if isinstance(exc.cause, VsrError)
                else VsrError(f"a worker failed: {type(exc.cause).__name__}: {exc.cause}")
            ) from exc
        except self._ray.exceptions.RayError as exc:
            self._mourn(task, exc)
            return
        if task.segment is not None:
            self._keep(*answer)
        elif answer:
            lacking = {path: self._object(path) for path in answer}
            self._tasks[task.actor.bring.remote(lacking)] = task
            return
        self._tries[None] = 0
        if self._left:
            segment = self._left.popleft()
            self._tries[segment.number] += 1
            self._tasks[task.actor.run.remote(self._order, segment)] = _Task(task.actor, segment)

    def _mourn(self, task: _Task, cause: Exception) -> None:
        """An actor has died, most likely with its node: another does its segment."""
        number = None if task.segment is None else task.segment.number
        self._tries[None] += number is None
        if self._tries[number] >= ATTEMPTS:
            at = "before they began" if number is None else f"at segment {number}"
            raise VsrError(f"{ATTEMPTS} workers of the cluster died {at}: {cause}") from cause
        if task.segment is not None:
            logger.warning("a node was lost; segment %d is done again.", number)
            self._left.appendleft(task.segment)
        self._greet(self._successor(task.actor))

    def _object(self, path: str) -> Any:
        """A file as an object, for all nodes that do not see it."""
        if path not in self._objects:
            if Path(path).is_dir():
                raise VsrError(f"a node of the cluster does not see {path}; put it on a filesystem that all share.")
            logger.info("%s travels to nodes that do not see it.", path)
            self._objects[path] = self._ray.put(Path(path).read_bytes())
        return self._objects[path]

    def _keep(self, done: Finished, files: Files) -> None:
        folder = self._folder / f".{done.number:06}-cluster"
        try:
            folder.mkdir()
            for name, content in files.items():
                (folder / name).write_bytes(content)
        except OSError as exc:
            raise OutputError(f"cannot write to {self._folder}: {exc.strerror}.") from exc
        done = seal(folder, done)
        self._report.frames(done.frames)
        self._report.finished(done, folder)


def _portable(order: Order, device: str) -> Order:
    """An order that means the same in another folder, for another device."""
    clip, engine = order.clip, replace(order.engine, device=device)
    if device == "cuda" and engine.engine == "openvino" and order.options.engine == "auto":
        engine = replace(engine, engine="torch")  # planned on a machine without a GPU
    if Path(engine.model).is_file():
        engine = replace(engine, model=str(Path(engine.model).absolute()))
    pictures = tuple(path.absolute() for path in clip.pictures)
    return replace(order, clip=replace(clip, path=clip.path.absolute(), pictures=pictures), engine=engine)


def _needed(order: Order) -> Iterable[str]:
    """Files and folders that a node has to see."""
    clip = order.clip
    yield from {str(path.parent) for path in clip.pictures} if not clip.path.is_file() else (str(clip.path),)
    if Path(order.engine.model).is_file():
        yield order.engine.model


def _size(path: str) -> int:
    """Of a file; of a folder -1, of nothing -2."""
    found = Path(path)
    return found.stat().st_size if found.is_file() else -1 if found.is_dir() else -2


class SegmentActor:
    """Lives on a node, and keeps the engine from one segment to the next.

    Args:
        threads: of the CPU, for the network.
    """

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._engines: dict[EngineSpec, Engine] = {}
        self._brought: dict[str, str] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="vsr-"))

    def sees(self, files: dict[str, int]) -> list[str]:
        """Those of some files, with their sizes, that this node does not have."""
        return [path for path, size in files.items() if path not in self._brought and _size(path) != size]

    def bring(self, objects: dict[str, Any]) -> list[str]:
        """Lay down files that this node does not have; none is lacking then."""
        import ray

        for number, (path, content) in enumerate(objects.items(), start=len(self._brought)):
            place = self._folder / f"{number}{Path(path).suffix}"
            place.write_bytes(ray.get(content))
            self._brought[path] = str(place)
        return []

    def run(self, order: Order, segment: Segment) -> tuple[Finished, Files]:
        """Upscale a segment: what became of it, and its files."""
        clip, spec = order.clip, order.engine
        pictures = tuple(Path(self._here(str(path))) for path in clip.pictures)
        clip = replace(clip, path=Path(self._here(str(clip.path))), pictures=pictures)
        spec = replace(spec, model=self._here(spec.model))
        if spec not in self._engines:
            self._engines = {spec: spec.load()}
        results: list[tuple[Finished, Files]] = []

        def keep(done: Finished, at: Path) -> None:
            results.append((done, {path.name: path.read_bytes() for path in at.iterdir() if path.name != RECORD}))

        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            upscale_segments(
                replace(order, clip=clip, engine=spec), [segment], self._engines[spec], Path(folder),
                on_frames=lambda count: None, on_finished=keep,
            )  # fmt: skip
        return results[0]

    def leave(self) -> None:
        """Remove what is laid down here."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _here(self, path: str) -> str:
        return self._brought.get(path, path)
