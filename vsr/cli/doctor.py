"""``vsr doctor``: report what vsr finds on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from vsr.cli.terminal import echo, echo_record, large_imports

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
    if as_json:
        echo(json.dumps(asdict(found)))
        return
    rows = _rows(found)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        echo_record(f"{name:{width}}  ", text)


def _rows(found: Diagnosis) -> list[tuple[str, str]]:
    missing = [name for name, available in found.codecs.items() if not available]
    return [
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
