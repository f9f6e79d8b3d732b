"""The options of a run as a file that a person can read, edit and give to ``--config``: TOML. Imports no torch.

Keys are the names of the command's options; those of a stage or a degradation are in its table. TOML, as Python reads
it without a package, and as it holds comments and no types beyond those of options.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from vsr.errors import CheckpointError, UsageError, did_you_mean, needs_extra, option_text, setting, shortened
from vsr.files import write_whole
from vsr.options import hints_of, plain
from vsr.training.options import TrainOptions, started_processes
from vsr.training.recipes import RECIPES, STAGES, Labels, Recipe, parse_labels

CONFIG = "config.toml"
CHECKPOINT = "checkpoint.pt"
"""In the folder of a run."""

OF_ONE_CALL = ("output", "resume", "overwrite", "time_limit")
"""Options of a call of the command, not of a run: not in its file."""

PROCESSES = ("devices", "nodes")
"""Options that say how many processes share a batch."""

PARTS = (*STAGES, "video", "clip")
"""Parts of a recipe, each with a table of its own."""

HEADER = """\
# The options of this run. The option config of vsr train begins another run with this file, or with its folder.
# Each key is an option of the command, those of a table with its name before them: pretrain-length.
# Options of the command line take precedence. What is left out has the default of the recipe.
"""


def _run_fields() -> list[str]:
    return [each.name for each in fields(TrainOptions) if each.name not in (*OF_ONE_CALL, "recipe")]


def write_config(path: Path, options: TrainOptions) -> None:
    """Write the options of a run, with all values of its recipe; paths are absolute.

    The number of processes that torchrun or srun has started is not written: it may be another when the run continues.

    Raises:
        OutputError: the file cannot be written.
    """
    if started_processes() is not None:
        options = replace(options, devices=1, nodes=1)
    recipe = options.recipe
    named = [name for name, known in RECIPES.items() if known.follows == recipe.follows]
    lines = [HEADER, f"recipe = {_toml(named[0])}" if named else f"follows = {_toml(recipe.follows)}"]
    lines += _lines({name: getattr(options, name) for name in _run_fields()})
    lines += ["", *_lines({each.name: getattr(recipe, each.name) for each in fields(recipe) if each.name not in PARTS})]
    for part in PARTS:
        values = getattr(recipe, part)
        lines += ["", f"[{part}]", *_lines({each.name: getattr(values, each.name) for each in fields(values)})]
    # A file name that is not valid UTF-8 is kept, byte by byte.
    write_whole(path, ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"), durable=True)


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each value but those that are not set, and what has a line of its own."""
    for name, value in values.items():
        if value is not None and name != "follows":
            yield f"{name} = {_toml(value)}"


def _toml(value: Any) -> str:
    value = plain(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)  # inf and nan too are written so
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Labels):
        exact = value.kind == "fixed" and not value.high
        return _toml(value.low) if exact else _toml(f"{value.kind}:{_toml(value.low)}:{_toml(value.high)}")
    text = str(value.absolute() if isinstance(value, Path) else value)
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML's escapes include those of JSON


def stored_config(output: Path) -> dict[str, Any]:
    """Return the options of the run in a folder, as ``read_config`` does; none for a run of an older version.

    Under torchrun or srun, which have started the processes, without the number of them.

    Raises:
        CheckpointError: there is no run to continue.
        UsageError: its file of options was changed to one that cannot be read.
    """
    if not (output / CHECKPOINT).exists():
        raise CheckpointError(f"nothing to resume: {output / CHECKPOINT} does not exist.")
    stored = read_config(output) if (output / CONFIG).exists() else {}
    own = PROCESSES if started_processes() is not None else ()
    return {name: value for name, value in stored.items() if name not in own}


def config_of(path: Path) -> Path:
    """Return the file of options that a path names: itself, or that of the run whose folder it is."""
    return path / CONFIG if path.is_dir() else path


def read_config(path: Path) -> dict[str, Any]:
    """Read a file of options.

    Args:
        path: a TOML file, or the folder of a run.

    Returns:
        The values by the names of ``override`` and of ``TrainOptions``; ``recipe`` by name, and ``steps``.

    Raises:
        UsageError: the file cannot be read, or names an option that does not exist, or a value has another type.
    """
    path = config_of(path)
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        with needs_extra("train", "reading options"):
            import tomli as tomllib
    try:
        content = tomllib.loads(path.read_bytes().decode("utf-8", "surrogateescape"))
    except OSError as exc:
        raise UsageError(f"cannot read the options {path}: {exc.strerror}.") from exc
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise UsageError(f"{path} is not TOML: {exc}.") from exc
    known = _types()
    values: dict[str, Any] = {}
    for name, value in _flat(content):
        if name in OF_ONE_CALL:
            raise UsageError(f"{path}: {name} is of one call; give it as an option, {setting(name)}.")
        if name not in known:
            raise UsageError(f"{path}: there is no option {shortened(name)!r}{did_you_mean(name, known)}")
        try:
            values[name] = _value(known[name], value)
        except ValueError as exc:
            raise UsageError(f"{path}: {name} {exc}, got {shortened(_shown(value))}.") from exc
    if values.get("recipe") not in (None, *RECIPES):
        raise UsageError(f"{path}: recipe is one of {', '.join(RECIPES)}, got {shortened(values['recipe'])!r}.")
    return values


def _types() -> dict[str, Any]:
    """Return the type of each key, those in tables with the table's name before them."""
    known = {name: hint for name, hint in hints_of(TrainOptions).items() if name in _run_fields()}
    recipe = hints_of(Recipe)
    known |= {name: hint for name, hint in recipe.items() if name not in PARTS}
    for part in PARTS:
        known |= {f"{part}_{name}": hint for name, hint in hints_of(recipe[part]).items()}
    return known | {"recipe": str, "steps": int}


def _flat(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = key.replace("-", "_")
        if name in PARTS and isinstance(value, Mapping):
            yield from ((f"{name}_{inner.replace('-', '_')}", each) for inner, each in value.items())
        else:
            yield name, value


def _value(hint: Any, value: Any) -> Any:
    """Convert a value of TOML to the type of a field.

    Raises:
        ValueError: it has another type; the message is a predicate.
    """
    if get_origin(hint) is tuple:
        kinds, items = get_args(hint), value if isinstance(value, list) else [value]
        if ... not in kinds and len(items) != len(kinds):
            raise ValueError(f"takes {len(kinds)} values")
        return tuple(_value(kinds[0], item) for item in items)
    if hint is Labels:
        try:
            return parse_labels(value) if isinstance(value, str) else Labels("fixed", _value(float, value))
        except ValueError as exc:
            rule = str(exc).partition(", got ")[0]  # what was got follows
            raise ValueError(f"is no label: {rule}") from exc
    if get_origin(hint) is Literal or hint in (str, Path):
        if not isinstance(value, str) or "\0" in value:
            raise ValueError("is a text")
        return Path(value) if hint is Path else value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ValueError({bool: "is true or false", int: "is a whole number", float: "is a number"}[hint])
    return value


def _shown(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else option_text(value)
