"""Kill jobs at random moments, or let them run out of disk: is the output the same, and is no work done twice?

    python benchmarks/interruptions.py CLIP [--kills 30 | --damage N | --disk] [--seed 0] [--jobs N] [--model bicubic]
                                            [--whole]

CLIP is looped to 45 seconds, or used unchanged with ``--whole``, and upscaled once undisturbed. Then the same job is
started, killed by SIGKILL at a random moment within the duration of the undisturbed one, and restarted at once, until
all kills are used and the job is done; if it is done earlier, another job follows. Every fifth kill waits for the
assembly, and every fifth for the moment when the output has its final name, which random moments seldom hit. With
``--jobs`` every second kill hits a worker instead, whose master must finish alone. The seed determines the moments, but
not what is running then.

``--damage`` interrupts one job instead, and in each of N copies of its folder flips a bit of a file, truncates or
deletes it, in a finished segment or the manifest, and restarts the command. Only the damaged segment must be done
again; a job without its manifest must be refused in one sentence and not changed.

``--disk`` fills a small tmpfs instead (needs root): during the segments, while they are joined, and while the output is
assembled. The job must end with exit code 1 and one sentence, keep the finished segments, and continue when there is
space.

The exit code is 1 if an output differs from the undisturbed one, a finished segment was written again, a file or a
process was left, or the command ended in another way than it should.
"""

from __future__ import annotations

import argparse
import filecmp
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import av

from vsr.media.ffmpeg import find_program

CLIP_SECONDS, TICK_SECONDS = 45, 0.01
PARTS = ("start-up", "segments", "assembly", "after the end")

ENDING_SECONDS = 30
"""Time limit in seconds for a worker to end after its master; it may finish what is in its queues."""


def decoded(clip: Path) -> str:
    """Return a digest of every frame of the first video and every packet of sound, with their times."""
    digest = hashlib.md5()
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            digest.update(f"{frame.pts * frame.time_base} {frame.format.name}".encode() + frame.to_ndarray().tobytes())
    with av.open(str(clip)) as container:
        for packet in container.demux(*container.streams.audio) if container.streams.audio else ():
            if packet.size:
                digest.update(f"{packet.stream_index} {packet.pts * packet.time_base}".encode() + bytes(packet))
    return digest.hexdigest()


class Job:
    """One output, for which the command is started as often as needed, each time in a new session.

    Attributes:
        segments: number of segments; None if it is not known yet.
        complaints: the rules that were broken.
        records: inode and time of each finished segment, which must not change.
        assembled: when the assembly began, in seconds from the start; None before.
        segment_bytes: greatest size of the finished segments.
        assembly_seconds: time from the last segment until the output had its name.
        seconds: duration of the last run that was not killed.
        sessions: the process of each run.
        spoiled: segments that have to be done again.
        redone: segments that were done again.
    """

    def __init__(
        self, source: Path, target: Path, arguments: Sequence[str], temporary: Path, segments: int | None = None
    ) -> None:
        self.segments = segments
        self.target, self.folder = target, target.with_name(target.name + ".vsr-job")
        self._command = [sys.executable, "-m", "vsr", "upscale", str(source), "-o", str(target), *arguments]
        self._environment = os.environ | {"TMPDIR": str(temporary)}
        self.complaints: list[str] = []
        self.records: dict[str, tuple[int, int]] = {}
        self.segment_bytes, self.assembly_seconds, self.seconds = 0, 0.0, 0.0
        self.sessions: list[int] = []
        self.spoiled: set[str] = set()
        self.redone: list[str] = []
        self._logs: list[IO[str]] = []
        self._started, self._kept = time.monotonic(), 0.0
        self.assembled: float | None = None

    def start(self) -> None:
        """Start the command."""
        self._logs.append(tempfile.TemporaryFile("w+", errors="replace"))  # noqa: SIM115 - closed with this object
        self.assembled = None
        self._started, self._kept = time.monotonic(), 0.0
        self._child = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._logs[-1],
            env=self._environment, start_new_session=True,
        )  # fmt: skip
        self.sessions.append(self._child.pid)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def watch(self, until: Callable[[], bool] = lambda: False, *, tick: float = TICK_SECONDS) -> int | None:
        """Observe the command until a condition holds (returns None) or it ends (returns its exit code)."""
        while (code := self._child.poll()) is None:
            if until():
                return None
            self.look()
            time.sleep(tick)
        self.look()
        self.seconds = self.elapsed
        return code

    def look(self) -> None:
        """Record the finished segments."""
        size, found = 0, {}
        with suppress(FileNotFoundError):  # the folder is removed at the end
            for path in self.folder.glob("[0-9]*/*"):
                status = path.stat()
                size += status.st_size
                if path.name == "record.json":
                    found[path.parent.name] = (status.st_ino, status.st_mtime_ns)
        if found.keys() - self.records:
            self._kept = self.elapsed
        for name, stamp in found.items():
            if self.records.setdefault(name, stamp) != stamp:
                self.redone.append(name)
                if name not in self.spoiled:
                    self.complaints.append(f"segment {name} was done twice")
                self.records[name] = stamp
        self.segment_bytes = max(self.segment_bytes, size)
        if self.assembled is None and (self.target.exists() or len(found) == self.segments):
            self.assembled = self.elapsed
        if not self.target.exists():
            self.assembly_seconds = self.elapsed - self._kept

    def reached(self, seconds: float, assembly: bool) -> bool:
        """Whether this time has passed since the start, or since the assembly began."""
        begun = self.assembled if assembly else 0.0
        return begun is not None and self.elapsed - begun > seconds

    def where(self) -> str:
        """Return the current part of the work of the command."""
        if self.target.exists():
            return "after the end"
        if len(list(self.folder.glob("[0-9]*"))) == self.segments:
            return "assembly"
        begun = {path.name.rpartition("-")[2] for path in self.folder.glob(".[0-9]*-*")}
        return "segments" if begun & set(map(str, members(self._child.pid))) else "start-up"

    def workers(self) -> list[int]:
        """Return the worker processes of the command."""
        return [pid for pid in members(self._child.pid) if b"spawn_main" in _read(pid, "cmdline")]

    def kill(self) -> None:
        """Kill the command only; afterwards no finished segment may be missing."""
        self._child.kill()
        self._child.wait()
        if not self.target.exists() and (lost := [name for name in self.records if not (self.folder / name).is_dir()]):
            self.complaints.append(f"segments {', '.join(lost)} are gone")

    def errors(self, run: int = -1) -> list[str]:
        """Return the lines that a run wrote to stderr."""
        self._logs[run].seek(0)
        return self._logs[run].read().splitlines()

    def left(self) -> list[int]:
        """Return the living processes of all runs."""
        return [pid for session in self.sessions for pid in members(session)]

    def check(self, code: int | None, reference: Path) -> None:
        """Add complaints if the command has not ended as it should."""
        if code != 0 or self.errors():
            self.complaints.append(f"exit code {code}: {' / '.join(self.errors())}")
        if not self.target.exists():
            self.complaints.append("no output")
        elif not filecmp.cmp(self.target, reference, shallow=False) and decoded(self.target) != decoded(reference):
            self.complaints.append("the output differs")
        self.target.unlink(missing_ok=True)
        if self.folder.exists():
            self.complaints.append(f"{self.folder.name} is left")
        if any("Traceback" in line for run in range(len(self._logs)) for line in self.errors(run)):
            self.complaints.append("a traceback")


def _read(pid: int, name: str) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def members(session: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        fields = _read(pid, "stat").rpartition(b") ")[2].split()
        if fields and fields[0] != b"Z" and int(fields[3]) == session:
            found.append(pid)
    return found


def killed(start: Callable[[str], Job], reference: Job, kills: int, seed: int, jobs: int) -> list[Job]:
    """Kill and restart jobs until all kills are used, and print what was hit."""
    draw, hits, done = random.Random(seed), Counter[str](), list[Job]()
    while hits.total() < kills:
        job = start(f"killed-{len(done)}.mp4")
        done.append(job)
        while (code := _run_and_interrupt(job, draw, hits, kills, jobs, reference)) is None:
            pass
        job.check(code, reference.target)
    print("| hit | start-up | segments | assembly | after the end |\n|---|---|---|---|---|")
    for who in ("the command", "a worker")[: min(jobs, 2)]:
        print(f"| {who} | " + " | ".join(str(hits[f"{who}, {where}"]) for where in PARTS) + " |")
    return done


def _run_and_interrupt(
    job: Job, draw: random.Random, hits: Counter[str], kills: int, jobs: int, reference: Job
) -> int | None:
    """Run the command once; returns its exit code, or None if it was killed and is not done."""
    number = hits.total()
    worker, late, named = jobs > 1 and number % 2 == 1, number % 5 == 4, number % 5 == 2
    delay = draw.uniform(0, reference.assembly_seconds if late else reference.seconds)
    job.start()
    if number == kills:
        return job.watch()
    if named and not worker:
        code = job.watch(job.target.exists, tick=0)
    else:
        code = job.watch(lambda: job.reached(delay, late) and (not worker or bool(job.workers())))
    if code is not None:
        return code
    hits[f"{'a worker' if worker else 'the command'}, {job.where()}"] += 1
    if worker:
        with suppress(ProcessLookupError, IndexError):
            os.kill(draw.choice(job.workers()), signal.SIGKILL)
        return job.watch()
    job.kill()
    return 0 if job.target.exists() and not job.folder.exists() else None


def damaged(start: Callable[[str], Job], reference: Job, count: int, seed: int) -> list[Job]:
    """Damage copies of the folder of an interrupted job, and print what had to be done again."""
    draw, table, done = random.Random(seed), Counter[str](), []
    template = start("template.mp4")
    template.start()
    wanted = max(1, len(reference.records) * 3 // 4)
    if template.watch(lambda: len(template.records) >= wanted) is not None:
        raise SystemExit("the job was done before it could be interrupted")
    template.kill()
    for number in range(count):
        job = start(f"damaged-{number}.mp4")
        done.append(job)
        shutil.copytree(template.folder, job.folder)
        victims = [*sorted(job.folder.glob("[0-9]*/*")), job.folder / "manifest.json"]
        victim, how = draw.choice(victims), draw.choice(("flipped", "cut", "deleted"))
        _damage(victim, how, draw)
        job.read_manifest()
        if victim.parent != job.folder:
            job.spoiled.add(victim.parent.name)
            if victim.name == "record.json":  # replaced or deleted
                job.records.setdefault(victim.parent.name, (0, 0))
        before = _contents(job.folder)
        job.start()
        code = job.watch()
        kind = victim.name if victim.suffix == ".json" else "video"
        if kind == "manifest.json":
            table[f"{how}, {kind}: refused"] += code == 1
            if code != 1 or len(job.errors()) != 1 or _contents(job.folder) != before or job.target.exists():
                job.complaints.append(f"not refused in one sentence, untouched: {code} {job.errors()}")
            shutil.rmtree(job.folder)
            continue
        job.check(code, reference.target)
        again = {name for name in job.redone if name == victim.parent.name}
        if not again:
            job.complaints.append(f"{victim.parent.name} was {how} and not done again")
        table[f"{how}, {kind}: only this done again"] += not job.complaints
    shutil.rmtree(template.folder)
    print(
        "| damage | times |\n|---|---|", *(f"| {kind} | {times} |" for kind, times in sorted(table.items())), sep="\n"
    )
    return [template, *done]


def _damage(path: Path, how: str, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "cut":
        os.truncate(path, draw.randrange(len(content)))
    else:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def filled(start: Callable[[str], Job], reference: Job, disk: Path) -> list[Job]:
    """Let the disk fill up in each part of the work, then enlarge it, and print how the job ends."""
    segments, output = reference.segment_bytes, reference.target.stat().st_size
    sizes = {"segments": segments // 2, "joining": segments * 3 // 2, "assembly": 2 * segments + output // 2}
    done = []
    print("| the disk fills during | MiB | exit code | segments kept | stderr |\n|---|---|---|---|---|")
    for part, size in sizes.items():
        with mounted(disk, size):
            job = start(f"{disk.name}/{part}.mp4")
            done.append(job)
            job.start()
            code, kept = job.watch(), len(list(job.folder.glob("[0-9]*/record.json")))
            print(f"| {part} | {size / 2**20:.1f} | {code} | {kept} of {len(reference.records)} | {job.errors()} |")
            if code != 1 or len(job.errors()) != 1 or "No space left" not in job.errors()[0]:
                job.complaints.append("it did not end with exit code 1 and one sentence about the full disk")
            if kept != len(job.records) or not kept or (part != "segments" and kept < len(reference.records)):
                job.complaints.append("finished segments were not kept")
            _mount("-o", f"remount,size={4 * (segments + output)}", str(disk))
            job.start()
            job.check(job.watch(), reference.target)
    return done


@contextmanager
def mounted(disk: Path, size: int) -> Iterator[None]:
    """Mount a small disk."""
    disk.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        disk.rmdir()


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        print(f"cannot mount a tmpfs: {done.stderr.strip()}", file=sys.stderr)
        raise SystemExit(2)


def left_behind(jobs: Sequence[Job], folder: Path, known: set[str]) -> list[str]:
    """Return complaints about files and processes that should be gone, and kill the processes."""
    until = time.monotonic() + ENDING_SECONDS
    while (alive := [pid for job in jobs for pid in job.left()]) and time.monotonic() < until:
        time.sleep(0.2)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    return [
        *(f"process {pid} is left" for pid in alive),
        *(f"{path.relative_to(folder)} is left" for path in folder.rglob("*") if path.name not in known),
    ]


def loop(clip: Path, target: Path) -> Path:
    """Loop the clip without encoding it."""
    words = ["-nostdin", "-v", "error", "-stream_loop", "-1", "-i", f"file:{clip}", "-t", str(CLIP_SECONDS)]
    subprocess.run([find_program(), *words, "-map", "0:V:0", "-map", "0:a:0?", "-c", "copy", str(target)], check=True)
    return target


def main() -> None:
    """Print the tables and all complaints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--model", default="bicubic")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--damage", type=int, default=0, metavar="N")
    parser.add_argument("--disk", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="interruptions-") as name:
        folder, temporary = Path(name), Path(name) / "temporary"
        temporary.mkdir()
        source = options.clip if options.whole else loop(options.clip, folder / f"source{options.clip.suffix}")
        arguments = ["--model", options.model, "--scale", "2", "--preset", "ultrafast", "-q", "--device", "cpu"]
        arguments += ["--jobs", str(options.jobs)] if options.jobs > 1 else []

        def start(target: str) -> Job:
            return Job(source, folder / target, arguments, temporary, len(reference.records))

        reference = Job(source, folder / "reference.mp4", arguments, temporary)
        reference.start()
        if code := reference.watch():
            raise SystemExit(f"the undisturbed run ended with exit code {code}: {reference.errors()}")
        print(f"undisturbed: {len(reference.records)} segments in {reference.seconds:.1f} s, "
              f"{reference.assembly_seconds:.2f} s of it for the assembly\n")  # fmt: skip
        if options.damage:
            done = damaged(start, reference, options.damage, options.seed)
        elif options.disk:
            done = filled(start, reference, folder / "disk")
        else:
            done = killed(start, reference, options.kills, options.seed, options.jobs)
        complaints = [f"{job.target.name}: {complaint}" for job in done for complaint in job.complaints]
        complaints += left_behind([reference, *done], folder, {source.name, reference.target.name, temporary.name})
    print(f"\n{len(done)} outputs, {sum(not job.complaints for job in done)} of them in order, from "
          f"{sum(len(job.sessions) for job in done)} runs", *complaints, sep="\n")  # fmt: skip
    raise SystemExit(bool(complaints))


if __name__ == "__main__":
    main()
