"""An executor on a Ray cluster: one actor per GPU, or per node for the CPUs, holds the model and upscales segments.

If a node dies, the segment of its actor is given to another, and a new actor waits for a node with room. A file that a
node cannot read by its path, or that differs there, is sent to it in chunks. Nodes with another vsr, torch or weights
are refused. The first part of this module runs on the driver; from ``NodeInfo`` on, it runs on both sides or on nodes.
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
from vsr.errors import (
    InputError,
    OutputError,
    UsageError,
    VsrError,
    needs_extra,
    setting,
    settings_are_flags,
    spell_settings,
)
from vsr.files import models_folder
from vsr.inference.device import choose_device, kind_of
from vsr.inference.engine import Engine
from vsr.networks import BUILT_IN_DESCRIPTIONS
from vsr.networks.weights import find_partner, find_weights
from vsr.pipeline.journal import LOCK, RECORD, seal
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.plan import check_frame_fits
from vsr.pipeline.scheduler import Listener, Work, warn_of_different
from vsr.pipeline.segment import ClipJob, EngineCache, EngineSpec, upscale_segments
from vsr.pipeline.segments import FinishedSegment, Segment
from vsr.signals import shielded

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 120
"""How long to wait for an actor when none is alive."""

CONNECT_SECONDS = 10
"""Timeout for connecting to the head of a cluster."""

LEAVING, LEAVING_SECONDS = "leaving", 2
"""The concurrency group in which actors remove their files from their nodes, and how long they get for it."""

CHUNK_BYTES = 32 << 20
"""Bytes of a file that are sent to a node at once."""

NOT_INSTALLED_ERRORS = ("failed to import on the worker", "has no attribute 'describe_node'")
"""Parts of Ray's errors where a node has no vsr, or an older one."""


class Cluster:
    """An ``Executor`` that upscales by actors on a Ray cluster.

    Args:
        options: the cluster's address, and the number of actors (``jobs``); None: one per GPU, or without GPUs one per
            node.

    Raises:
        UsageError: Ray is not installed, or a GPU is requested and the cluster has none.
        VsrError: there is no cluster at that address.
    """

    def __init__(self, options: UpscaleOptions) -> None:
        with needs_extra("cluster", setting("cluster")):
            import ray
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
            count, self._demand = self._plan_actors()
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
        # Calls run one at a time, except that ``leave`` does not wait for a segment.
        kind = self._ray.remote(**self._demand, scheduling_strategy="SPREAD", concurrency_groups={LEAVING: 1})
        threads = int(self._demand.get("num_cpus", 1))
        return kind(SegmentActor).remote(threads, self._device, as_flags=settings_are_flags())

    def start_replacement(self, actor: Any) -> Any:
        """Start an actor in place of one that has died."""
        self._actors[self._actors.index(actor)] = started = self._start()
        return started

    def _plan_actors(self) -> tuple[int, dict[str, float]]:
        """Return how many actors to start, and the resources that each of them needs."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        if gpus and self._options.device != "cpu":
            return self._options.jobs or gpus, {"num_gpus": 1}
        if self._options.device not in ("auto", "cpu"):
            wanted, auto = setting("device", self._options.device), setting("device", "auto")
            raise UsageError(f"the cluster has no device for {wanted}; {auto} uses what is available.")
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
        """As ``Executor``; on the first node that is ready."""
        spec = _portable_spec(spec, self._device)
        files = {path: fingerprint(Path(path)) for path in _own_weights(spec)}
        node_infos = {actor.describe_node.remote(files, _shipped_weights(spec)): actor for actor in self._actors}
        with redirect_stdout(sys.stderr):
            ready, _ = self._ray.wait(list(node_infos), timeout=PATIENCE_SECONDS)
            if not ready:
                raise _no_room_error()
            actor = node_infos[ready[0]]
            try:
                node_info = self.answer(ready[0])
                self.accept(node_info, spec)
                for sent in _send_files(actor, _files_to_send(node_info, spec)):
                    self.answer(sent)
            except self._ray.exceptions.RayError as exc:
                raise self._lost_error(exc) from exc

        def ask(*what: Any) -> Any:
            try:
                return self.answer(actor.ask.remote(spec, *what))
            except self._ray.exceptions.RayError as exc:
                raise self._lost_error(exc) from exc

        return cast(Engine, RemoteEngine(ask))

    def _lost_error(self, cause: Exception) -> VsrError:
        why = str(cause).strip().partition("\n")[0].rstrip(". ")
        return VsrError(f"a node of the cluster was lost before the work began: {why}. Run again.")

    def run(self, job: ClipJob, segments: Sequence[Segment], folder: Path, listener: Listener, engine: Engine) -> None:
        """As ``Executor``."""
        pictures = tuple(path.absolute() for path in job.clip.pictures)
        clip = replace(job.clip, path=job.clip.path.absolute(), pictures=pictures)
        job = replace(job, clip=clip, engine=_portable_spec(job.engine, self._device))
        with redirect_stdout(sys.stderr):  # Ray prints its messages about lost nodes on stdout
            transport = _ActorTransport(self._ray, self, job, folder)
            Work(transport, job, segments, listener).run([_Worker(actor) for actor in self._actors])

    def answer(self, result: Any) -> Any:
        """Return the result of an actor's call.

        Raises:
            VsrError: raised by the actor, or made of what it raised.
            RayError: the actor is lost.
        """
        try:
            return self._ray.get(result)
        except self._ray.exceptions.RayError as exc:
            if any(sign in str(exc) for sign in NOT_INSTALLED_ERRORS):
                ip = re.search(r"\bip=([^,)\s]+)", str(exc))
                node = f"the node {ip[1]}" if ip else "a node of the cluster"
                raise VsrError(f"{node} lacks vsr {vsr.__version__}, which runs here; install it there.") from exc
            if not isinstance(exc, self._ray.exceptions.RayTaskError):
                raise
            if isinstance(exc.cause, VsrError):
                raise exc.cause from exc
            raise VsrError(f"a worker failed: {type(exc.cause).__name__}: {exc.cause}") from exc

    def accept(self, node_info: NodeInfo, spec: EngineSpec) -> None:
        """Refuse a node that would compute other pixels, and warn once if the kinds of device differ."""
        _check_node(node_info, versions_on(self._device), digest_of_weights(_shipped_weights(spec)))
        if node_info.kind not in self._kinds:
            self._kinds.add(node_info.kind)
            if len(self._kinds) == 2:
                warn_of_different(self._kinds)


class RemoteEngine:
    """The part of an ``Engine`` that is needed for planning, answered by an engine on a node."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask
        for name in ("name", "scale", "runtime", "version", "precision", "kind"):
            setattr(self, name, ask(name))
        for name in ("has_weights", "in_order", "adversarial"):
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
    """Try to connect; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def _no_room_error() -> VsrError:
    return VsrError(f"no node of the cluster has had room for {PATIENCE_SECONDS} seconds; `ray status` shows why.")


@dataclass(eq=False)
class _Worker:
    """An actor, as the scheduler sees it.

    Attributes:
        actor: its handle.
        segment: the segment that it computes; None while it gets ready.
        sending: calls that send it the files that it still lacks.
    """

    actor: Any
    segment: Segment | None = None
    sending: Iterator[Any] = iter(())


class _ActorTransport:
    """A ``Transport`` to the actors of a cluster.

    Each actor first describes its node and the files that it lacks; those are sent to it before it is ready.
    """

    segments_per_worker = 1

    def __init__(self, ray: Any, cluster: Cluster, job: ClipJob, folder: Path) -> None:
        self._ray, self._cluster, self._folder = ray, cluster, folder
        self._job, self._sent_job = job, ray.put(job)
        self._files = {path: fingerprint(Path(path)) for path in _needed_files(job)}
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
            raise _no_room_error()
        for call in ready:
            worker = self._calls.pop(call)
            try:
                answer = self._cluster.answer(call)
            except self._ray.exceptions.RayError as exc:
                work.died(worker, str(exc), exc)
            else:
                self._handle_answer(worker, answer, work)

    def _handle_answer(self, worker: _Worker, answer: Any, work: Work[_Worker]) -> None:
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
            worker.sending = _send_files(worker.actor, _files_to_send(answer, self._job.engine))
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
        return _Worker(self._cluster.start_replacement(worker.actor))

    def loss_message(self, reason: str, segments: Sequence[Segment]) -> str:
        """As ``Transport``."""
        return "".join(f"a node was lost; segment {segment.number} is computed again." for segment in segments)

    def failure_message(self, reason: str, segment: Segment | None, attempts: int) -> str:
        """As ``Transport``."""
        at = "before they began" if segment is None else f"at segment {segment.number}"
        return f"{attempts} workers of the cluster died {at}: {reason}"


def _send_files(actor: Any, paths: Sequence[str]) -> Iterator[Any]:
    """Send files to an actor in chunks; yield the call of each, to wait for before the next chunk is read."""
    for path in paths:
        if Path(path).is_dir():
            raise VsrError(f"a node of the cluster cannot read {path}; put it on a filesystem that all nodes share.")
        logger.info("Sending %s to a node that cannot read it.", path)
        digest = hashlib.blake2b(digest_size=16)
        try:
            with open(path, "rb") as file:
                piece = None
                while piece != b"":  # sent too, since it creates a file that is empty
                    digest.update(piece := file.read(CHUNK_BYTES))
                    yield actor.receive.remote(path, piece)
        except OSError as exc:
            raise InputError(f"cannot read {path}: {exc.strerror}.") from exc
        yield actor.finish_receiving.remote(path, digest.hexdigest())


def _portable_spec(spec: EngineSpec, device: str) -> EngineSpec:
    """Return the spec with absolute paths, for the devices of the cluster."""
    own = spec.model not in BUILT_IN_DESCRIPTIONS and find_weights(spec.model).parent != models_folder()
    return replace(spec, device=device, model=os.path.abspath(spec.model) if own else spec.model)


def _weights_files(spec: EngineSpec) -> list[Path]:
    """Return the files that the network is loaded from."""
    if spec.model in BUILT_IN_DESCRIPTIONS:
        return []
    return [find_weights(spec.model), *([find_partner(spec.model)] if spec.detail != 1 else [])]


def _own_weights(spec: EngineSpec) -> list[str]:
    """Return the paths of the weights that do not come with vsr; a node must be able to read them, or is sent them."""
    return [str(path.absolute()) for path in _weights_files(spec) if path.parent != models_folder()]


def _shipped_weights(spec: EngineSpec) -> tuple[str, ...]:
    """Return the names of the weights that come with vsr."""
    return tuple(path.name for path in _weights_files(spec) if path.parent == models_folder())


def _needed_files(job: ClipJob) -> list[str]:
    """Return the files and folders that a node must be able to read."""
    clip = job.clip
    sources = [str(clip.path)] if clip.path.is_file() else sorted({str(path.parent) for path in clip.pictures})
    return sources + _own_weights(job.engine)


def _files_to_send(node_info: NodeInfo, spec: EngineSpec) -> list[str]:
    """Return the files that a node lacks; a generator and its partner are sent together."""
    own = _own_weights(spec)
    lacking = [path for path in node_info.lacking if path not in own]
    return lacking + (own if set(own) & set(node_info.lacking) else [])


def _check_node(node_info: NodeInfo, versions: dict[str, str], weights: str) -> None:
    """Refuse a node that would compute other pixels than this machine.

    Raises:
        VsrError: the node has another version of a package, or other weights.
    """
    for name in versions | node_info.versions:
        ours, theirs = (f"{name} {each.get(name, 'none')}" for each in (versions, node_info.versions))
        if ours != theirs:
            raise VsrError(f"the node {node_info.node} has {theirs}, and this machine {ours}: install the same there.")
    if node_info.weights != weights:
        raise VsrError(f"the node {node_info.node} has other weights for that model: install the same vsr there.")


SAMPLE_BYTES, SAMPLES = 1 << 20, 64
"""Size and number of the samples by which files are compared; files up to 64 MiB are compared in full."""

FOLDER_PREFIX = "vsr-cluster-"
"""Of the folders for files that were sent to a node."""

MAX_REMOVALS = 3
"""How often removing a folder is tried, while another thread may still write into it."""

Files = dict[str, bytes]
"""Contents by name."""


@dataclass(frozen=True)
class NodeInfo:
    """The description of a node, which is checked before it gets work.

    Attributes:
        node: its host name.
        kind: of its device, as ``device.kind_of`` names it.
        versions: of the packages that determine pixels, by name.
        weights: digest of the shipped weights that the job uses.
        lacking: the files that it needs and cannot read, or that differ there.
    """

    node: str
    kind: str
    versions: dict[str, str]
    weights: str
    lacking: tuple[str, ...]


def fingerprint(path: Path) -> str:
    """Return a file's size and a digest of samples of its bytes; of a folder or a missing file, a word for it."""
    if not path.is_file():
        return "a folder" if path.is_dir() else "nothing"
    size, digest = path.stat().st_size, hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        for number in range(SAMPLES):
            file.seek(max(number * SAMPLE_BYTES, number * (size - SAMPLE_BYTES) // (SAMPLES - 1)))
            digest.update(file.read(SAMPLE_BYTES))
    return f"{size} bytes {digest.hexdigest()}"


def digest_of_weights(shipped: Sequence[str]) -> str:
    """Return the fingerprints of shipped weights files."""
    return " ".join(fingerprint(models_folder() / name) for name in shipped)


def versions_on(device: str) -> dict[str, str]:
    """Return the versions of the packages that determine pixels, by name."""
    found = {"vsr": f"{vsr.__version__} ({_digest_of_code()})", "torch": torch.__version__, "PyAV": av.__version__}
    if device == "cpu":
        with suppress(PackageNotFoundError):
            found["openvino"] = version("openvino")
    return {name: text.partition("+")[0] for name, text in found.items()}


@cache
def _digest_of_code() -> str:
    digest, folder = hashlib.blake2b(digest_size=4), Path(vsr.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


class SegmentActor:
    """An actor on a node, which keeps the engine between segments. Calls run one at a time, except ``leave``.

    Args:
        threads: CPU threads for the network.
        device: ``cpu`` or ``cuda``.
        as_flags: whether messages name options as flags of the command.
    """

    def __init__(self, threads: int, device: str, *, as_flags: bool = False) -> None:
        torch.set_num_threads(threads)
        spell_settings(as_flags=as_flags)
        self._device, self._node = device, socket.gethostname()
        self._engines = EngineCache()
        self._copies: dict[str, tuple[str, Path]] = {}
        self._receiving: dict[str, Any] = {}
        self._expected: dict[str, str] = {}
        self._node_folder: _NodeFolder | None = None
        self._has_left = False

    def describe_node(self, files: dict[str, str], shipped: Sequence[str]) -> NodeInfo:
        """Describe this node and which of the given files it lacks, and remove copies of all other files.

        Args:
            files: fingerprints by path.
            shipped: names of the shipped weights that the job uses.
        """
        for path in [path for path in self._copies if self._copies[path][0] != files.get(path)]:
            self._copies.pop(path)[1].unlink(missing_ok=True)
        for path in list(self._receiving):
            self._receiving.pop(path)
            self._copy_path(path).unlink(missing_ok=True)
        lacking = tuple(
            path for path in files if path not in self._copies and fingerprint(Path(path)) != files[path]
        )
        self._expected = files
        kind = kind_of(choose_device(self._device))
        return NodeInfo(self._node, kind, versions_on(self._device), digest_of_weights(shipped), lacking)

    def receive(self, path: str, piece: bytes) -> None:
        """Append the next chunk to the copy of a file.

        Raises:
            OutputError: it cannot be written.
        """
        digest = self._receiving.setdefault(path, hashlib.blake2b(digest_size=16))
        digest.update(piece)
        try:
            self._copy_path(path).parent.mkdir(exist_ok=True)
            with open(self._copy_path(path), "ab") as file:
                file.write(piece)
        except OSError as exc:
            raise OutputError(f"the node {self._node} cannot keep {path}: {exc.strerror}.") from exc

    def finish_receiving(self, path: str, digest: str) -> None:
        """Register the copy of a file as complete.

        Raises:
            VsrError: it differs from the file that was sent.
        """
        if self._receiving.pop(path).hexdigest() != digest:
            raise VsrError(f"{path} was damaged on its way to the node {self._node}; run again.")
        self._copies[path] = self._expected[path], self._copy_path(path)

    def ask(self, spec: EngineSpec, name: str, *arguments: Any) -> Any:
        """Return an attribute of the engine, or what a method of it returns."""
        value = getattr(self._engine(spec), name)
        return value(*arguments) if callable(value) else value

    def run(self, job: ClipJob, segment: Segment) -> tuple[FinishedSegment, Files, int | None]:
        """Upscale a segment. Return its record, its files, and the new tile size if memory ran out, else None."""
        clip, engine = job.clip, self._engine(job.engine)
        check_frame_fits(clip, engine, job.conversion, 1)
        pictures = tuple(self._local_path(path) for path in clip.pictures)
        job = replace(job, clip=replace(clip, path=self._local_path(clip.path), pictures=pictures))
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
        """Remove the files of this actor, even while a segment is being upscaled."""
        self._has_left = True
        if self._node_folder is not None:
            self._node_folder.remove()
        _remove_abandoned()

    def _engine(self, spec: EngineSpec) -> Engine:
        spec = replace(spec, model=str(self._local_path(Path(spec.model))))
        return self._engines.load(spec)

    def _local_path(self, path: Path) -> Path:
        return self._copies[str(path)][1] if str(path) in self._copies else path

    def _copy_path(self, path: str) -> Path:
        """Return where the copy of a file is kept; files of one folder stay together."""
        beside = hashlib.blake2b(os.fsencode(os.path.dirname(path)), digest_size=8).hexdigest()
        return self._folder() / beside / os.path.basename(path)

    def _folder(self) -> Path:
        if self._has_left:
            raise VsrError("the job has ended.")
        if self._node_folder is None:
            self._node_folder = _NodeFolder()
        return self._node_folder.path


class _NodeFolder:
    """A folder for files that were sent to a node, locked as long as its actor lives."""

    def __init__(self) -> None:
        _remove_abandoned()
        made = Path(tempfile.mkdtemp(prefix=f".{FOLDER_PREFIX}"))
        self._lock = open(made / LOCK, "wb")  # noqa: SIM115 - open as long as this object lives
        _try_lock(self._lock)
        self.path = made.rename(made.with_name(made.name[1:]))  # locked by now, so that it does not look abandoned

    def remove(self) -> None:
        """Remove the folder, even while another thread writes into it."""
        self._lock.close()
        for _ in range(MAX_REMOVALS):
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                break


def _remove_abandoned() -> None:
    """Remove the folders of actors that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError), open(folder / LOCK, "r+b") as lock:
            if _try_lock(lock) and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)


def _try_lock(lock: IO[bytes]) -> bool:
    """Try to lock an open file; return whether it is locked now."""
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True
