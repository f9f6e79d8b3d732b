from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest

import vsr
from vsr.errors import DISTRIBUTION

HEAVY = ("torch", "torchvision", "lightning_fabric", "matplotlib", "cv2", "av", "numpy", "safetensors")


def loaded_by(code: str) -> set[str]:
    """Return the heavy libraries that a new interpreter has loaded after running ``code``."""
    report = f"\nimport sys, json\nprint('\\n' + json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    command = [sys.executable, "-W", "error", "-c", code + report]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def running(*arguments: str) -> str:
    """Return code that runs ``python -m vsr`` with these arguments and fails unless it exits with 0."""
    return (
        f"import runpy, sys\nsys.argv = {['vsr', *arguments]!r}\n"
        "try:\n    runpy.run_module('vsr', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n    assert end.code in (0, None), end.code"
    )


@pytest.mark.parametrize(
    "code",
    [
        "import vsr; vsr.__version__; dir(vsr)",
        "from vsr import VsrError, TrainOptions",
        "from vsr.training.recipes import override\nfrom vsr.training.recipes import RECIPES",
        running("--help"),
        running("--version"),
        running("train", "--help"),
        running("upscale", "--help"),
        running("models", "--help"),
    ],
    ids=[
        "import",
        "errors and options",
        "recipes",
        "--help",
        "--version",
        "train --help",
        "upscale --help",
        "models --help",
    ],
)
def test_heavy_libraries_are_not_loaded(code: str) -> None:
    assert loaded_by(code) == set()


def test_loaded_libraries_are_found() -> None:
    assert "numpy" in loaded_by("import numpy")


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "vsr", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("Usage: ") and "upscale" in done.stdout and "train" in done.stdout


@pytest.mark.parametrize("name", vsr.__all__)
def test_public_names(name: str) -> None:
    value = getattr(vsr, name)
    assert name in dir(vsr)
    if name != "__version__":
        assert value is getattr(import_module(vsr._MODULES[name]), name)
        assert getattr(value, "__module__", vsr._MODULES[name]) == vsr._MODULES[name], "it is defined in another module"


def test_the_public_names_are_listed_once_everywhere() -> None:
    assert set(vsr.__all__) == {*vsr._MODULES, "__version__"}
    assert sorted(vsr.__all__) == vsr.__all__ == dir(vsr)
    # Type checkers see the names that are loaded.
    source = ast.parse(Path(vsr.__file__).read_text(encoding="utf-8"))
    checked = {
        name.name: node.module
        for block in source.body
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module != "typing"
        for name in node.names
    }
    assert checked == vsr._MODULES


def test_unknown_names_are_errors() -> None:
    with pytest.raises(AttributeError, match="module 'vsr' has no attribute 'nonsense'"):
        vsr.nonsense  # noqa: B018
    with pytest.raises(ImportError, match="nonsense"):
        from vsr import nonsense  # noqa: F401
    assert not hasattr(vsr, "__wrapped__")


def test_the_version_is_that_of_the_installed_package() -> None:
    assert metadata.version(DISTRIBUTION) == vsr.__version__


def test_the_types_are_packaged() -> None:
    assert (Path(vsr.__file__).parent / "py.typed").is_file()
