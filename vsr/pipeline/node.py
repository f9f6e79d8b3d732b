"""A node's side of a cluster: the actor that works there, what it says of itself, and what is laid down for it."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import av
import torch

import vsr
from vsr.errors import OutputError, VsrError
from vsr.inference.device import choose_device, kind_of
from vsr.inference.engine import Engine
from vsr.networks.models import models_folder
from vsr.pipeline.job_folder import LOCK, RECORD
from vsr.pipeline.memory import check_frame_fits
from vsr.pipeline.order import EngineKeeper, EngineSpec, Order
from vsr.pipeline.segment import upscale_segments
from vsr.pipeline.segments import Finished, Segment

SAMPLE_BYTES, SAMPLES = 1 << 20, 64
"""Of a file that a node sees: so much is compared, in so many places. That is all of it up to 64 MiB."""

PREFIX = "vsr-cluster-"
"""Of folders for what has travelled."""

REMOVALS = 3
"""How often a folder is removed into which somebody still writes."""

Files = dict[str, bytes]
"""By name."""


@dataclass(frozen=True)
class Greeting:
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
        self._engines = EngineKeeper()
        self._brought: dict[str, tuple[str, Path]] = {}
        self._coming: dict[str, Any] = {}
        self._expected: dict[str, str] = {}
        self._home: _Home | None = None
        self._leaves = False

    def greet(self, files: dict[str, str], shipped: Sequence[str]) -> Greeting:
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
        return Greeting(self._node, kind, versions_on(self._device), digest_of_weights(shipped), lacking)

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

    def run(self, order: Order, segment: Segment) -> tuple[Finished, Files, int | None]:
        """Upscale a segment: what became of it, its files, and the tile to go on with where memory ran out."""
        clip, engine = order.clip, self._engine(order.engine)
        check_frame_fits(clip, engine, order.conversion, 1)
        pictures = tuple(self._here(path) for path in clip.pictures)
        order = replace(order, clip=replace(clip, path=self._here(clip.path), pictures=pictures))
        results: list[tuple[Finished, Files]] = []
        tiles: list[int] = []
        engine.on_smaller_tile = tiles.append

        def keep(done: Finished, at: Path) -> None:
            results.append((done, {path.name: path.read_bytes() for path in at.iterdir() if path.name != RECORD}))

        with tempfile.TemporaryDirectory(dir=self._folder()) as folder:
            upscale_segments(
                order, [segment], engine, Path(folder), on_frames=lambda count: None, on_finished=keep
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
            self._home = _Home()
        return self._home.path


class _Home:
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
