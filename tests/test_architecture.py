"""The house rules that a machine can check: who may import whom, what is packed, how long a module may be."""

from __future__ import annotations

import ast
import configparser
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import vsr

PACKAGE = Path(vsr.__file__).parent
PROJECT = Path(__file__).parent.parent

FLOORS = {
    "errors": 0,
    "signals": 0,
    "text": 0,
    "imaging": 0,
    "files": 1,
    "networks": 2,
    "media": 2,
    "inference": 3,
    "pipeline": 4,
    "training": 4,
    "evaluation": 4,
    "cli": 5,
}
"""Imports go downwards only, and never between rooms on one floor."""

MEETING_ROOMS = ("pipeline", "evaluation")
"""Where one module may know both media and networks."""

PUBLIC_HOMES: Mapping[str, str] = vsr._HOME
"""Where the names of `vsr` come from: ``from vsr import train`` is an import of ``vsr.training.trainer``."""


def room_of(module: str) -> str:
    """The room of a module's dotted name; empty for `vsr` itself."""
    return (module.split(".") + [""])[1]


def imports_of(module: str, source: str, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """(line, module of vsr) of all that a source imports: at the top, in functions, for type checkers, relatively."""
    aliases = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name == "vsr":
                    aliases.add(name.asname or "vsr")
                elif name.name.startswith("vsr."):
                    yield node.lineno, name.name
                    aliases.add(name.asname or "vsr")
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parts = module.split(".")
                base = parts[: len(parts) - node.level + is_package]
                origin = ".".join([*base, *([origin] if origin else [])])
            if origin.startswith("vsr."):
                yield node.lineno, origin
            elif origin == "vsr":
                for name in node.names:
                    yield node.lineno, PUBLIC_HOMES.get(name.name, f"vsr.{name.name}")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            target = node.args[0].value
            if called in ("import_module", "__import__") and isinstance(target, str) and target.startswith("vsr."):
                yield node.lineno, target
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            home = PUBLIC_HOMES.get(node.attr, f"vsr.{node.attr}")
            if room_of(home) in FLOORS:
                yield node.lineno, home


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What a module imports against the rules, as sentences; `vsr` and ``vsr.__main__`` are free."""
    room = room_of(module)
    if room in ("", "__main__"):
        return []
    if room not in FLOORS:
        return [f"{module}: the room {room!r} stands on no floor"]
    found = []
    imported = list(imports_of(module, source, is_package=is_package))
    for line, target in imported:
        other = room_of(target)
        if other == room or other.startswith("__"):
            continue
        if other not in FLOORS:
            found.append(f"{module}:{line}: {target} stands on no floor")
        elif FLOORS[other] > FLOORS[room]:
            found.append(f"{module}:{line}: {target} is upstairs")
        elif FLOORS[other] == FLOORS[room]:
            found.append(f"{module}:{line}: {target} is next door")
        elif (room, other) == ("inference", "media"):
            found.append(f"{module}:{line}: inference knows no files")
    rooms = {room_of(target) for _, target in imported}
    if {"media", "networks"} <= rooms and room not in MEETING_ROOMS:
        found.append(f"{module}: media and networks meet outside of {' and '.join(MEETING_ROOMS)}")
    return sorted(set(found))


def modules() -> list[tuple[str, Path]]:
    """(dotted name, file) of every module of vsr."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_downwards_only(module: str, path: Path) -> None:
    assert violations(module, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py") == []


def test_the_walk_sees_the_house() -> None:
    names = {module for module, _ in modules()}
    assert {"vsr", "vsr.cli.train", "vsr.networks.srgan", "vsr.errors"} <= names
    game = (PACKAGE / "training/game.py").read_text(encoding="utf-8")
    assert {"vsr.errors", "vsr.networks.srgan"} <= {target for _, target in imports_of("vsr.training.game", game)}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("vsr.imaging.colour", "from vsr.networks.srgan import Generator", ":1: vsr.networks.srgan is upstairs"),
        ("vsr.imaging.colour", "import vsr.media.probe as p", ":1: vsr.media.probe is upstairs"),
        ("vsr.imaging.colour", "import os\n\ndef f():\n    import vsr.cli.train", ":4: vsr.cli.train is upstairs"),
        (
            "vsr.networks.srgan",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vsr.inference.engine import Engine",
            ":3: vsr.inference.engine is upstairs",
        ),
        ("vsr.networks.srgan", "from vsr.media.probe import probe", ":1: vsr.media.probe is next door"),
        ("vsr.media.reader", "from vsr.networks import weights", ":1: vsr.networks is next door"),
        ("vsr.media.reader", "from vsr import networks", ":1: vsr.networks is next door"),
        ("vsr.media.reader", "from ..networks import weights", ":1: vsr.networks is next door"),
        ("vsr.media.reader", "from .. import networks", ":1: vsr.networks is next door"),
        ("vsr.training.trainer", "from vsr.pipeline.job import upscale", ":1: vsr.pipeline.job is next door"),
        ("vsr.training.trainer", "from vsr import upscale", ":1: vsr.pipeline.job is next door"),
        ("vsr.training.trainer", "import vsr\n\nvsr.upscale()", ":3: vsr.pipeline.job is next door"),
        ("vsr.training.trainer", "import vsr as v\n\nv.upscale()", ":3: vsr.pipeline.job is next door"),
        ("vsr.evaluation.report", "from vsr.training import plots", ":1: vsr.training is next door"),
        ("vsr.errors", "from vsr.imaging import colour", ":1: vsr.imaging is next door"),
        ("vsr.inference.engine", "from vsr.media.images import read_picture", ":1: inference knows no files"),
        (
            "vsr.training.trainer",
            "from vsr.media import images\nfrom vsr.networks import srgan",
            ": media and networks meet outside of pipeline and evaluation",
        ),
        (
            "vsr.media.probe",
            "from importlib import import_module\nimport_module('vsr.pipeline.job')",
            ":2: vsr.pipeline.job is upstairs",
        ),
        ("vsr.media.probe", "from vsr.utils import helper", ":1: vsr.utils stands on no floor"),
        ("vsr.utils", "", ": the room 'utils' stands on no floor"),
    ],
)
def test_what_the_rule_catches(module: str, source: str, complaint: str) -> None:
    assert violations(module, source) == [module + complaint]


def test_relative_imports_of_a_package_start_at_itself() -> None:
    source = "from ..networks import weights"
    assert violations("vsr.media", source, is_package=True) == ["vsr.media:1: vsr.networks is next door"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vsr.cli.upscale", "from vsr.pipeline.job import upscale\nfrom vsr.errors import VsrError\nimport vsr"),
        ("vsr.cli.upscale", "from vsr.cli.console import option_of\nfrom vsr import upscale, __version__"),
        ("vsr.pipeline.segment", "from vsr.media import reader\nfrom vsr.networks import weights"),
        ("vsr.training.pictures", "from vsr.media.images import ENDINGS\nfrom vsr.inference.device import free_memory"),
        ("vsr.networks.weights", "import vsr\nfrom vsr.networks.srgan import Generator\nprint(vsr.__file__)"),
        ("vsr.networks.weights", "from . import srgan\nfrom .srgan import Generator\nfrom ..imaging import resize"),
        ("vsr.imaging.resize", "import torch\nimport vsrlike.cli\nfrom __future__ import annotations"),
        ("vsr", "from vsr.cli import main"),
        ("vsr.__main__", "from vsr.cli import main"),
    ],
)
def test_what_the_rule_allows(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_every_package_is_packed() -> None:
    setup = configparser.ConfigParser()
    setup.read(PROJECT / "setup.cfg", encoding="utf-8")
    packed = setup["options"]["packages"].split()
    assert len(packed) == len(set(packed))
    present = {name for name, path in modules() if path.name == "__init__.py"}
    folders = {
        ".".join(path.parent.relative_to(PACKAGE.parent).parts)
        for path in PACKAGE.rglob("*.py")
        if "models" not in path.relative_to(PACKAGE).parts
    }
    assert folders == present, "a folder of modules without __init__.py"
    assert set(packed) == present | {"vsr.models"}


def test_no_module_is_too_long() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in modules()}
    assert {module: length for module, length in lengths.items() if length > 600} == {}
