"""A Ray cluster: an actor for each GPU, or for the CPUs of each node, that holds the model; segments as its tasks.

Where a node dies, what its actor was at is given to another, and a new one waits for a node with room. A file that a
node does not see by its path, or sees otherwise, travels to it in pieces. Nodes with another vsr, torch or weights are
refused.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import vsr
from vsr.errors import InputError, OutputError, UsageError, VsrError
from vsr.inference.engine import Engine
from vsr.networks.models import BUILT_IN_PURPOSE, find_partner, find_weights, models_folder
from vsr.pipeline.job_folder import seal
from vsr.pipeline.node import Files, Greeting, SegmentActor, digest_of_weights, fingerprint, versions_on
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.order import EngineSpec, Order
from vsr.pipeline.processes import warn_of_different
from vsr.pipeline.segments import Finished, Segment
from vsr.signals import shielded

if TYPE_CHECKING:
    from vsr.pipeline.executors import Report

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a segment is tried whose nodes die."""

PATIENCE_SECONDS = 120
"""How long to wait for any actor, where none is alive."""

KNOCKING_SECONDS = 10
"""How long the head of a cluster may take to answer."""

LEAVING, LEAVING_SECONDS = "leaving", 2
"""The thread in which actors remove what they have on their nodes, and how long they get for it."""

CHUNK_BYTES = 32 << 20
"""Of a file that travels: what is on its way to a node at once."""

NO_SUCH_ACTOR = ("failed to import on the worker", "has no attribute 'greet'")
"""What Ray says where a node has no vsr, or an older one."""


class Cluster:
    """Actors on a cluster.

    Args:
        options: its address, and how many actors; None: one for each GPU, or where there are none for each node.

    Raises:
        UsageError: Ray is not installed, or the cluster has no GPU and one is asked for.
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
        self._kinds: set[str] = set()

    def __enter__(self) -> Cluster:
        if not self._ray.is_initialized():
            self._join()
            self._joined = True
        try:
            count, self._demand = self._shares()
            for _ in range(count):
                self._actors.append(self._start())
        except BaseException:
            self.__exit__()
            raise
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

    @property
    def _device(self) -> str:
        return "cuda" if "num_gpus" in self._demand else "cpu"

    def _start(self) -> Any:
        # Calls come one after the other, but that to leave does not wait for a segment.
        kind = self._ray.remote(**self._demand, scheduling_strategy="SPREAD", concurrency_groups={LEAVING: 1})
        return kind(SegmentActor).remote(int(self._demand.get("num_cpus", 1)), self._device)

    def successor(self, actor: Any) -> Any:
        """Another in place of one that has died."""
        self._actors[self._actors.index(actor)] = started = self._start()
        return started

    def _shares(self) -> tuple[int, dict[str, float]]:
        """How many actors, and what each of them needs."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        if gpus and self._options.device != "cpu":
            return self._options.jobs or gpus, {"num_gpus": 1}
        if self._options.device not in ("auto", "cpu"):
            raise UsageError(
                f"the cluster has no device for --device {self._options.device}; --device auto takes what is there."
            )
        each = max(1, int(min((node["CPU"] for node in nodes if node.get("CPU")), default=1)))
        room = int(sum(node.get("CPU", 0) // each for node in nodes))
        if self._options.jobs and self._options.jobs > room:
            each = max(1, each * room // self._options.jobs)
        return self._options.jobs or max(1, room), {"num_cpus": each}

    @shielded
    def __exit__(self, *_: object) -> None:
        leaving = [actor.leave.options(concurrency_group=LEAVING).remote() for actor in self._actors]
        if leaving:
            self._ray.wait(leaving, num_returns=len(leaving), timeout=LEAVING_SECONDS)
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        if self._joined:
            self._ray.shutdown()
            self._joined = False

    def load(self, spec: EngineSpec) -> Engine:
        """As ``Executor``: on the first node that is ready."""
        spec = _portable(spec, self._device)
        files = {path: fingerprint(Path(path)) for path in _own_weights(spec)}
        greetings = {actor.greet.remote(files, _shipped_weights(spec)): actor for actor in self._actors}
        with redirect_stdout(sys.stderr):
            ready, _ = self._ray.wait(list(greetings), timeout=PATIENCE_SECONDS)
            if not ready:
                raise _no_room()
            actor = greetings[ready[0]]
            try:
                greeting = self.answer(ready[0])
                self.accept(greeting, spec)
                for sent in _pieces(actor, _to_send(greeting, spec)):
                    self.answer(sent)
            except self._ray.exceptions.RayError as exc:
                raise self._lost(exc) from exc

        def ask(*what: Any) -> Any:
            try:
                return self.answer(actor.ask.remote(spec, *what))
            except self._ray.exceptions.RayError as exc:
                raise self._lost(exc) from exc

        return cast(Engine, EngineOnNode(ask))

    def _lost(self, cause: Exception) -> VsrError:
        why = str(cause).strip().partition("\n")[0].rstrip(". ")
        return VsrError(f"a node of the cluster was lost before the work began: {why}. Run again.")

    def run(self, order: Order, segments: Sequence[Segment], folder: Path, report: Report, engine: Engine) -> None:
        """As ``Executor``."""
        pictures = tuple(path.absolute() for path in order.clip.pictures)
        clip = replace(order.clip, path=order.clip.path.absolute(), pictures=pictures)
        order = replace(order, clip=clip, engine=_portable(order.engine, self._device))
        with redirect_stdout(sys.stderr):  # where Ray prints what it has to say of lost nodes
            _Work(self._ray, self, order, segments, folder, report).finish(list(self._actors))

    def answer(self, result: Any) -> Any:
        """What an actor's call returns.

        Raises:
            VsrError: what it has raised.
            RayError: the actor is lost.
        """
        try:
            return self._ray.get(result)
        except self._ray.exceptions.RayError as exc:
            if any(sign in str(exc) for sign in NO_SUCH_ACTOR):
                ip = re.search(r"\bip=([^,)\s]+)", str(exc))
                node = f"the node {ip[1]}" if ip else "a node of the cluster"
                raise VsrError(f"{node} has no vsr {vsr.__version__} as this machine has; install it there.") from exc
            if not isinstance(exc, self._ray.exceptions.RayTaskError):
                raise
            if isinstance(exc.cause, VsrError):
                raise exc.cause from exc
            raise VsrError(f"a worker failed: {type(exc.cause).__name__}: {exc.cause}") from exc

    def accept(self, greeting: Greeting, spec: EngineSpec) -> None:
        """Refuse a node that would compute something else, and say where devices differ."""
        _check(greeting, versions_on(self._device), digest_of_weights(_shipped_weights(spec)))
        if greeting.kind not in self._kinds:
            self._kinds.add(greeting.kind)
            if len(self._kinds) == 2:
                warn_of_different(self._kinds)


class EngineOnNode:
    """Answers for an engine on a node what is asked before the work begins: a part of ``Engine``."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask
        for name in ("scale", "runtime", "version", "precision", "kind", "has_weights", "in_order"):
            setattr(self, name, ask(name))

    def digest(self) -> Any:
        """As ``Engine``."""
        return self._ask("digest")

    def batch_size(self, *size: int) -> Any:
        """As ``Engine``."""
        return self._ask("batch_size", *size)

    def tile_for(self, *batch: int) -> Any:
        """As ``Engine``."""
        return self._ask("tile_for", *batch)

    def seconds_of(self, *batch: int) -> Any:
        """As ``Engine``."""
        return self._ask("seconds_of", *batch)

    def usual_seconds_of(self, *size: int) -> Any:
        """As ``Engine``."""
        return self._ask("usual_seconds_of", *size)


def _knock(address: str) -> None:
    """See whether anything answers there; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCKING_SECONDS).close()


def _no_room() -> VsrError:
    return VsrError(f"no node of the cluster has had room for {PATIENCE_SECONDS} seconds; `ray status` says why.")


@dataclass
class _Task:
    """What an actor is at.

    Attributes:
        actor: that is at it.
        segment: that it computes; None while it gets ready for one.
        sending: the pieces of files that it still lacks.
    """

    actor: Any
    segment: Segment | None = None
    sending: Iterator[Any] = iter(())


class _Work:
    """What there is to do for one clip, and who does it."""

    def __init__(
        self, ray: Any, cluster: Cluster, order: Order, segments: Sequence[Segment], folder: Path, report: Report
    ) -> None:
        self._ray, self._cluster, self._folder, self._report = ray, cluster, folder, report
        self._left = deque(segments)
        self._tries: Counter[int | None] = Counter()
        self._order, self._sent_order = order, ray.put(order)
        self._files = {path: fingerprint(Path(path)) for path in _needed(order)}
        self._tasks: dict[Any, _Task] = {}

    def finish(self, actors: Sequence[Any]) -> None:
        """Give out segments until none is left."""
        for actor in actors:
            self._greet(actor)
        while (busy := any(task.segment for task in self._tasks.values())) or self._left:
            ready, _ = self._ray.wait(list(self._tasks), timeout=None if busy else PATIENCE_SECONDS)
            if not ready:
                raise _no_room()
            for result in ready:
                self._take(result, self._tasks.pop(result))

    def _greet(self, actor: Any) -> None:
        self._tasks[actor.greet.remote(self._files, _shipped_weights(self._order.engine))] = _Task(actor)

    def _take(self, result: Any, task: _Task) -> None:
        try:
            answer = self._cluster.answer(result)
        except self._ray.exceptions.RayError as exc:
            self._on_death(task, exc)
            return
        sending = task.sending
        if task.segment is not None:
            self._keep(*answer)
        elif isinstance(answer, Greeting):
            self._cluster.accept(answer, self._order.engine)
            sending = _pieces(task.actor, _to_send(answer, self._order.engine))
        self._tries[None] = 0
        if (piece := next(sending, None)) is not None:
            self._tasks[piece] = _Task(task.actor, sending=sending)
        elif self._left:
            segment = self._left.popleft()
            self._tries[segment.number] += 1
            self._tasks[task.actor.run.remote(self._sent_order, segment)] = _Task(task.actor, segment)

    def _on_death(self, task: _Task, cause: Exception) -> None:
        """An actor has died, most likely with its node: another does its segment."""
        number = None if task.segment is None else task.segment.number
        self._tries[None] += number is None
        if self._tries[number] >= ATTEMPTS:
            at = "before they began" if number is None else f"at segment {number}"
            raise VsrError(f"{ATTEMPTS} workers of the cluster died {at}: {cause}") from cause
        if task.segment is not None:
            logger.warning("a node was lost; segment %d is done again.", number)
            self._left.appendleft(task.segment)
        self._greet(self._cluster.successor(task.actor))

    def _keep(self, done: Finished, files: Files, smaller_tile: int | None) -> None:
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
        if smaller_tile is not None:
            self._report.smaller_tile(smaller_tile)
            self._order = replace(self._order, engine=replace(self._order.engine, tile_size=smaller_tile))
            self._sent_order = self._ray.put(self._order)


def _pieces(actor: Any, paths: Sequence[str]) -> Iterator[Any]:
    """Send files to an actor piece by piece: one result to wait for, before the next piece is read."""
    for path in paths:
        if Path(path).is_dir():
            raise VsrError(f"a node of the cluster does not see {path}; put it on a filesystem that all share.")
        logger.info("%s travels to a node that does not see it.", path)
        digest = hashlib.blake2b(digest_size=16)
        try:
            with open(path, "rb") as file:
                piece = None
                while piece != b"":  # which ends the file, and makes one that is empty
                    digest.update(piece := file.read(CHUNK_BYTES))
                    yield actor.receive.remote(path, piece)
        except OSError as exc:
            raise InputError(f"cannot read {path}: {exc.strerror}.") from exc
        yield actor.received.remote(path, digest.hexdigest())


def _portable(spec: EngineSpec, device: str) -> EngineSpec:
    """A spec that means the same in another folder, for the devices of the cluster."""
    own = spec.model not in BUILT_IN_PURPOSE and find_weights(spec.model).parent != models_folder()
    return replace(spec, device=device, model=os.path.abspath(spec.model) if own else spec.model)


def _weights(spec: EngineSpec) -> list[Path]:
    """The files that a network is loaded from."""
    if spec.model in BUILT_IN_PURPOSE:
        return []
    return [find_weights(spec.model), *([find_partner(spec.model)] if spec.detail != 1 else [])]


def _own_weights(spec: EngineSpec) -> list[str]:
    """Those that vsr does not bring; a node has to see them, or they travel."""
    return [str(path.absolute()) for path in _weights(spec) if path.parent != models_folder()]


def _shipped_weights(spec: EngineSpec) -> tuple[str, ...]:
    """The names of those that vsr brings."""
    return tuple(path.name for path in _weights(spec) if path.parent == models_folder())


def _needed(order: Order) -> list[str]:
    """Files and folders that a node has to see."""
    clip = order.clip
    sources = [str(clip.path)] if clip.path.is_file() else sorted({str(path.parent) for path in clip.pictures})
    return sources + _own_weights(order.engine)


def _to_send(greeting: Greeting, spec: EngineSpec) -> list[str]:
    """What a node lacks; a generator and its partner stay side by side."""
    own = _own_weights(spec)
    lacking = [path for path in greeting.lacking if path not in own]
    return lacking + (own if set(own) & set(greeting.lacking) else [])


def _check(greeting: Greeting, versions: dict[str, str], weights: str) -> None:
    """Refuse a node that would compute something else than this machine.

    Raises:
        VsrError: it has another version of something, or other weights.
    """
    for name in versions | greeting.versions:
        ours, theirs = (f"{name} {each.get(name, 'none')}" for each in (versions, greeting.versions))
        if ours != theirs:
            raise VsrError(f"the node {greeting.node} has {theirs}, and this machine {ours}: install the same there.")
    if greeting.weights != weights:
        raise VsrError(f"the node {greeting.node} has other weights of that model: install the same vsr there.")
