"""The log of a training run: means over steps, a table on the disk, and what it comes to at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vsr.errors import CheckpointError, InputError, OutputError, UsageError
from vsr.files import write_whole
from vsr.training.recipes import LOSSES, LOSSES_OF_CLIPS

LOG = "log.csv"
TENSORBOARD = "tensorboard"

GENERATOR = ("generator_loss", *LOSSES)
"""The sum that the generator minimises, and its terms, each weighted as it enters the sum."""
DISCRIMINATOR = ("discriminator_loss", "d_real", "d_fake")
"""Its loss, and the mean of the sigmoid of its logits for real crops and for upscaled ones."""
QUALITY = ("psnr_y", "ssim_y", "lpips")
"""On the held-out pictures; in the rows where they were measured."""
RATE = ("crops_per_second", "learning_rate")
COLUMNS = ("step", "stage", "stage_step", "seconds", *RATE, *GENERATOR, *DISCRIMINATOR, *QUALITY)
"""``step``: updates in all. ``stage_step``: updates of this stage. ``seconds``: of this run so far."""

COLUMNS_OF_PICTURES = tuple(name for name in COLUMNS if name not in ("charbonnier", *LOSSES_OF_CLIPS))
"""Those of a log from before there was training on clips, which is continued with the others empty."""

GROUPS = {"rate": RATE, "loss": GENERATOR, "discriminator": DISCRIMINATOR, "quality": QUALITY}
"""How the columns are grouped in TensorBoard."""


class Averages:
    """Means of named numbers over steps, kept on their device: adding does not wait for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in one step: 0-d tensors, all on one device; a name may be absent from a step.

        Raises:
            ValueError: a tensor that is not 0-d.
        """
        for name, value in values.items():
            if value.ndim:
                raise ValueError(f"expected a 0-d tensor for {name}, got shape {tuple(value.shape)}")
            # Copied: a CUDA graph would write its next result into the same memory.
            number = value.detach().to(torch.float32, copy=True)
            self._sums[name] = self._sums[name] + number if name in self._sums else number
            self._counts[name] = self._counts.get(name, 0) + 1

    def mean(self) -> dict[str, float]:
        """The mean of each name over the steps that had it since the last call; waits for the device once."""
        if not self._sums:
            return {}
        sums: list[float] = torch.stack(list(self._sums.values())).tolist()
        means = {name: total / self._counts[name] for name, total in zip(self._sums, sums, strict=True)}
        self._sums, self._counts = {}, {}
        return means


class Log:
    """``log.csv`` in the folder of a run, and TensorBoard's event files beside it if asked for.

    A row stands for the steps since the row before it. Rows behind ``step``, which a killed run left, are removed, and
    so is a last line without its end.

    Args:
        folder: of the run; exists.
        step: updates that are done when the log is opened.
        tensorboard: also write event files into ``tensorboard/``.

    Raises:
        CheckpointError: the file there is no log of this version.
        OutputError: it cannot be written.
        UsageError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, *, step: int, tensorboard: bool = False) -> None:
        self._path = folder / LOG
        self._cut(step)
        # Any, since its methods are untyped.
        self._events: Any = _open_tensorboard(folder / TENSORBOARD, step) if tensorboard else None

    def write(self, row: Mapping[str, float | str | None]) -> None:
        """Append a row and hand it to the disk. A column that is absent or None stays empty.

        Raises:
            ValueError: a column that the log does not have, or no step or stage.
            OutputError: it cannot be written.
        """
        if row.get("step") is None or not row.get("stage"):
            raise ValueError(f"a row needs a step and a stage, got {dict(row)}")
        line = _encode(row)
        try:
            # Opened anew for each row, so that nothing of it waits in a buffer that a killed run would lose.
            with open(self._path, "a", encoding="utf-8", newline="") as file:
                file.write(line)
            if self._events is not None:
                self._add_events(row)
        except OSError as exc:
            raise OutputError(f"cannot write the log {self._path}: {exc.strerror or exc}.") from exc

    def close(self) -> None:
        """Close the event files.

        Raises:
            OutputError: their last bytes cannot be written.
        """
        events, self._events = self._events, None
        if events is None:
            return
        try:
            events.close()
        except OSError as exc:
            raise OutputError(f"cannot write {self._path.parent / TENSORBOARD}: {exc.strerror or exc}.") from exc

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _cut(self, step: int) -> None:
        try:
            present = self._path.read_bytes()
        except FileNotFoundError:
            present = b""
        except OSError as exc:
            raise OutputError(f"cannot read the log {self._path}: {exc.strerror}.") from exc
        try:
            rows = _decode(present, self._path) if present else []
        except InputError as exc:
            raise CheckpointError(f"{exc} Move it away, or start anew.") from exc
        kept = ",".join(COLUMNS) + "\n" + "".join(_encode(row) for row in rows if int(row["step"]) <= step)
        if kept.encode() != present:
            write_whole(self._path, kept.encode())

    def _add_events(self, row: Mapping[str, float | str | None]) -> None:
        for group, names in GROUPS.items():
            for name in names:
                if row.get(name) is not None:
                    self._events.add_scalar(f"{group}/{name}", row[name], row["step"])
        self._events.flush()


def find_tensorboard() -> Any:
    """TensorBoard's writer.

    Raises:
        UsageError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as exc:
        raise UsageError("TensorBoard is not installed: pip install tensorboard, or leave --tensorboard out.") from exc
    return SummaryWriter


def _open_tensorboard(folder: Path, step: int) -> Any:
    try:
        return find_tensorboard()(str(folder), purge_step=step + 1)
    except OSError as exc:
        raise OutputError(f"cannot write {folder}: {exc.strerror or exc}.") from exc


def _encode(row: Mapping[str, float | str | None]) -> str:
    strange = sorted(set(row) - set(COLUMNS))
    if strange:
        raise ValueError(f"the log has no column {', '.join(strange)}")
    values = (row.get(name) for name in COLUMNS)
    return ",".join("" if value is None else _text(value) for value in values) + "\n"


def _text(value: float | str) -> str:
    return str(value) if isinstance(value, (int, str)) else f"{float(value):.7g}"


def _decode(content: bytes, path: Path) -> list[dict[str, str]]:
    """The rows of a log as they are written; a last line without its end, left by a killed run, does not count."""
    header, *lines = content.decode("utf-8", errors="replace").split("\n")[:-1] or [""]
    columns = tuple(header.split(","))
    if columns not in (COLUMNS, COLUMNS_OF_PICTURES):
        raise InputError(f"{path} is no training log of this version of vsr: it has other columns.")
    rows = []
    for number, line in enumerate(lines, 2):
        try:
            rows.append(dict.fromkeys(COLUMNS, "") | dict(zip(columns, line.split(","), strict=True)))
            _ = int(rows[-1]["step"]), [float(rows[-1][name] or "nan") for name in COLUMNS if name != "stage"]
        except ValueError as exc:
            raise InputError(f"{path} is damaged in line {number}.") from exc
    return rows


@dataclass(frozen=True)
class Rows:
    """A log that was read.

    Attributes:
        stages: the stage of each row.
        values: each other column as float64, (rows,); nan where it is empty.
    """

    stages: tuple[str, ...]
    values: Mapping[str, npt.NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.stages)

    def __getitem__(self, column: str) -> npt.NDArray[np.float64]:
        return self.values[column]


def read_log(path: Path) -> Rows:
    """Read a log; a last line without its end, left by a killed run, is left out.

    Raises:
        InputError: it cannot be read, is damaged, or is no log of this version.
    """
    try:
        rows = _decode(path.read_bytes(), path)
    except OSError as exc:
        raise InputError(f"cannot read the log {path}: {exc.strerror}.") from exc
    names = [name for name in COLUMNS if name != "stage"]
    values = {name: np.array([float(row[name] or "nan") for row in rows], np.float64) for name in names}
    return Rows(tuple(row["stage"] for row in rows), values)


@dataclass(frozen=True)
class Statistics:
    """Of one column over the rows of one stage.

    Attributes:
        mean: over the rows.
        standard_deviation: of the rows, not of the steps that a row is the mean of; 0 for a single row.
        minimum: the least row.
        last: the last row.
    """

    mean: float
    standard_deviation: float
    minimum: float
    last: float


def summarise(rows: Rows) -> dict[str, dict[str, Statistics]]:
    """Stage -> column -> statistics, of the losses and of D(real) and D(fake); what a stage lacks is absent."""
    summary: dict[str, dict[str, Statistics]] = {}
    for stage in dict.fromkeys(rows.stages):
        inside = np.array([name == stage for name in rows.stages])
        summary[stage] = {}
        for column in (*GENERATOR, *DISCRIMINATOR):
            values = rows[column][inside & np.isfinite(rows[column])]
            if values.size:
                numbers = values.mean(), values.std(), values.min(), values[-1]
                summary[stage][column] = Statistics(*map(float, numbers))
    return summary


def summary_table(summary: Mapping[str, Mapping[str, Statistics]]) -> str:
    """Aligned text without a newline at its end: a line for each stage and column."""
    lines = [("stage", "quantity", "mean", "std", "min", "last")]
    for stage, columns in summary.items():
        for column, found in columns.items():
            numbers = found.mean, found.standard_deviation, found.minimum, found.last
            lines.append((stage, column, *(f"{number:#.4g}" for number in numbers)))  # type: ignore[arg-type]
            stage = ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = []
    for line in lines:
        words = [word.ljust(width) for word, width in zip(line[:2], widths[:2], strict=True)]
        numbers_ = [word.rjust(width) for word, width in zip(line[2:], widths[2:], strict=True)]
        aligned.append("  ".join(words + numbers_).rstrip())
    return "\n".join(aligned)
