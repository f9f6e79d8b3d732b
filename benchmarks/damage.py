"""Test ``vsr upscale`` on damaged clips: a seeded sweep of mutations, each in a process of its own.

    python benchmarks/damage.py CLIPS [--count 300] [--seed 1] [--only K ...] [--show COLUMN ...]

CLIPS is the folder ``clips`` of the test data. Five of its clips, each of another container and codec, and seven
synthetic pictures are damaged in turn in nine ways; the damaged clips of the folder follow. A damaged clip must give
all frames that can be decoded, or be refused in one sentence, and nothing else may happen: exit code 0 or 1, no
traceback, no hang over 20 s, less than 2 GiB of memory, no thread, process or file left, the clip unchanged. The frames
that can be decoded are those that the ffmpeg program decodes. Pictures may be refused in any case.

One warm process has imported all that the command needs, and forks for each mutation; so the time excludes the imports,
and the memory includes them. The exit code is 1 if anything failed. ``--only K`` repeats mutation K of the same seed
and shows its whole stderr.

The columns: *ok* ended without a warning of damage, *warned* of it, *refused* left no output, *failed* broke a rule
above. *unsaid* ended without a warning though the ffmpeg program complained or found fewer frames than in the original
clip.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads would start with the import, and this process forks

import cv2
import numpy as np
from PIL import Image

from vsr.cli import main as command
from vsr.cli.upscale import upscale
from vsr.media.ffmpeg import find_program

MUTATIONS = runpy.run_path(str(Path(__file__).parents[1] / "tests" / "mutations.py"))
KINDS: tuple[str, ...] = tuple(MUTATIONS["KINDS"])
mutate: Callable[[bytes, str, str], bytes] = MUTATIONS["mutate"]

CLIPS = {
    "bbb_176x144_128kbps_15fps_h263.3gp": ["--model", "identity"],
    "bear-vp9-odd-dimensions.webm": ["--model", "bicubic", "--scale", "2"],  # h264 holds no odd size
    "sample_h262_mpeg_audio.ts": ["--model", "identity"],
    "vfr_irregular.mkv": ["--model", "identity"],
    "iibbibb_editlist_videoonly.mp4": ["--model", "identity"],
}
PICTURES = ("still.webp", "moving.webp", "moving.apng", "moving.gif", "still.avif", "still.tiff", "deep.png")
"""Pictures of noise and gradients; ``deep.png`` has 16 bits."""

DAMAGED = ("truncated_60pct.mkv", "bitflips40.ts", "sample_mdat_too_long.mp4", "zero_bytes.mp4", "random_4k.mp4")

SECONDS, DAMAGED_SECONDS, MEBIBYTES = 20, 60, 2048
"""Limits of time and memory. The damaged clips of the folder are longer than the mutated ones."""

COLUMNS = ("ok", "unsaid", "warned", "refused", "failed")

KNOWN = {name for parameter in upscale.params for name in parameter.opts}
"""The options of the command."""

THREADS_LEFT = 99
"""Exit code of a fork whose command left a thread running."""


@dataclass(frozen=True)
class Case:
    """A damaged clip.

    Attributes:
        number: the number for ``--only``.
        kind: the kind of damage.
        clip: the name of the file.
        content: the bytes of the file.
        whole: the original clip; None if there is none.
        arguments: the arguments of the command.
        is_picture: whether it is a picture, which may be refused.
        seconds: the time limit.
    """

    number: int
    kind: str
    clip: str
    content: bytes
    whole: Path | None
    arguments: tuple[str, ...]
    is_picture: bool = False
    seconds: float = SECONDS


@dataclass
class Ending:
    """How a process ended: wall seconds, largest resident memory in MiB, exit code or minus the signal."""

    code: int
    seconds: float
    peak_mib: float
    stderr: str
    complaints: list[str] = field(default_factory=list)
    """The rules that were broken, or the damage that was not reported."""


def make_pictures(folder: Path) -> None:
    """Write the pictures of ``PICTURES``."""
    random = np.random.default_rng(1)
    x, y = np.meshgrid(np.arange(64), np.arange(48))
    smooth = np.stack([x * 4, y * 5, 255 - x * 2, 255 * (x > 20)], -1).astype(np.uint8)
    frames = [Image.fromarray(np.roll(smooth, 4 * step, 1) ^ random.integers(0, 16, smooth.shape, np.uint8), "RGBA")
              for step in range(4)]  # fmt: skip
    for name in PICTURES:
        moving = {"save_all": True, "append_images": frames[1:], "duration": 80} if name.startswith("moving") else {}
        if name == "deep.png":
            deep = random.integers(0, 1 << 16, (48, 64, 3), np.uint16)
            cv2.imwrite(str(folder / name), deep)
        else:
            frames[0].save(folder / name, "PNG" if name.endswith("apng") else None, **moving)


def cases(clips: Path, pictures: Path, seed: int, count: int) -> Iterator[Case]:
    """Yield the mutations, clip by clip in turn and kind by kind, then the damaged clips of the folder."""
    names = [*CLIPS, *PICTURES]
    for number in range(count):
        name, kind = names[number % len(names)], KINDS[number // len(names) % len(KINDS)]
        whole = (clips if name in CLIPS else pictures) / name
        content = mutate(whole.read_bytes(), kind, f"{seed}/{number}")
        arguments = _arguments(CLIPS.get(name, ["--model", "bicubic", "--scale", "2"]), number)
        yield Case(number, kind, name, content, whole, arguments, name in PICTURES)
    for number, name in enumerate(DAMAGED, start=count):
        content, arguments = (clips / name).read_bytes(), _arguments(["--model", "identity"], number)
        yield Case(number, "as found", name, content, None, arguments, seconds=DAMAGED_SECONDS)


def _arguments(model: list[str], number: int) -> tuple[str, ...]:
    effort = ["-x", "preset=ultrafast"] if "-x" in KNOWN else ["--preset", "ultrafast"]
    tolerant = ["--tolerant"] if "--tolerant" in KNOWN and number % 2 else []
    return (*model, "--device", "cpu", *effort, *tolerant)


def run_forked(case: Case, folder: Path, log: Path) -> Ending:
    """Run the command in a fork of this process, which is killed if it exceeds the limits of time or memory."""
    arguments = ["upscale", str(folder / case.clip), "-o", str(folder / "out.mp4"), *case.arguments]
    started = time.monotonic()
    child = os.fork()
    if not child:
        _run_command(arguments, log)
    complaints: list[str] = []
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if not complaints and time.monotonic() - started > case.seconds:
            complaints.append(f"hung over {case.seconds:g} s")
            os.kill(child, signal.SIGABRT)  # faulthandler prints where
        elif not complaints and _resident_mib(child) > MEBIBYTES:
            complaints.append(f"over {MEBIBYTES} MiB")
            os.kill(child, signal.SIGABRT)
        elif complaints and time.monotonic() - started > case.seconds + 2:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    seconds, peak = time.monotonic() - started, usage.ru_maxrss / 1024
    if peak > MEBIBYTES and not complaints:
        complaints.append(f"over {MEBIBYTES} MiB")
    try:
        os.killpg(child, signal.SIGKILL)  # its session: all processes that it started
        complaints.append("left a process")
    except ProcessLookupError:
        pass
    return Ending(os.waitstatus_to_exitcode(status), seconds, peak, log.read_text(errors="replace"), complaints)


def _resident_mib(process: int) -> float:
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * resource.getpagesize() / 2**20


def _run_command(arguments: list[str], log: Path) -> NoReturn:
    code: object = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        null = os.open(os.devnull, os.O_RDWR)
        errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        for target, opened in ((0, null), (1, null), (2, errors)):
            os.dup2(opened, target)
        faulthandler.enable(sys.__stderr__ or 2)
        try:
            command.main(arguments, "vsr")
        except SystemExit as exc:
            code = exc.code
        if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
            code = THREADS_LEFT
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(code if isinstance(code, int) else 0)


def decoded(clip: Path) -> tuple[int, str]:
    """Return the number of frames of the first video stream that ffmpeg decodes, and its first complaint."""
    return _framehash(clip, "-fps_mode", "passthrough")


def _framehash(clip: Path, *options: str) -> tuple[int, str]:
    words = ["-nostdin", "-v", "error", "-i", f"file:{clip}", "-map", "0:V:0?", *options, "-f", "framehash", "-"]
    try:
        done = subprocess.run([find_program(), *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    except subprocess.TimeoutExpired:
        return 0, "no end in 60 s"
    frames = sum(not row.startswith(b"#") for row in done.stdout.splitlines())
    return frames, done.stderr.decode("utf-8", "replace").partition("\n")[0]


def classify(case: Case, ending: Ending, folder: Path) -> str:
    """Return the column of the table, and add the broken rules to ``ending.complaints``."""
    complaints, lines = ending.complaints, ending.stderr.splitlines()
    last = lines[-1] if lines else ""
    if ending.code == THREADS_LEFT:
        complaints.append("left a thread")
    elif ending.code < 0 and not complaints:
        complaints.append(f"died of {signal.Signals(-ending.code).name}")
    elif ending.code not in (0, 1) and not complaints:
        complaints.append(f"exit code {ending.code}")
    if "Traceback" in ending.stderr or "a bug, please report it" in ending.stderr:
        complaints.append("a traceback")
    elif strange := [line for line in lines if not line.startswith(("error: ", "warning: ", "vsr: "))]:
        complaints.append(f"printed {strange[0]!r}" if ending.code >= 0 else "printed more")
    if ending.code == 1 and not (case.clip in last or "out." in last):
        complaints.append("no sentence that names the file")
    if (folder / case.clip).read_bytes() != case.content:
        complaints.append("changed the clip")
    left = {path.name for path in folder.iterdir()} - {case.clip}
    if forgotten := {name for name in left if name != "out.mp4" and name not in last}:
        complaints.append(f"left {', '.join(sorted(forgotten))}")
    return _classify_frames(case, ending, folder, left, lines)


def _classify_frames(case: Case, ending: Ending, folder: Path, left: set[str], lines: list[str]) -> str:
    complaints = ending.complaints
    there, complaint = decoded(folder / case.clip)
    written = _framehash(folder / "out.mp4", "-c", "copy")[0] if "out.mp4" in left else 0
    if ending.code == 0 and not written:
        complaints.append("exit code 0 without an output")
    elif ending.code == 1 and not left and there and not case.is_picture:
        complaints.append(f"refused, though {there} frames can be decoded")
    elif written and written < there and not case.is_picture:
        complaints.append(f"{written} of {there} frames")
    warnings = [line for line in lines if "damaged" in line]
    if warnings and left and ending.code != (0 if "--tolerant" in case.arguments else 1) and "--tolerant" in KNOWN:
        complaints.append(
            f"exit code {ending.code} {'with' if '--tolerant' in case.arguments else 'without'} --tolerant"
        )
    if complaints:
        return "failed"
    if ending.code == 1:
        return "warned" if left else "refused"
    before = decoded(case.whole)[0] if case.whole else 0
    if not warnings and not case.is_picture and (complaint or there < before):
        complaints.append(f"{there} of {before or 'unknown'} frames; {complaint}")
        return "unsaid"
    return "warned" if warnings else "ok"


def show(case: Case, ending: Ending, verdict: str, verbose: bool) -> None:
    """Print a line for a mutation, and the last line of its stderr or all of it."""
    print(f"--only {case.number}: {case.kind}, {case.clip}: {verdict}: {'; '.join(ending.complaints)}")
    for line in ending.stderr.splitlines()[0 if verbose else -1 :]:
        print(f"    {line if verbose else line[:300]}", flush=True)


def warm_up() -> None:
    """Import what the command imports while it runs, so that no fork does."""
    import av  # noqa: F401
    import torch
    import tqdm  # noqa: F401

    import vsr.pipeline.job  # noqa: F401

    torch.set_num_interop_threads(1)
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise SystemExit("an import has started a thread: a fork would differ from the command")


def main() -> None:
    """Print the failures as they occur, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="+", metavar="K")
    parser.add_argument("--show", nargs="+", default=["failed"], choices=COLUMNS)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for the clips that fail")
    options = parser.parse_args()
    warm_up()
    table: dict[str, Counter[str]] = {kind: Counter() for kind in (*KINDS, "as found")}
    slowest, largest = (0.0, ""), (0.0, "")
    pictures = tempfile.TemporaryDirectory(prefix="damage-")
    make_pictures(Path(pictures.name))
    for case in cases(options.clips, Path(pictures.name), options.seed, options.count):
        if options.only and case.number not in options.only:
            continue
        with tempfile.TemporaryDirectory(prefix="damage-") as outer:
            folder = Path(outer) / "run"
            folder.mkdir()
            (folder / case.clip).write_bytes(case.content)
            ending = run_forked(case, folder, Path(outer) / "stderr")
            verdict = classify(case, ending, folder)
        if options.only or verdict in options.show:
            show(case, ending, verdict, bool(options.only))
        if options.keep and verdict == "failed":
            options.keep.mkdir(exist_ok=True)
            (options.keep / f"{options.seed}-{case.number}-{case.clip}").write_bytes(case.content)
        table[case.kind][verdict] += 1
        slowest = max(slowest, (ending.seconds, f"--only {case.number}, {case.clip}"))
        largest = max(largest, (ending.peak_mib, f"--only {case.number}, {case.clip}"))
    print(f"{'':16}" + "".join(f"{column:>9}" for column in COLUMNS))
    for kind, counts in table.items():
        print(f"{kind:16}" + "".join(f"{counts[column]:9}" for column in COLUMNS))
    print(f"slowest: {slowest[0]:.1f} s ({slowest[1]});  most memory: {largest[0]:.0f} MiB ({largest[1]})")
    raise SystemExit(any(counts["failed"] for counts in table.values()))


if __name__ == "__main__":
    main()
