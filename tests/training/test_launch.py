"""One process or several: the same gradients and weights, and all processes end whatever happens to one.

Processes take seconds to start, as each imports torch; so each start tests several things.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from processes import children, workers
from safetensors.torch import load_file
from torch import Tensor, multiprocessing

from vsr.errors import TrainingError, UsageError
from vsr.training.launch import _fabric, _join_started_processes, _precision, _Relay, _use_loopback, launch
from vsr.training.log import read_log
from vsr.training.options import TrainOptions
from vsr.training.recipes import RECIPES, override
from vsr.training.trainer import train

HERE = Path(__file__).parent
SECONDS = 300
"""That a program may take on a machine that others use too."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment without torchmetrics, whose import by lightning_fabric takes longer than all else."""
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "torchmetrics.py").write_text("raise ImportError\n")
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{folder}:{before}" if before else str(folder), "OMP_NUM_THREADS": "1"}


def run_script(name: str, environment: dict[str, str], *arguments: object) -> str:
    command = [sys.executable, str(HERE / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=SECONDS)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def test_gradients_of_two_processes_are_those_of_one(tmp_path: Path, environment: dict[str, str]) -> None:
    forms = ("bce", "relativistic", "hinge", "clips")
    assert run_script("joined_gradients.py", environment, "1,2", ",".join(forms), tmp_path) == ""
    for form in forms:
        one, two = (torch.load(tmp_path / f"{form}-{processes}.pt") for processes in (1, 2))
        gradients, seen = one
        assert {name.split(".")[0] for name in gradients} == {"generator", "discriminator"}
        assert len([name for name in gradients if "running" in name]) > 10
        largest = {name: float(gradient.abs().max()) for name, gradient in gradients.items()}
        # With a comparing loss, or all logits within the margin, a constant added to all logits changes nothing.
        assert [name for name in largest if largest[name] < 1e-7] == ["discriminator.head.3.bias"] * (form != "bce")
        for name, gradient in gradients.items():
            assert gradient.dtype == torch.float64
            tolerance = 1e-6 * max(largest[name], 1e-7)
            torch.testing.assert_close(two[0][name], gradient, rtol=0, atol=tolerance, msg=f"{form} {name}")
        # Each process logs its own part of the terms, but the discriminator's outputs are on all crops.
        for name in ("discriminator_loss", "d_real", "d_fake", "adversarial"):
            torch.testing.assert_close(two[1][name], seen[name], rtol=1e-9, atol=0)


def checkpoint(output: Path) -> dict[str, Any]:
    state = torch.load(output / "checkpoint.pt", weights_only=True)
    assert isinstance(state, dict)
    return state


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=tolerance, msg=name)


@pytest.mark.usefixtures("quick")
def test_two_processes_from_python(
    options: TrainOptions, tmp_path: Path, photographs: Path, environment: dict[str, str]
) -> None:
    found = json.loads(run_script("two_processes.py", environment, photographs, tmp_path / "two"))
    alone = replace(options, recipe=override(options.recipe, batch_size=4), output=tmp_path / "one", log_every=2)
    summary = train(alone)

    # The caller sees each update once, and the messages and the summary of the first process.
    assert found["reported"] == [*range(1, 9)]
    assert found["messages"].count("11 pictures to train on, 1 held out, from update 0") == 1
    assert (found["summary"]["steps"], found["summary"]["stage"], found["summary"]["stopped"]) == (
        8,
        "adversarial",
        False,
    )
    assert summary.quality is not None
    assert found["summary"]["quality"]["psnr_y"] == pytest.approx(summary.quality.psnr_y, abs=1e-2)
    assert found["processes_left"] == 0

    # The run trains the same networks as one process. Eight updates of 1e-3 could differ by 8e-3 and more.
    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    for network in ("generator", "ema", "discriminator"):
        assert_close(two[network], one[network], 2e-4)
    rows = read_log(tmp_path / "two/log.csv")
    assert rows["step"].tolist() == [2, 3, 4, 5, 6, 8]
    one, two = (load_file(tmp_path / run / "discriminator.safetensors") for run in ("one", "two"))
    assert_close(two, one, 1e-3)
    names = [{path.name for path in (tmp_path / run).iterdir()} - {"losses.png"} for run in ("one", "two")]
    # The script has no LPIPS.
    assert names[0] - {"best-adversarial.safetensors"} == names[1]

    # An error in one process is raised in the caller at once, although the other waits.
    assert found["error"] == "CheckpointError: the second process says no"
    assert found["error_seconds"] < SECONDS / 2

    # One process continues the run of two.
    longer = override(alone.recipe, adversarial_length=4)
    resumed = train(replace(alone, output=tmp_path / "two", recipe=longer, resume=True))
    assert resumed.steps == 9 and read_log(tmp_path / "two/log.csv")["step"].tolist() == [2, 3, 4, 5, 6, 8, 9]


Start = Callable[[Path], subprocess.Popen[str]]


@pytest.fixture
def start(photographs: Path, environment: dict[str, str]) -> Iterator[Start]:
    """Return a function that starts the command with two processes in a new session and awaits a checkpoint."""
    started: list[subprocess.Popen[str]] = []

    def begin(output: Path) -> subprocess.Popen[str]:
        options = {
            "pretrain-length": 3, "discriminator-length": 2, "adversarial-length": 1_000_000, "adversarial-mse": 1,
            "adversarial-content": 0, "blocks": 1, "channels": 4, "discriminator-channels": 4, "batch-size": 4,
            "crop-size": 16, "hold-out": 0, "devices": 2, "device": "cpu", "log-every": 10, "checkpoint-every": 10,
            "validate-every": 1_000_000,
        }  # fmt: skip
        command = [sys.executable, "-m", "vsr", "train", "--data", str(photographs), "-o", str(output)]
        command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        started.append(process)
        until(lambda: process.poll() is not None or (output / "discriminator.safetensors").exists())
        assert process.poll() is None, process.communicate()
        return process

    yield begin
    for process in started:
        with suppress(ProcessLookupError):  # its children outlive it where a test fails
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


pytest_linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked up in /proc")


@pytest_linux
@pytest.mark.usefixtures("quick")
def test_ctrl_c_stops_two_processes(options: TrainOptions, tmp_path: Path, photographs: Path, start: Start) -> None:
    output = tmp_path / "two"
    process = start(output)
    started = children(process.pid)
    assert len(workers(process.pid)) == 2
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=SECONDS)
    step = checkpoint(output)["step"]
    assert process.returncode == 130, stderr
    last = stderr.splitlines()[-1]
    assert last == f"vsr: stopped after step {step}; to continue, run the same command with --resume."
    assert "Traceback" not in stderr
    until(lambda: not any(map(alive, started)), 10)
    # And one process can continue.
    recipe = replace(options.recipe, follows="", **vars_of(output))
    resumed = train(replace(options, output=output, recipe=recipe, hold_out=0, resume=True, log_every=10))
    assert resumed.steps == step + 2
    rows = read_log(output / "log.csv")["step"].tolist()
    assert rows == sorted(set(rows)) and rows[-2:] == [step, step + 2]


def vars_of(output: Path) -> dict[str, Any]:
    """Return the recipe of a checkpoint as options, two updates longer."""
    from vsr.training.recipes import ClipDegradation, Labels, Stage, VideoDegradation

    state = checkpoint(output)
    values: dict[str, Any] = dict(state["recipe"])
    for name in ("pretrain", "discriminator", "adversarial"):
        values[name] = Stage(**values[name])
    values["adversarial"] = replace(values["adversarial"], length=state["stage_step"] + 2)
    values["real_labels"], values["fake_labels"] = (Labels(**values[f"{kind}_labels"]) for kind in ("real", "fake"))
    values["video"] = VideoDegradation(**values["video"])
    values["clip"] = ClipDegradation(**values["clip"])
    del values["follows"]
    return values


@pytest_linux
def test_the_other_process_ends_when_one_is_killed(tmp_path: Path, start: Start) -> None:
    process = start(tmp_path / "two")
    started = children(process.pid)
    os.kill(workers(process.pid)[1], signal.SIGKILL)
    began = time.monotonic()
    stdout, stderr = process.communicate(timeout=SECONDS)
    assert time.monotonic() - began < 20
    assert (process.returncode, stdout) == (1, ""), stderr
    line = stderr.splitlines()[-1]
    assert line.startswith("error: a training process died (")
    assert line.endswith("), and the others were stopped; continue from the last checkpoint with --resume.")
    assert "Traceback" not in stderr
    until(lambda: not any(map(alive, started)), 10)
    assert checkpoint(tmp_path / "two")["step"] >= 5


@pytest_linux
def test_the_processes_end_when_the_parent_is_killed(tmp_path: Path, start: Start) -> None:
    process = start(tmp_path / "two")
    started = children(process.pid)
    assert len(started) >= 2
    process.kill()
    process.wait()
    until(lambda: not any(map(alive, started)), 10)


# Without further processes


def report_and_return(fabric: Any, options: TrainOptions, report: Any, stop: Any) -> tuple[int, int, bool]:
    report("seen")
    return fabric.world_size, fabric.global_rank, stop()


def test_a_single_process_is_this_one(options: TrainOptions) -> None:
    seen: list[str] = []
    assert launch(report_and_return, options, seen.append, lambda: True) == (1, 0, True)
    assert seen == ["seen"]


@pytest.fixture
def threads_for_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use queues and events of threads, so that no process is started."""
    context = SimpleNamespace(Queue=queue.Queue, Event=threading.Event)
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: context)


@pytest.mark.usefixtures("threads_for_processes")
def test_messages_of_processes_are_delivered(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    asked = [False]
    relay = _Relay(seen.append, lambda: asked[0])
    record = logging.getLogger("vsr.training.somewhere").makeRecord(
        "vsr.training.somewhere", logging.WARNING, __file__, 1, "look: %s", ("here",), None
    )
    for message in (("report", "a"), ("log", record), ("report", "b"), ("result", 7)):
        relay.messages.put(message)
    for error in ("the first", "the second"):
        relay.messages.put(("error", TrainingError(error)))
    assert not relay.stop.is_set()
    asked[0] = True
    until(relay.stop.is_set, 10)
    relay.close()
    assert (seen, relay.result, str(relay.error)) == (["a", "b"], 7, "the first")
    assert [record.getMessage() for record in caplog.records] == ["look: here"]


@pytest.mark.usefixtures("threads_for_processes")
@pytest.mark.parametrize("which", ["report", "should_stop"])
def test_a_callback_that_fails_stops_the_run_and_is_not_called_again(which: str) -> None:
    called: list[str] = []

    def fail(*arguments: object) -> bool:
        called.append("once")
        raise KeyError("the caller's own")

    report: Callable[[Any], Any] = fail if which == "report" else called.index
    relay = _Relay(report, fail if which == "should_stop" else lambda: False)
    relay.messages.put(("report", "a"))
    relay.messages.put(("report", "b"))
    until(relay.stop.is_set, 10)
    relay.close()
    assert called == ["once"] and isinstance(relay.failure, KeyError)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"precision": "fp16"}, "precision='fp16' needs a GPU; the CPU computes in fp32 or bf16."),
        ({"precision": "tf32"}, "precision='tf32' needs a GPU; the CPU computes in fp32 or bf16."),
        ({"device": "tpu"}, "no device is called 'tpu'"),
    ],
    ids=["fp16", "tf32", "tpu"],
)
def test_missing_hardware_is_refused(options: TrainOptions, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence.replace(".", r"\.")):
        launch(report_and_return, replace(options, **changes), print, lambda: False)


@pytest.mark.parametrize(
    ("device", "named", "sentence"),
    [
        ("mps", "mps", "several processes can share CPUs or CUDA devices, but not mps: use device='cpu'."),
        ("cuda", "cuda", "torch finds 1 CUDA devices, but devices asks for 2."),
        ("cuda:0", "cuda:0", "device='cuda:0' names one device, but devices asks for 2."),
    ],
)
def test_several_processes_on_unsuitable_devices_are_refused(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, device: str, named: str, sentence: str
) -> None:
    monkeypatch.setattr("vsr.training.launch.choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 if ":" in device else 1)
    with pytest.raises(UsageError) as caught:
        _fabric(replace(options, device=named, devices=2, precision="fp32"))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(("precision", "dtype"), [("auto", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_of_the_networks(options: TrainOptions, precision: Any, dtype: torch.dtype) -> None:
    fabric = _fabric(replace(options, precision=precision))
    with fabric.autocast():
        assert torch.nn.Linear(2, 2)(torch.rand(1, 2)).dtype == dtype


def arithmetic(fabric: Any, options: TrainOptions, report: Any, stop: Any) -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_float32_products_are_not_rounded_by_default(options: TrainOptions, precision: Any) -> None:
    """torch's default is TF32 for convolutions."""
    before = arithmetic(None, options, None, None)
    assert before == ("highest", True)
    assert launch(arithmetic, replace(options, precision=precision), print, lambda: False) == ("highest", False)
    assert arithmetic(None, options, None, None) == before


def test_tf32_rounds_products(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsr.training.launch._precision", lambda options, device: "tf32")
    assert launch(arithmetic, options, print, lambda: False) == ("high", True)


@pytest.mark.parametrize(("emulates", "precision"), [(True, "fp32"), (False, "bf16")])
def test_auto_avoids_emulated_bf16(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, emulates: bool, precision: str
) -> None:
    monkeypatch.setattr("vsr.training.launch.computes_in_bf16", lambda device: not emulates)
    assert _precision(options, torch.device("cuda")) == precision
    assert _precision(options, torch.device("mps")) == "fp32"


@pytest.mark.parametrize("device", ["cpu", "cuda:1", "mps"])
def test_a_torch_device_is_accepted_by_its_name(options: TrainOptions, device: str) -> None:
    assert replace(options, device=torch.device(device)).device == device


TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "RANK": "1", "LOCAL_RANK": "1"}
SRUN = {"SLURM_NTASKS": "8", "SLURM_PROCID": "3"}


@pytest.mark.parametrize(
    ("variables", "devices", "nodes"),
    [
        ({}, 1, 1),
        ({**TORCHRUN, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, 2, 1),
        ({**TORCHRUN, "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, 2, 2),
        ({**TORCHRUN, "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, 1, 1),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, 2, 1),
        (SRUN, 1, 1),  # within sbatch, and not started by srun
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS_PER_NODE": "4"}, 4, 2),
    ],
    ids=["alone", "torchrun", "two machines", "one process", "no torchrun", "sbatch", "srun"],
)
def test_externally_started_processes_train_together(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], devices: int, nodes: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    options = replace(options, recipe=override(options.recipe, batch_size=8))
    joined = _join_started_processes(options)
    assert (joined.devices, joined.nodes) == (devices, nodes)
    assert _join_started_processes(joined) == joined


@pytest.mark.parametrize(
    ("variables", "changes", "sentence"),
    [
        (
            {**TORCHRUN, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
            {"devices": 4},
            "devices=4, nodes=1 differs from what torchrun or srun has started, devices=2, nodes=1: "
            "leave both out.",
        ),
        (
            {**TORCHRUN, "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
            {"devices": 2},
            "devices=2, nodes=1 differs from what torchrun or srun has started, devices=1, nodes=1: "
            "leave both out.",
        ),
        (
            {**TORCHRUN, "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"},
            {},
            "a batch of 8 does not divide among 3 processes.",
        ),
        (
            {**SRUN, "SLURM_STEP_NUM_TASKS": "8"},
            {},
            "srun has started 8 processes but does not state how many run on each machine: set --ntasks-per-node.",
        ),
    ],
    ids=["others", "one alone", "batch", "srun"],
)
def test_externally_started_processes_that_do_not_fit_are_refused(
    options: TrainOptions,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    changes: dict[str, Any],
    sentence: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        _join_started_processes(replace(options, recipe=override(options.recipe, batch_size=8), **changes))
    assert str(caught.value) == sentence


def test_torchrun_trains_once(tmp_path: Path, photographs: Path, environment: dict[str, str]) -> None:
    values = {
        "pretrain-length": 2, "discriminator-length": 1, "adversarial-length": 1, "adversarial-mse": 1,
        "adversarial-content": 0, "blocks": 1, "channels": 4, "discriminator-channels": 4, "batch-size": 4,
        "crop-size": 16, "hold-out": 0, "device": "cpu", "log-every": 1,
    }  # fmt: skip
    # On the loopback device, as the host name of a bare machine may not resolve.
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, "-m", "vsr"]
    command += ["train", "--data", str(photographs), "-o", str(tmp_path / "run"), "-v"]
    command += [word for name, value in values.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("12 pictures to train on") == 1
    assert read_log(tmp_path / "run/log.csv")["step"].tolist() == [1, 2, 3, 4]
    assert done.stdout.count("generator.safetensors: 4 steps") == 1, done.stdout


@pytest.mark.parametrize(("name", "interface"), [("localhost", None), ("nowhere.invalid", "lo")])
def test_processes_use_the_loopback_device_if_the_host_name_does_not_resolve(
    name: str, interface: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that it is removed at the end
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr("socket.gethostname", lambda: name)
    monkeypatch.setattr("sys.platform", "linux")
    _use_loopback()
    assert os.environ.get("GLOO_SOCKET_IFNAME") == interface


@pytest.mark.usefixtures("quick")
def test_two_processes_train_on_clips_as_one_does(
    tmp_path: Path, photographs: Path, environment: dict[str, str]
) -> None:
    values: dict[str, Any] = {
        **{"pretrain_length": 2, "adversarial_length": 2, "adversarial_content": 0.0, "frames": 3, "long_frames": 0},
        **{"blocks": 1, "channels": 4, "discriminator_channels": 4, "batch_size": 4, "crop_size": 20},
        **{"clip_clean": 1.0, "pretrain_learning_rate": 1e-3, "adversarial_learning_rate": 1e-3},
    }
    words = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "vsr", "train", "--recipe", "video-recurrent", "--data", str(photographs)]
    command += ["-o", str(tmp_path / "two"), "--devices", "2", "--device", "cpu", "--hold-out", "0", "-q", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=SECONDS)
    assert done.returncode == 0 and not done.stderr, done.stderr
    recipe = override(RECIPES["video-recurrent"], **values)
    train(TrainOptions(data=(photographs,), output=tmp_path / "one", recipe=recipe, device="cpu", hold_out=0))
    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    for network in ("generator", "ema", "discriminator"):
        assert_close(two[network], one[network], 2e-4)
