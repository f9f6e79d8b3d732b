"""The manual pages: what the help says, in a form that man accepts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vsr.cli import main
from vsr.cli.manual import ManualFormatter, pages, write_pages

PAGES = dict(pages())


def found(name: str) -> click.Command:
    command: click.Command = main
    for word in name.removesuffix(".1").split("-")[1:]:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command


def test_each_command_has_a_page() -> None:
    assert {"vsr.1", "vsr-upscale.1", "vsr-train.1", "vsr-models.1", "vsr-models-show.1"} <= PAGES.keys()
    for name in main.commands:
        assert f"\\fBvsr\\-{name}\\fR(1)" in PAGES["vsr.1"] and f"vsr-{name}.1" in PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_every_option(name: str) -> None:
    page = PAGES[name].replace("\\-", "-")
    command = found(name)
    flags = [flag for param in command.params if isinstance(param, click.Option) for flag in param.opts]
    assert all(f"\\fB{flag}" in page for flag in flags)
    headings = [line.removeprefix(".SH ") for line in page.splitlines() if line.startswith(".SH ")]
    assert headings[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"] and headings[-1] == "SEE ALSO"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("name", PAGES)
def test_groff_has_no_complaint(name: str, tmp_path: Path) -> None:
    page = tmp_path / name
    page.write_text(PAGES[name])
    done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-z", page], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_text_that_troff_would_interpret() -> None:
    page = ManualFormatter("vsr", "Line.")
    page.write_text("A \\path\n\n.mp4 first\n\n\b\n'as it stands'\n  indented")
    page.write_dl([("-o, --output OUT", ".mp4 or 'b'")])
    assert page.getvalue().splitlines()[3:] == [
        ".SH DESCRIPTION", ".PP", "A \\epath", ".PP", "\\&.mp4 first",
        ".PP", ".nf", "\\(aqas it stands\\(aq", "  indented", ".fi",
        ".TP", "\\fB\\-o,\\fR \\fB\\-\\-output\\fR \\fIOUT\\fR", "\\&.mp4 or \\(aqb\\(aq",
    ]  # fmt: skip


def test_the_pages_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "share/man1"
    result = CliRunner().invoke(write_pages, [str(folder)])
    assert (result.exit_code, result.stdout.splitlines()) == (0, [str(folder / name) for name in PAGES])
    assert (folder / "vsr-upscale.1").read_text() == PAGES["vsr-upscale.1"]
    (tmp_path / "file").touch()
    refused = CliRunner().invoke(write_pages, [str(tmp_path / "file/man1")])
    assert refused.exit_code == 1 and refused.stderr.startswith("error: the manual is not written: ")
