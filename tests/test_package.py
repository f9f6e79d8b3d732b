from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path

import pytest

import vsr
from vsr.errors import DISTRIBUTION

TOP = Path(__file__).parents[1]
MARKDOWN_TARGET = re.compile(r"\]\(([^)\s]+)\)")
COMPLETING = {"_VSR_COMPLETE": "bash_complete", "COMP_WORDS": "vsr upscale --model ", "COMP_CWORD": "3"}
"""What bash sets to ask for the models."""

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
        f"import os\nos.environ.update({COMPLETING!r})\n{running()}",
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
        "completion of a model",
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


def test_the_licence_of_everything_that_is_installed_is_named_and_included() -> None:
    about = metadata.metadata(DISTRIBUTION)
    assert about["License-Expression"] == "MIT AND LicenseRef-DejaVu AND LicenseRef-vsr-weights"
    assert about.get_all("License-File") == ["LICENSE", "vsr/comparison/LICENSE_DEJAVU", "models/LICENSE"]


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {vsr.__version__}\n" in (TOP / "CITATION.cff").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """List the files that git tracks."""
    if shutil.which("git") is None:
        pytest.skip("no git")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, text=True)
    if not done.stdout:
        pytest.skip("not a checkout of git")
    return done.stdout.rstrip("\0").split("\0")


@pytest.fixture(scope="module")
def sdist(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tarfile.TarFile]:
    """Build the source distribution of a checkout that has files which git does not track."""
    tree = tmp_path_factory.mktemp("tree")
    for name in tracked:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(TOP / name, tree / name)
    for name in ("out.mp4", "examples/out.mp4", "tests/out.png", "models/notes.txt"):
        (tree / name).touch()
    (tree / "vsr" / "models").symlink_to("../models")  # so that vsr runs without being installed
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    environment = {**os.environ, "VSR_README_BASE": "https://host.example/vsr/raw/v1/"}
    command = [sys.executable, "-c", build, "dist"]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with tarfile.open(next((tree / "dist").iterdir())) as archive:
        yield archive


def test_the_source_distribution_has_what_is_tracked_and_nothing_else(
    sdist: tarfile.TarFile, tracked: list[str]
) -> None:
    packed = {member.name.partition("/")[2] for member in sdist if not member.isdir()}
    generated = {name for name in packed if name == "PKG-INFO" or name.startswith("vsr_srgan.egg-info/")}
    assert packed - generated == {name for name in tracked if not name.startswith(".ci/")}


def test_a_package_index_gets_the_readme_with_absolute_addresses(sdist: tarfile.TarFile) -> None:
    about = sdist.extractfile(f"vsr_srgan-{vsr.__version__}/PKG-INFO")
    assert about is not None
    addresses = MARKDOWN_TARGET.findall(about.read().decode("utf-8"))
    assert "https://host.example/vsr/raw/v1/examples/before_after.png" in addresses
    assert [address for address in addresses if not address.startswith(("https://", "#"))] == []


def test_the_readme_links_to_files_that_exist() -> None:
    addresses = MARKDOWN_TARGET.findall((TOP / "README.md").read_text(encoding="utf-8"))
    files = [address for address in addresses if not address.startswith(("https://", "#"))]
    assert files and [file for file in files if not (TOP / file).exists()] == []


def test_the_types_are_packaged() -> None:
    assert (Path(vsr.__file__).parent / "py.typed").is_file()
