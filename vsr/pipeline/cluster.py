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
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, cast

import av
import torch

import vsr
from vsr.errors import InputError, OutputError, UsageError, VsrError
from vsr.inference.device import choose_device, kind_of
from vsr.inference.engine import Engine
from vsr.networks.weights import BUILT_IN_DESCRIPTIONS, find_partner, find_weights, models_folder
from vsr.pipeline.journal import LOCK, RECORD, seal
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.plan import check_frame_fits
from vsr.pipeline.scheduler import Listener, Work, warn_of_different
from vsr.pipeline.segment import ClipJob, EngineCache, EngineSpec, upscale_segments
from vsr.pipeline.segments import FinishedSegment, Segment
from vsr.signals import shielded

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 120
"""How long to wait for any actor, where none is alive."""

CONNECT_SECONDS = 10
"""How long the head of a cluster may take to answer."""

LEAVING, LEAVING_SECONDS = "leaving", 2
"""The thread in which actors remove what they have on their nodes, and how long they get for it."""

CHUNK_BYTES = 32 << 20
"""Of a file that travels: what is on its way to a node at once."""

NOT_ON_NODE = ("failed to import on the worker", "has no attribute 'describe_node'")
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
            _check_reachable(self._options.cluster or "")
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
        node_infos = {actor.describe_node.remote(files, _shipped_weights(spec)): actor for actor in self._actors}
        with redirect_stdout(sys.stderr):
            ready, _ = self._ray.wait(list(node_infos), timeout=PATIENCE_SECONDS)
            if not ready:
                raise _no_room()
            actor = node_infos[ready[0]]
            try:
                node_info = self.answer(ready[0])
                self.accept(node_info, spec)
                for sent in _pieces(actor, _to_send(node_info, spec)):
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

    def run(self, job: ClipJob, segments: Sequence[Segment], folder: Path, listener: Listener, engine: Engine) -> None:
        """As ``Executor``."""
        pictures = tuple(path.absolute() for path in job.clip.pictures)
        clip = replace(job.clip, path=job.clip.path.absolute(), pictures=pictures)
        job = replace(job, clip=clip, engine=_portable(job.engine, self._device))
        with redirect_stdout(sys.stderr):  # where Ray prints what it has to say of lost nodes
            transport = _ActorTransport(self._ray, self, job, folder)
            Work(transport, job, segments, listener).run([_Worker(actor) for actor in self._actors])

    def answer(self, result: Any) -> Any:
        """What an actor's call returns.

        Raises:
            VsrError: what it has raised.
            RayError: the actor is lost.
        """
        try:
            return self._ray.get(result)
        except self._ray.exceptions.RayError as exc:
            if any(sign in str(exc) for sign in NOT_ON_NODE):
                ip = re.search(r"\bip=([^,)\s]+)", str(exc))
                node = f"the node {ip[1]}" if ip else "a node of the cluster"
                raise VsrError(f"{node} has no vsr {vsr.__version__} as this machine has; install it there.") from exc
            if not isinstance(exc, self._ray.exceptions.RayTaskError):
                raise
            if isinstance(exc.cause, VsrError):
                raise exc.cause from exc
            raise VsrError(f"a worker failed: {type(exc.cause).__name__}: {exc.cause}") from exc

    def accept(self, node_info: NodeInfo, spec: EngineSpec) -> None:
        """Refuse a node that would compute something else, and say where devices differ."""
        _check(node_info, versions_on(self._device), digest_of_weights(_shipped_weights(spec)))
        if node_info.kind not in self._kinds:
            self._kinds.add(node_info.kind)
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


def _check_reachable(address: str) -> None:
    """See whether anything answers there; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def _no_room() -> VsrError:
    return VsrError(f"no node of the cluster has had room for {PATIENCE_SECONDS} seconds; `ray status` says why.")


@dataclass(eq=False)
class _Worker:
    """An actor, as the scheduler sees it.

    Attributes:
        actor: on some node.
        segment: that it computes; None while it gets ready for one.
        sending: the pieces of files that it still lacks.
    """

    actor: Any
    segment: Segment | None = None
    sending: Iterator[Any] = iter(())


class _ActorTransport:
    """Carries segments to the actors of a cluster: a ``Transport``.

    Each actor first says what it is and which files it lacks; those travel to it piece by piece before it is ready.
    """

    segments_per_worker = 1

    def __init__(self, ray: Any, cluster: Cluster, job: ClipJob, folder: Path) -> None:
        self._ray, self._cluster, self._folder = ray, cluster, folder
        self._job, self._sent_job = job, ray.put(job)
        self._files = {path: fingerprint(Path(path)) for path in _needed(job)}
        self._calls: dict[Any, _Worker] = {}

    @property
    def busy(self) -> bool:
        """As ``Transport``."""
        return any(worker.segment for worker in self._calls.values())

    def begin(self, worker: _Worker, job: ClipJob) -> None:
        """As ``Transport``."""
        if job is not self._job:
            self._job, self._sent_job = job, self._ray.put(job)
        self._calls[worker.actor.describe_node.remote(self._files, _shipped_weights(job.engine))] = worker

    def assign(self, worker: _Worker, segment: Segment | None) -> None:
        """As ``Transport``."""
        worker.segment = segment
        if segment is not None:
            self._calls[worker.actor.run.remote(self._sent_job, segment)] = worker

    def listen(self, work: Work[_Worker]) -> None:
        """As ``Transport``."""
        ready, _ = self._ray.wait(list(self._calls), timeout=None if self.busy else PATIENCE_SECONDS)
        if not ready:
            raise _no_room()
        for call in ready:
            worker = self._calls.pop(call)
            try:
                answer = self._cluster.answer(call)
            except self._ray.exceptions.RayError as exc:
                work.died(worker, str(exc), exc)
            else:
                self._pass_on(worker, answer, work)

    def _pass_on(self, worker: _Worker, answer: Any, work: Work[_Worker]) -> None:
        if worker.segment is not None:
            done, files, smaller_tile = answer
            done, folder = self._keep(done, files)
            worker.segment = None
            work.frames(worker, done.frames)
            if smaller_tile is not None:
                work.smaller_tile(smaller_tile)
            work.finished(worker, done, folder)
        elif isinstance(answer, NodeInfo):
            self._cluster.accept(answer, self._job.engine)
            worker.sending = _pieces(worker.actor, _to_send(answer, self._job.engine))
        if (piece := next(worker.sending, None)) is not None:
            self._calls[piece] = worker
        else:
            work.ready(worker)

    def _keep(self, done: FinishedSegment, files: Files) -> tuple[FinishedSegment, Path]:
        folder = self._folder / f".{done.number:06}-cluster"
        try:
            folder.mkdir()
            for name, content in files.items():
                (folder / name).write_bytes(content)
        except OSError as exc:
            raise OutputError(f"cannot write to {self._folder}: {exc.strerror}.") from exc
        return seal(folder, done), folder

    def replace(self, worker: _Worker) -> _Worker:
        """As ``Transport``."""
        return _Worker(self._cluster.successor(worker.actor))

    def loss_message(self, reason: str, segments: Sequence[Segment]) -> str:
        """As ``Transport``."""
        return "".join(f"a node was lost; segment {segment.number} is done again." for segment in segments)

    def failure_message(self, reason: str, segment: Segment | None, attempts: int) -> str:
        """As ``Transport``."""
        at = "before they began" if segment is None else f"at segment {segment.number}"
        return f"{attempts} workers of the cluster died {at}: {reason}"


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
    own = spec.model not in BUILT_IN_DESCRIPTIONS and find_weights(spec.model).parent != models_folder()
    return replace(spec, device=device, model=os.path.abspath(spec.model) if own else spec.model)


def _weights(spec: EngineSpec) -> list[Path]:
    """The files that a network is loaded from."""
    if spec.model in BUILT_IN_DESCRIPTIONS:
        return []
    return [find_weights(spec.model), *([find_partner(spec.model)] if spec.detail != 1 else [])]


def _own_weights(spec: EngineSpec) -> list[str]:
    """Those that vsr does not bring; a node has to see them, or they travel."""
    return [str(path.absolute()) for path in _weights(spec) if path.parent != models_folder()]


def _shipped_weights(spec: EngineSpec) -> tuple[str, ...]:
    """The names of those that vsr brings."""
    return tuple(path.name for path in _weights(spec) if path.parent == models_folder())


def _needed(job: ClipJob) -> list[str]:
    """Files and folders that a node has to see."""
    clip = job.clip
    sources = [str(clip.path)] if clip.path.is_file() else sorted({str(path.parent) for path in clip.pictures})
    return sources + _own_weights(job.engine)


def _to_send(node_info: NodeInfo, spec: EngineSpec) -> list[str]:
    """What a node lacks; a generator and its partner stay side by side."""
    own = _own_weights(spec)
    lacking = [path for path in node_info.lacking if path not in own]
    return lacking + (own if set(own) & set(node_info.lacking) else [])


def _check(node_info: NodeInfo, versions: dict[str, str], weights: str) -> None:
    """Refuse a node that would compute something else than this machine.

    Raises:
        VsrError: it has another version of something, or other weights.
    """
    for name in versions | node_info.versions:
        ours, theirs = (f"{name} {each.get(name, 'none')}" for each in (versions, node_info.versions))
        if ours != theirs:
            raise VsrError(f"the node {node_info.node} has {theirs}, and this machine {ours}: install the same there.")
    if node_info.weights != weights:
        raise VsrError(f"the node {node_info.node} has other weights of that model: install the same vsr there.")


SAMPLE_BYTES, SAMPLES = 1 << 20, 64
"""Of a file that a node sees: so much is compared, in so many places. That is all of it up to 64 MiB."""

PREFIX = "vsr-cluster-"
"""Of folders for what has travelled."""

REMOVALS = 3
"""How often a folder is removed into which somebody still writes."""

Files = dict[str, bytes]
"""By name."""


@dataclass(frozen=True)
class NodeInfo:
    """What a node says before it is given anything to do.

    Attributes:
        node: its name.
        kind: of its device, as ``device.kind_of`` names it.
        versions: of what decides over pixels, by name.
        weights: digest of the shipped weights that it would take.
        lacking: of the files that it needs, those that it does not see, or sees otherwise.
    """

    node: str
    kind: str
    versions: dict[str, str]
    weights: str
    lacking: tuple[str, ...]


def fingerprint(path: Path) -> str:
    """Of a file its size and a digest of its bytes in many places; what else there is, in a word."""
    if not path.is_file():
        return "a folder" if path.is_dir() else "nothing"
    size, digest = path.stat().st_size, hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        for number in range(SAMPLES):
            file.seek(max(number * SAMPLE_BYTES, number * (size - SAMPLE_BYTES) // (SAMPLES - 1)))
            digest.update(file.read(SAMPLE_BYTES))
    return f"{size} bytes {digest.hexdigest()}"


def digest_of_weights(shipped: Sequence[str]) -> str:
    return " ".join(fingerprint(models_folder() / name) for name in shipped)


def versions_on(device: str) -> dict[str, str]:
    """Of all that decides over pixels, by name."""
    found = {"vsr": f"{vsr.__version__} ({_digest_of_code()})", "torch": torch.__version__, "PyAV": av.__version__}
    if device == "cpu":
        with suppress(PackageNotFoundError):
            found["openvino"] = version("openvino")
    return {name: told.partition("+")[0] for name, told in found.items()}


@cache
def _digest_of_code() -> str:
    digest, folder = hashlib.blake2b(digest_size=4), Path(vsr.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


class SegmentActor:
    """Lives on a node, and keeps the engine from one segment to the next. One call after the other, but for ``leave``.

    Args:
        threads: of the CPU, for the network.
        device: ``cpu`` or ``cuda``, where it computes.
    """

    def __init__(self, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        self._device, self._node = device, socket.gethostname()
        self._engines = EngineCache()
        self._brought: dict[str, tuple[str, Path]] = {}
        self._coming: dict[str, Any] = {}
        self._expected: dict[str, str] = {}
        self._home: _NodeFolder | None = None
        self._leaves = False

    def describe_node(self, files: dict[str, str], shipped: Sequence[str]) -> NodeInfo:
        """Say what this node is, and which of some files, with their fingerprints, it lacks; forget all others."""
        for path in [path for path in self._brought if self._brought[path][0] != files.get(path)]:
            self._brought.pop(path)[1].unlink(missing_ok=True)
        for path in list(self._coming):
            self._coming.pop(path)
            self._place(path).unlink(missing_ok=True)
        lacking = tuple(
            path for path in files if path not in self._brought and fingerprint(Path(path)) != files[path]
        )
        self._expected = files
        kind = kind_of(choose_device(self._device))
        return NodeInfo(self._node, kind, versions_on(self._device), digest_of_weights(shipped), lacking)

    def receive(self, path: str, piece: bytes) -> None:
        """Lay down the next piece of a file.

        Raises:
            OutputError: the disk refuses.
        """
        digest = self._coming.setdefault(path, hashlib.blake2b(digest_size=16))
        digest.update(piece)
        try:
            self._place(path).parent.mkdir(exist_ok=True)
            with open(self._place(path), "ab") as file:
                file.write(piece)
        except OSError as exc:
            raise OutputError(f"the node {self._node} cannot keep {path}: {exc.strerror}.") from exc

    def received(self, path: str, digest: str) -> None:
        """A file is whole.

        Raises:
            VsrError: it is another than was sent.
        """
        if self._coming.pop(path).hexdigest() != digest:
            raise VsrError(f"{path} was damaged on its way to the node {self._node}; run again.")
        self._brought[path] = self._expected[path], self._place(path)

    def ask(self, spec: EngineSpec, name: str, *arguments: Any) -> Any:
        """What an engine says here: an attribute, or what a method returns."""
        value = getattr(self._engine(spec), name)
        return value(*arguments) if callable(value) else value

    def run(self, job: ClipJob, segment: Segment) -> tuple[FinishedSegment, Files, int | None]:
        """Upscale a segment: what became of it, its files, and the tile to go on with where memory ran out."""
        clip, engine = job.clip, self._engine(job.engine)
        check_frame_fits(clip, engine, job.conversion, 1)
        pictures = tuple(self._here(path) for path in clip.pictures)
        job = replace(job, clip=replace(clip, path=self._here(clip.path), pictures=pictures))
        results: list[tuple[FinishedSegment, Files]] = []
        tiles: list[int] = []
        engine.on_smaller_tile = tiles.append

        def keep(done: FinishedSegment, at: Path) -> None:
            results.append((done, {path.name: path.read_bytes() for path in at.iterdir() if path.name != RECORD}))

        with tempfile.TemporaryDirectory(dir=self._folder()) as folder:
            upscale_segments(
                job, [segment], engine, Path(folder), on_frames=lambda count: None, on_finished=keep
            )
        return *results[0], tiles[-1] if tiles else None

    def leave(self) -> None:
        """Remove what is laid down here, whatever is at work."""
        self._leaves = True
        if self._home is not None:
            self._home.remove()
        _remove_abandoned()

    def _engine(self, spec: EngineSpec) -> Engine:
        spec = replace(spec, model=str(self._here(Path(spec.model))))
        return self._engines.load(spec)

    def _here(self, path: Path) -> Path:
        return self._brought[str(path)][1] if str(path) in self._brought else path

    def _place(self, path: str) -> Path:
        """Where a file is laid down that travels: beside those that it stood beside."""
        beside = hashlib.blake2b(os.fsencode(os.path.dirname(path)), digest_size=8).hexdigest()
        return self._folder() / beside / os.path.basename(path)

    def _folder(self) -> Path:
        if self._leaves:
            raise VsrError("the job has ended.")
        if self._home is None:
            self._home = _NodeFolder()
        return self._home.path


class _NodeFolder:
    """A folder for what has travelled to a node, held by a lock as long as its actor lives."""

    def __init__(self) -> None:
        _remove_abandoned()
        made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))
        self._lock = open(made / LOCK, "wb")  # noqa: SIM115 - as long as this lives
        _hold(self._lock)
        self.path = made.rename(made.with_name(made.name[1:]))  # now that nobody takes it for abandoned

    def remove(self) -> None:
        """Remove it, even while somebody writes there."""
        self._lock.close()
        for _ in range(REMOVALS):
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                break


def _remove_abandoned() -> None:
    """Remove what actors left that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError), open(folder / LOCK, "r+b") as lock:
            if _hold(lock) and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)


def _hold(lock: IO[bytes]) -> bool:
    """Lock an open file; whether that was done."""
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True
