from __future__ import annotations

import ast
import errno
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av.error
import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import vsr
from vsr.errors import (
    InputError,
    OutOfMemoryError,
    OutputError,
    VsrError,
    is_out_of_memory,
    memory_explained,
    setting,
    settings,
    spell_settings,
)

LACKING: list[BaseException] = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError("out of memory error when reading image file"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 18.10 GB, other allocations: 384.00 KB)."),
    RuntimeError("Invalid buffer size: 33.20 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to"),
    RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:224:\nFailed to allocate 4096000000 bytes"),
    RuntimeError("Exception from src/inference/src/dev/plugin.cpp:54:\ncan't alloc\n"),
    RuntimeError("std::bad_alloc"),
]

OTHERS: list[BaseException] = [
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("The size of tensor a (2048) must match the size of tensor b (0)"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "out of memory.mp4"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError("image file is truncated"),
    InputError("cannot read out of memory.mp4"),
    ValueError("out of memory"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", LACKING, ids=str)
def test_errors_that_mean_that_memory_ran_out(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_errors_that_do_not_mean_that_memory_ran_out(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_a_callers_mistake_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="the detail must lie in"):
        vsr.UpscaleOptions(detail=3)
    assert not issubclass(InputError, ValueError)


def fail_in_libav() -> None:
    av.error.err_check(-errno.ENOMEM)


def fail_in_opencv() -> None:
    cv2.resize(np.zeros((1, 1), np.uint8), (2**30, 2**30))


TOO_MUCH: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.empty(1 << 52, dtype=torch.uint8),
    "numpy": lambda: np.empty(1 << 52, np.uint8),
    "python": lambda: bytearray(1 << 52),
    "libav": fail_in_libav,
    "opencv": fail_in_opencv,
}


@pytest.mark.parametrize("library", TOO_MUCH)
def test_actual_errors_of_libraries_are_explained(library: str) -> None:
    with pytest.raises(OutOfMemoryError) as caught, memory_explained("decoding a.mp4", "take less"):
        TOO_MUCH[library]()
    assert str(caught.value) == "memory ran out while decoding a.mp4; take less."
    assert caught.value.__cause__ is not None and caught.value.exit_code == 1


def test_the_innermost_explanation_is_kept_and_can_be_pickled() -> None:
    with (
        pytest.raises(VsrError) as caught,
        memory_explained("upscaling", "take less"),
        memory_explained("decoding", "take less"),
    ):
        raise MemoryError
    assert str(pickle.loads(pickle.dumps(caught.value))) == "memory ran out while decoding; take less."


def test_other_errors_are_passed_on() -> None:
    with pytest.raises(RuntimeError, match="^a bug$"), memory_explained("decoding", "take less"):
        raise RuntimeError("a bug")


NAMED: list[tuple[Callable[[], str], str, str]] = [
    (lambda: setting("jobs"), "--jobs", "jobs"),
    (lambda: setting("max_pixels"), "--max-pixels", "max_pixels"),
    (lambda: setting("overwrite", True), "--overwrite", "overwrite=True"),
    (lambda: setting("resume", False), "--no-resume", "resume=False"),
    (lambda: setting("device", "cpu"), "--device cpu", "device='cpu'"),
    (lambda: setting("init", Path("a/b")), "--init a/b", "init='a/b'"),
    (lambda: setting("gradient_clip", 1), "--gradient-clip 1", "gradient_clip=1"),
    (lambda: setting("batch_size", 1, flag="--batch"), "--batch 1", "batch_size=1"),
    (lambda: setting("tile_size", flag="--tile"), "--tile", "tile_size"),
    (
        lambda: setting("precision", ("fp16", "fp32")),
        "--precision fp16 or fp32",
        "precision='fp16' or 'fp32'",
    ),
    (lambda: settings(devices=2, nodes=1), "--devices 2 --nodes 1", "devices=2, nodes=1"),
]


@pytest.mark.parametrize(("name", "flag", "keyword"), NAMED, ids=[flag for _, flag, _ in NAMED])
def test_an_option_is_named_as_its_user_writes_it(name: Callable[[], str], flag: str, keyword: str) -> None:
    assert name() == keyword
    spell_settings(as_flags=True)
    try:
        assert name() == flag
    finally:
        spell_settings(as_flags=False)


def test_the_command_names_flags_and_leaves_python_to_itself(tmp_path: Path) -> None:
    from vsr.cli import main

    (tmp_path / "a.png").write_bytes(b"")
    command = ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.png")]
    target = tmp_path / "b.png"
    target.write_bytes(b"")
    result = CliRunner().invoke(main, [*command[:3], str(target)])
    assert result.output == f"error: {target} exists already; --overwrite replaces it.\n"
    with pytest.raises(OutputError, match="exists already; overwrite=True replaces it"):
        vsr.upscale(command[1], target)


TERMINAL_ONLY = {"--dry-run", "--ntasks-per-node", "--head"}
"""The command's option without a keyword, srun's and Ray's."""


def messages(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the string literals of a module, except docstrings, declarations of options, and what is for other
    programs."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if called in ("option", "described", "loss_weight", "setting"):
                skipped |= {id(inner) for inner in ast.walk(node)}
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(id(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


def flags_in(text: str) -> set[str]:
    return {flag for flag in re.findall(r"(?:^|[\s'\"(;`])(--[a-z][a-z-]+)(?<!-)(?![a-z-])", text)} - TERMINAL_ONLY


def test_only_the_command_has_flags_in_its_messages() -> None:
    """Elsewhere ``setting`` names options, since most messages also meet callers in Python."""
    package = Path(vsr.__file__).parent
    found = [
        f"{path.relative_to(package)}:{line}: {text!r}"
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] != "cli"
        for line, text in messages(ast.parse(path.read_text(encoding="utf-8")))
        if flags_in(text)
    ]
    assert found == []
    wrong = ast.parse("raise UsageError(f'{path} is there; --overwrite replaces it')")
    assert [flags_in(text) for _, text in messages(wrong) if flags_in(text)] == [{"--overwrite"}]
    right = ast.parse("'''--a'''\nx = option(1, 'With --lr.')\ny = setting('tile_size', flag='--tile')")
    assert list(messages(right)) == []


def test_the_names_in_messages_exist() -> None:
    """Each ``setting`` names an option of the command by its flag, and a keyword that has that option."""
    from vsr.cli import main

    known: dict[str, set[str]] = {}
    for command in main.commands.values():
        for param in command.params:
            for flag in (*param.opts, *param.secondary_opts):
                known.setdefault(flag, set()).add(param.name or "")
    package = Path(vsr.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setting" and path.name != "errors.py":
                name = node.args[0]
                if not isinstance(name, ast.Constant):
                    continue
                given = [ast.literal_eval(each.value) for each in node.keywords if isinstance(each.value, ast.Constant)]
                flag = given[0].removeprefix("a ").split()[0] if given else f"--{name.value.replace('_', '-')}"
                if name.value == "pretrain_":  # the start of a name
                    continue
                assert name.value in known[flag], f"{path.name}:{node.lineno}"


def test_workers_name_options_as_their_driver_does(tmp_path: Path) -> None:
    from vsr.cli import main

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, length in enumerate((8, 16)):
        Image.new("RGB", (length, length)).save(folder / f"{number}.png")
    asked: dict[str, Any] = {"model": "identity", "jobs": 2, "max_pixels": 100}
    with pytest.raises(InputError, match="more than 100; raise max_pixels to read it"):
        vsr.upscale(folder, tmp_path / "a.mp4", **asked)
    words = [word for name, value in asked.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    result = CliRunner().invoke(main, ["upscale", str(folder), "-o", str(tmp_path / "b.mp4"), *words])
    assert "more than 100; raise --max-pixels to read it" in result.output
