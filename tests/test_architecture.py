"""The rules of docs/architecture.md that can be checked automatically: imports, and packaged modules."""

from __future__ import annotations

import ast
import configparser
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import vsr

PACKAGE = Path(vsr.__file__).parent
PROJECT = Path(__file__).parent.parent

LAYERS = {
    "errors": 0,
    "signals": 0,
    "files": 1,
    "options": 1,
    "imaging": 2,
    "networks": 3,
    "media": 3,
    "inference": 4,
    "pipeline": 5,
    "training": 5,
    "evaluation": 5,
    "comparison": 6,
    "machine": 6,
    "api": 7,
    "cli": 7,
}
"""Imports go to lower layers only, and never between packages of one layer."""

WITH_MEDIA_AND_NETWORKS = ("pipeline", "evaluation", "machine")
"""Packages in which one module may import both media and networks."""

PUBLIC_HOMES: Mapping[str, str] = vsr._MODULES
"""The modules of the names in `vsr`: ``from vsr import train`` is an import of ``vsr.training.trainer``."""


def package_of(module: str) -> str:
    """Return the package, or top-level module, of a dotted name in vsr; empty for `vsr` itself."""
    return (module.split(".") + [""])[1]


def imports_of(module: str, source: str, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line, module of vsr) for all imports of a source, in functions and for type checkers too."""
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
                for name in node.names:
                    is_module = (PACKAGE.parent / origin.replace(".", "/") / f"{name.name}.py").is_file()
                    yield node.lineno, f"{origin}.{name.name}" if is_module else origin
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
            if package_of(home) in LAYERS:
                yield node.lineno, home


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Return the imports of a module that break the rules, as sentences; `vsr` and ``vsr.__main__`` have no rules."""
    package = package_of(module)
    if package in ("", "__main__"):
        return []
    if package not in LAYERS:
        return [f"{module}: the package {package!r} is in no layer"]
    found = []
    imported = list(imports_of(module, source, is_package=is_package))
    for line, target in imported:
        other = package_of(target)
        if other == package or other.startswith("__"):
            continue
        if other not in LAYERS:
            found.append(f"{module}:{line}: {target} is in no layer")
        elif LAYERS[other] > LAYERS[package]:
            found.append(f"{module}:{line}: {target} is in a higher layer")
        elif LAYERS[other] == LAYERS[package]:
            found.append(f"{module}:{line}: {target} is in the same layer")
        elif (package, other) == ("inference", "media"):
            found.append(f"{module}:{line}: inference opens no files")
    packages = {package_of(target) for _, target in imported}
    if {"media", "networks"} <= packages and package not in WITH_MEDIA_AND_NETWORKS:
        found.append(f"{module}: imports both media and networks")
    return sorted(set(found))


def modules() -> list[tuple[str, Path]]:
    """Return (dotted name, file) of every module of vsr."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_to_lower_layers(module: str, path: Path) -> None:
    assert violations(module, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py") == []


def test_every_module_is_found() -> None:
    names = {module for module, _ in modules()}
    assert {"vsr", "vsr.cli.train", "vsr.networks.generator", "vsr.errors"} <= names
    state = (PACKAGE / "training/checkpoint.py").read_text(encoding="utf-8")
    assert {"vsr.errors", "vsr.networks.generator"} <= {
        target for _, target in imports_of("vsr.training.checkpoint", state)
    }


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        (
            "vsr.imaging.colour",
            "from vsr.networks.generator import Generator",
            ":1: vsr.networks.generator is in a higher layer",
        ),
        ("vsr.imaging.colour", "import vsr.media.probe as p", ":1: vsr.media.probe is in a higher layer"),
        (
            "vsr.imaging.colour",
            "import os\n\ndef f():\n    import vsr.cli.train",
            ":4: vsr.cli.train is in a higher layer",
        ),
        (
            "vsr.networks.generator",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vsr.inference.engine import Engine",
            ":3: vsr.inference.engine is in a higher layer",
        ),
        ("vsr.networks.generator", "from vsr.media.probe import probe", ":1: vsr.media.probe is in the same layer"),
        ("vsr.media.reader", "from vsr.networks import weights", ":1: vsr.networks.weights is in the same layer"),
        ("vsr.media.reader", "from vsr import networks", ":1: vsr.networks is in the same layer"),
        ("vsr.media.reader", "from ..networks import weights", ":1: vsr.networks.weights is in the same layer"),
        ("vsr.media.reader", "from .. import networks", ":1: vsr.networks is in the same layer"),
        ("vsr.training.trainer", "from vsr.pipeline.job import upscale", ":1: vsr.pipeline.job is in the same layer"),
        ("vsr.training.trainer", "from vsr import UpscaleSummary", ":1: vsr.pipeline.job is in the same layer"),
        ("vsr.training.trainer", "import vsr\n\nvsr.upscale()", ":3: vsr.api is in a higher layer"),
        ("vsr.training.trainer", "import vsr as v\n\nv.upscale()", ":3: vsr.api is in a higher layer"),
        ("vsr.evaluation.tables", "from vsr.training import plots", ":1: vsr.training is in the same layer"),
        ("vsr.errors", "from vsr.imaging import colour", ":1: vsr.imaging.colour is in a higher layer"),
        ("vsr.errors", "from vsr import signals", ":1: vsr.signals is in the same layer"),
        ("vsr.inference.engine", "from vsr.media.probe import probe", ":1: inference opens no files"),
        (
            "vsr.training.trainer",
            "from vsr.media import probe\nfrom vsr.networks import vgg",
            ": imports both media and networks",
        ),
        (
            "vsr.media.probe",
            "from importlib import import_module\nimport_module('vsr.pipeline.job')",
            ":2: vsr.pipeline.job is in a higher layer",
        ),
        ("vsr.media.probe", "from vsr.utils import helper", ":1: vsr.utils is in no layer"),
        ("vsr.utils", "", ": the package 'utils' is in no layer"),
    ],
)
def test_forbidden_imports_are_found(module: str, source: str, complaint: str) -> None:
    assert violations(module, source) == [module + complaint]


def test_relative_imports_of_a_package_start_at_itself() -> None:
    source = "from ..networks import weights"
    assert violations("vsr.media", source, is_package=True) == [
        "vsr.media:1: vsr.networks.weights is in the same layer"
    ]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vsr.cli.upscale", "from vsr.pipeline.job import upscale\nfrom vsr.errors import VsrError\nimport vsr"),
        ("vsr.cli.upscale", "from vsr.cli.terminal import echo\nfrom vsr import load_model, __version__"),
        ("vsr.pipeline.segment", "from vsr.media import reader\nfrom vsr.networks import weights"),
        (
            "vsr.training.pictures",
            "from vsr.imaging.pictures import ENDINGS\nfrom vsr.inference.device import free_memory",
        ),
        ("vsr.networks.weights", "import vsr\nfrom vsr.networks.generator import Generator\nprint(vsr.__file__)"),
        ("vsr.networks.weights", "from . import vgg\nfrom .generator import Generator\nfrom ..imaging import resize"),
        ("vsr.imaging.resize", "import torch\nimport vsrlike.cli\nfrom __future__ import annotations"),
        ("vsr", "from vsr.cli import main"),
        ("vsr.__main__", "from vsr.cli import main"),
    ],
)
def test_allowed_imports(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_every_package_is_in_setup_cfg() -> None:
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


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the sorted import cycles: modules that reach each other."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            if (module := waiting.pop()) not in seen:
                seen.add(module)
                waiting += graph.get(module, ())
        reached[start] = seen
    found = {
        tuple(sorted(other for other in seen if start in reached.get(other, ()))) for start, seen in reached.items()
    }
    return sorted(list(cycle) for cycle in found if len(cycle) > 1)


def import_graph() -> dict[str, set[str]]:
    """Return the modules of vsr that each module imports, including late imports and those for type checkers."""
    found = dict(modules())
    graph = {}
    for module, path in found.items():
        source = path.read_text(encoding="utf-8")
        names = {name for _, name in imports_of(module, source, is_package=path.name == "__init__.py")}
        graph[module] = {name for name in names if name in found and name != module}
    return graph


def test_there_are_no_import_cycles() -> None:
    graph = import_graph()
    assert graph["vsr.pipeline.job"] >= {"vsr.errors", "vsr.media.probe"}
    del graph["vsr"]  # its names are loaded lazily
    assert cycles(graph) == []


def test_import_cycles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [["b", "c"]]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c"]]
    assert cycles({"a": {"b"}, "b": set()}) == []
