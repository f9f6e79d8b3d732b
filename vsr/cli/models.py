"""``vsr models``: list the models, show their cards, and calibrate them for int8."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vsr.cli.options import MODEL
from vsr.cli.terminal import CommandGroup, echo, echo_record
from vsr.networks import BUILT_IN_DESCRIPTIONS


@click.group(cls=CommandGroup, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print the list as one JSON object.")
def models(as_json: bool) -> None:
    """List the models; `vsr models show NAME` shows the card of one."""
    if click.get_current_context().invoked_subcommand is not None:
        return
    from vsr.networks.weights import shipped_models

    shipped = shipped_models()
    if as_json:
        listed = [{"name": info.name, "scale": info.scale, "path": str(info.path), **info.about} for info in shipped]
        built_in = [{"name": name, "purpose": purpose} for name, purpose in BUILT_IN_DESCRIPTIONS.items()]
        echo(json.dumps({"models": listed + built_in}))
        return
    width = max(len(name) for name in (*(info.name for info in shipped), *BUILT_IN_DESCRIPTIONS))
    for info in shipped:
        size = info.path.stat().st_size / 1e6
        echo_record(f"{info.name:{width}} x{info.scale}  {size:.1f} MB  ", info.about.get("purpose", ""))
        for key in ("figures", "licence"):
            if key in info.about:
                echo_record(f"{'':{width}} {key}: ", info.about[key])
    for name, purpose in BUILT_IN_DESCRIPTIONS.items():
        echo_record(f"{name:{width}} ", purpose)


@models.command()
@click.argument("name", type=MODEL)
def show(name: str) -> None:
    """Show the card of a model: data, command, steps, figures, licence."""
    from vsr.networks.weights import find_weights, read_info

    if name in BUILT_IN_DESCRIPTIONS:
        echo_record(f"{name}: ", BUILT_IN_DESCRIPTIONS[name])
        return
    info = read_info(find_weights(name))
    echo_record(f"{info.name}: ", f"{info.architecture} {json.dumps(info.config)}")
    echo(str(info.path))
    for key, text in sorted(info.about.items()):
        echo("")
        echo(key)
        for line in text.splitlines():
            text = line.lstrip()
            echo_record(" " * (2 + len(line) - len(text)), text)


@models.command()
@click.argument("model", type=MODEL)
@click.option("--data", type=click.Path(path_type=Path), required=True, metavar="DIR", help="HR pictures.")
def calibrate(model: str, data: Path) -> None:
    """Calibrate a model for int8 on pictures, and write the result into its file."""
    from tqdm import tqdm

    from vsr.evaluation.images import calibrate_file
    from vsr.networks.weights import find_weights

    weights = find_weights(model)

    with tqdm(unit="pass", leave=False, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        count = calibrate_file(weights, data, show)
    echo(f"{weights}: calibrated on {count} pictures of {data}; use it with --precision int8.")
