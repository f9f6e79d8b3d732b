"""Fixtures shared by the tests: generated clips, tiny weights, and a check for leaked resources."""

from __future__ import annotations

import logging
import os
import runpy
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from vsr.media.ffmpeg import bundled_program
from vsr.media.provenance import Provenance
from vsr.networks.generator import Generator
from vsr.networks.weights import save_network

Listing = list[tuple[int, int, str]]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell sets this for background processes
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # tiny networks are slower with a second thread


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Commands set the handlers of vsr's logger; the next test, of any folder, finds them as they were."""
    logger = logging.getLogger("vsr")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Seed torch, so that no test depends on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture
def limited_device() -> Iterator[torch.device]:
    """Provide a device that refuses float64 and uint16, as Apple's MPS does."""
    namespace = runpy.run_path(str(Path(__file__).with_name("limited_device.py")))
    with namespace["limited_device"]() as device:
        yield device


@pytest.fixture
def restored_precisions() -> Iterator[None]:
    """Reset the settings of float32 on CUDA that a test changes; a separate process would be slower."""
    yield
    torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = "none"
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cudnn.rnn.fp32_precision = "tf32"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real pictures and clips in VSR_TEST_DATA."""
    named = os.environ.get("VSR_TEST_DATA")
    if not named:
        pytest.skip("VSR_TEST_DATA is not set to a folder of real pictures and clips")
    folder = Path(named).resolve()
    assert (folder / "clips").is_dir(), f"VSR_TEST_DATA={named} contains no clips/"
    return folder


@pytest.fixture(scope="session")
def tiny_generator() -> Callable[..., Generator]:
    """Build a generator with random parameters and statistics, by default with one block and four channels."""

    def build(scale: int = 4, seed: int = 0, **config: Any) -> Generator:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            generator = Generator(**{"scale": scale, "blocks": 1, "channels": 4, **config})
            for name, tensor in generator.state_dict().items():
                if tensor.is_floating_point():
                    noise = torch.randn(tensor.shape) * 0.1
                    tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else tensor + noise)
        return generator.eval()

    return build


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory, tiny_generator: Callable[..., Generator]) -> Path:
    """Return a weights file of the tiny generator, x4."""
    path = tmp_path_factory.mktemp("weights") / "tiny-x4.safetensors"
    save_network(path, tiny_generator(), {"purpose": "tests"})
    return path


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """Write a clip with libav: moving gradients and optional tones."""

    def make(
        name: str = "clip.mp4",
        *,
        size: tuple[int, int] = (48, 32),
        pts: Sequence[int] = range(0, 8 * 512, 512),
        time_base: Fraction = Fraction(1, 12800),
        pix_fmt: str = "yuv420p",
        codec: str = "libx264",
        options: dict[str, str] | None = None,
        audio: Sequence[str] = (),
        container_options: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        width, height = size
        ticks = {"video_track_timescale": str(time_base.denominator)} if path.suffix == ".mp4" else {}
        with av.open(str(path), "w", container_options={**ticks, **(container_options or {})}) as container:
            video = container.add_stream(codec, rate=25, options={"preset": "ultrafast", **(options or {})})
            video.width, video.height, video.pix_fmt = width, height, pix_fmt
            video.codec_context.time_base = video.time_base = time_base
            tones = [container.add_stream(encoder, rate=48000) for encoder in audio]
            for index, stamp in enumerate(pts):
                frame = av.VideoFrame.from_ndarray(gradient(width, height, index), "rgb24").reformat(format=pix_fmt)
                frame.pts, frame.time_base = stamp, time_base
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            seconds = float((pts[-1] + pts[-1] - pts[-2] if len(pts) > 1 else 1) * time_base)
            for number, tone in enumerate(tones):
                _encode_tone(container, tone, seconds, 440.0 * (number + 1))
        return path

    return make


@pytest.fixture
def state_origin() -> Callable[[Path, Provenance], Path]:
    """Write how a clip was made into its metadata, as ``vsr upscale`` does."""

    def state(path: Path, made: Provenance) -> Path:
        copy = path.with_name(f"copy{path.suffix}")
        ticks = {}
        with av.open(str(path)) as source:
            if path.suffix == ".mp4":
                ticks = {"video_track_timescale": str(source.streams.video[0].time_base.denominator)}
            with av.open(str(copy), "w", container_options=ticks) as target:
                target.metadata["comment" if path.suffix == ".mp4" else "vsr"] = str(made)
                streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
                for packet in source.demux():
                    if packet.size:
                        packet.stream = streams[packet.stream_index]
                        target.mux(packet)
        return copy.replace(path)

    return state


def gradient(width: int, height: int, shift: int) -> np.ndarray:
    """Return a smooth picture that moves with ``shift``: (height, width, 3) uint8."""
    x, y = np.meshgrid(np.arange(width) + 2 * shift, np.arange(height))
    channels = [127 + 100 * np.sin(x / 9), 127 + 100 * np.cos(y / 7), 127 + 100 * np.sin((x + y) / 11)]
    return np.stack(channels, -1).astype(np.uint8)


def _encode_tone(container: av.container.OutputContainer, stream: av.AudioStream, seconds: float, hertz: float) -> None:
    size = stream.codec_context.frame_size or 1024
    for start in range(0, int(48000 * seconds), size):
        wave = 0.2 * np.sin(2 * np.pi * hertz * np.arange(start, start + size) / 48000)
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]).astype(np.float32), "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def ffmpeg() -> Callable[..., str]:
    """Run an ffmpeg program for independent checks of files, and return its standard output.

    It is always the program bundled with imageio-ffmpeg, whichever vsr uses.
    """
    program = bundled_program()
    assert program is not None, "imageio-ffmpeg has no program for this system"

    def run(*arguments: str | Path) -> str:
        command = [program, "-nostdin", "-v", "error", "-y", *map(str, arguments)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def frame_listing(ffmpeg: Callable[..., str]) -> Callable[..., Listing]:
    """List the frames of a stream as decoded by the ffmpeg program: pts, duration, MD5 of the packed planes."""

    def frames(path: Path, index: int, pix_fmt: str) -> Listing:
        rows = ffmpeg(
            "-noautorotate", "-copyts", "-i", f"file:{path}", "-map", f"0:{index}", "-c:v", "rawvideo",
            "-pix_fmt", pix_fmt, "-fps_mode", "passthrough", "-enc_time_base", "demux", "-f", "framehash",
            "-hash", "md5", "-",
        )  # fmt: skip
        fields = [row.replace(" ", "").split(",") for row in rows.splitlines() if not row.startswith("#")]
        return [(int(pts), int(duration), md5) for _, _, pts, duration, _, md5 in fields]

    return frames


@dataclass(frozen=True)
class Resources:
    """The resources of this process: vsr's threads, child processes with their start times, open files by number."""

    threads: frozenset[threading.Thread]
    children: frozenset[tuple[int, str]]
    files: frozenset[tuple[int, str]]

    @classmethod
    def now(cls) -> Resources:
        """Return the current resources."""
        threads = (thread for thread in threading.enumerate() if thread.is_alive() and thread.name.startswith("vsr-"))
        return cls(frozenset(threads), frozenset(_children()), frozenset(_open_files()))


def _children() -> Iterator[tuple[int, str]]:
    for listing in Path("/proc/self/task").glob("*/children"):
        for pid in listing.read_text().split() if listing.exists() else ():
            with suppress(OSError):
                yield int(pid), Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]


def _open_files() -> Iterator[tuple[int, str]]:
    for link in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            yield int(link.name), os.readlink(link)


def _end_children(children: Iterable[tuple[int, str]]) -> None:
    for pid, _ in children:
        with suppress(OSError):  # it has ended or been reaped in the meantime
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.fixture
def leaves_nothing(tmp_path: Path) -> Iterator[None]:
    """Fail if a test leaves a thread of vsr, a child process, an open file of ``tmp_path``, or a temporary file.

    Resources from before the test are ignored. Leaked children are killed and leaked files closed, so that the next
    test begins clean.
    """
    before = Resources.now()
    yield
    after = Resources.now()
    children = after.children - before.children
    files = [(number, name) for number, name in after.files - before.files if name.startswith(str(tmp_path))]
    threads = [thread.name for thread in after.threads - before.threads]
    temporary = [path for path in tmp_path.rglob("*") if ".vsr-" in path.name]
    _end_children(children)
    for number, _ in files:
        os.close(number)
    for path in temporary:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    assert not threads, f"threads left: {threads}"
    assert not children, f"child processes left: {sorted(pid for pid, _ in children)}"
    assert not files, f"open files left: {files}"
    assert not temporary, f"temporary files left: {temporary}"
