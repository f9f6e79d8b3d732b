"""Memory that does not suffice is one sentence, wherever it runs out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vsr.cli.terminal import ErrorReportingGroup
from vsr.errors import OutOfMemoryError
from vsr.pipeline import plan
from vsr.pipeline.job import open_source, plan_clip
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.outputs import output_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits the address space")

LIMITED = """
import resource, sys
import vsr.pipeline.folder, torch, tqdm
from vsr.cli import main
torch.set_num_threads(1)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (int(sys.argv[1]) << 20),) * 2)
main(["upscale", *sys.argv[2:]])
"""
"""The command, in so many MiB beyond those that its imports take."""


@pytest.mark.parametrize(
    ("megabytes", "name", "target", "asked"),
    [
        (150, "large.mp4", "out.mp4", ["--model", "identity"]),
        (300, "small.mp4", "%03d.png", ["--model", "bicubic", "--size", "9000x9000"]),
        (300, "small.mp4", "out.mkv", ["--model", "bicubic", "--size", "16000x12000", "--codec", "ffv1"]),
    ],
)
def test_too_little_memory_is_one_sentence(
    make_clip: Callable[..., Path], tmp_path: Path, megabytes: int, name: str, target: str, asked: list[str]
) -> None:
    source = make_clip(name, size=(1920, 1080) if name == "large.mp4" else (48, 32))
    words = [sys.executable, "-c", LIMITED, str(megabytes), str(source), "-o", str(tmp_path / target), "-q", *asked]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(said) == 1, done.stderr
    assert "memory" in said[0] and "a bug" not in said[0] and "Traceback" not in done.stderr
    assert not (tmp_path / target).exists()


def test_a_command_without_an_explanation_of_its_own() -> None:
    @click.group(cls=ErrorReportingGroup)
    def group() -> None: ...

    @group.command()
    def work() -> None:
        raise RuntimeError("std::bad_alloc")

    result = CliRunner().invoke(group, ["work"])
    sentence = "error: memory ran out; process less at once, or use smaller pictures.\n"
    assert (result.exit_code, result.stderr) == (1, sentence)


def test_frames_that_cannot_fit_are_refused(
    make_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "free_memory", lambda device: 10**9)
    monkeypatch.setattr(plan, "free_swap", lambda: 0)
    options = UpscaleOptions(model="bicubic", size=(30000, 30000), device="cpu")
    clip = open_source(make_clip(), options)
    with pytest.raises(OutOfMemoryError, match=r"clip.mp4: a frame of 30000x30000 takes .* GB on cpu, and 1.0 GB are"):
        plan_clip(clip, output_for(clip, tmp_path / "%03d.png", options), options, {})


def test_workers_share_the_memory(
    make_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(free: int, jobs: int) -> int | None:
        monkeypatch.setattr("vsr.inference.engine.free_memory", lambda device: free)
        options = UpscaleOptions(model="srgan-x4", device="cpu", engine="torch", jobs=jobs)
        clip = open_source(source, options)
        return plan_clip(clip, output_for(clip, tmp_path / "out.mp4", options), options, {}).job.engine.tile_size

    source = make_clip(size=(256, 192))
    free = 40 << 20
    assert planned(4 * free, 4) == planned(free, 1) != planned(4 * free, 1)


def test_queues_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "available_memory", lambda: 1600)
    assert plan.queue_bytes(UpscaleOptions(), 1000) == 100
    assert plan.queue_bytes(UpscaleOptions(jobs=4), 1000) == 25
    assert plan.queue_bytes(UpscaleOptions(jobs=4), 10) == 10
    assert UpscaleOptions(device="cuda:0,cuda:1", jobs=4).workers_sharing("cuda") == 2
