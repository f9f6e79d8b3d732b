"""What works without the packages that extras bring, and what is said where one is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vsr.errors import UsageError, needs_extra

MakeClip = Callable[..., Path]

EXTRAS = ("lightning_fabric", "matplotlib", "ray", "tensorboard", "torch_fidelity", "torchmetrics")

WITHOUT = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
from vsr.__main__ import main
main()
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command where no extra is installed."""
    command = [sys.executable, "-c", WITHOUT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_plain_install_upscales_compares_and_measures(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, out = make_clip(), tmp_path / "out.mp4"
    for command in (
        ("upscale", clip, "-o", out, "--model", "bicubic", "--scale", "2"),
        ("compare", out, out, "-o", tmp_path / "strip.png"),
        ("eval", out, out, "--no-vmaf"),
        ("models",),
        ("doctor",),
    ):
        done = run(*command)
        assert done.returncode == 0, (command, done.stderr)
    assert out.is_file()


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (
            ("train", "--data", ".", "-o", "run"),
            'training needs the package matplotlib: pip install "vsr-srgan[train]".',
        ),
        (
            ("upscale", "{clip}", "-o", "o.mp4", "--cluster", "auto"),
            '--cluster needs the package ray: pip install "vsr-srgan[cluster]".',
        ),
        (
            ("eval", "{clip}", "{clip}", "--no-vmaf", "--plot", "p.png"),
            'a plot needs the package matplotlib: pip install "vsr-srgan[eval]".',
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_missing_extra_is_named_before_the_work(
    command: tuple[str, ...], sentence: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    clip = str(make_clip())
    done = run(*(word.format(clip=clip) for word in command))
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.rstrip().endswith(sentence)


def test_what_is_missing_of_vsr_itself_is_not_explained_away() -> None:
    with pytest.raises(ModuleNotFoundError), needs_extra("train", "training"):
        import vsr.no_such_module  # type: ignore[import-not-found]  # noqa: F401
    with (
        pytest.raises(UsageError, match=r'^this needs the package no_such_package: pip install "vsr-srgan\[x\]"\.$'),
        needs_extra("x", "this"),
    ):
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401
