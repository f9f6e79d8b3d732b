"""``vsr doctor``: report what vsr finds on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from vsr.cli.terminal import echo_lines, large_imports
from vsr.errors import one_line

if TYPE_CHECKING:
    from vsr.machine import Diagnosis


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Show versions, the ffmpeg program, devices and codecs, for a bug report.

    The line "default" names the device that `vsr upscale` uses.
    """
    with large_imports():
        from vsr.machine import diagnose

    found = diagnose()
    echo_lines(json.dumps(asdict(found)) if as_json else _format_diagnosis(found))


def _format_diagnosis(found: Diagnosis) -> str:
    missing = [name for name, available in found.codecs.items() if not available]
    rows = [
        ("vsr", found.vsr),
        ("Python", found.python),
        ("system", found.system),
        ("ffmpeg", found.ffmpeg),
        ("libav", found.libav),
        *(("device", device) for device in found.devices),
        ("default", found.takes),
        ("CPU", ", ".join(found.precisions)),
        ("codecs", ", ".join(name for name, available in found.codecs.items() if available)),
        *([("missing", ", ".join(missing))] if missing else []),
        *((name, version) for name, version in found.packages.items() if version is not None),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {one_line(text)}" for name, text in rows)
