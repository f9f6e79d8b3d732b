"""Tables of figures as text for the terminal, JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Any, Literal

from vsr.errors import UsageError, csv_cell, markdown, one_line
from vsr.files import check_target, write_whole

Value = float | int | str | None


@dataclass(frozen=True)
class Column:
    """A column of a table: one quantity.

    Attributes:
        name: its heading, and its key in JSON and CSV.
        unit: its unit, such as ``dB``; shown in the heading.
        digits: number of decimals; None for text and counts.
        better: which direction is better; the best value of a column is marked on the terminal and in Markdown.
        by: the network that computes it, if any; part of the heading, not of the key.
    """

    name: str
    unit: str = ""
    digits: int | None = None
    better: Literal["higher", "lower"] | None = None
    by: str = ""

    @property
    def heading(self) -> str:
        """Name, network and unit."""
        name = f"{self.name} ({self.by})" if self.by else self.name
        return f"{name} [{self.unit}]" if self.unit else name


@dataclass(frozen=True)
class Table:
    """Rows of values by column name; a value that was not measured is None.

    Attributes:
        columns: in order.
        rows: a mapping for each row.
        about: how it was measured: protocol, files, versions; part of the JSON, and lines under the other formats.
        group_by: names of columns; rows that agree in them form a group, which has its own best values and is
            separated from others on the terminal.
    """

    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Value], ...]
    about: Mapping[str, Any]
    group_by: tuple[str, ...] = ()


NARROWEST = 12
"""Columns of text are made no narrower than this many characters, to fit a table into a terminal."""


def to_text(table: Table, width: int | None = None) -> str:
    """Format a table with aligned columns for the terminal; a star marks the best value of a group.

    Args:
        table: the table.
        width: longest line, in characters. Longer text is wrapped in its column; numbers that do not fit follow in
            further blocks, which repeat the columns of text before the first number. None: unlimited.
    """
    best = _best(table)
    cells = [
        [_cell(column, row) + ("*" if (number, column.name) in best else " ") for column in table.columns]
        for number, row in enumerate(table.rows)
    ]
    rows = [[column.heading + " " for column in table.columns], *cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = [_is_text(table, column) for column in table.columns]
    blocks = [list(range(len(widths)))]
    if width is not None:
        widths = _narrowed(widths, left, width)
        blocks = _blocks(widths, left, width)
    groups = [_group(table, row) for row in table.rows]
    lines: list[str] = []
    for block in blocks:
        lines += [""] if lines else []
        for number, row in enumerate(rows):
            if number > 1 and groups[number - 1] != groups[number - 2]:
                lines.append("")
            lines += _lines_of([row[at] for at in block], [widths[at] for at in block], [left[at] for at in block])
            if not number:
                lines.append("-" * (sum(widths[at] for at in block) + len(block) - 1))
    about = _about_lines(table)
    for line in ["", *about] if about else []:
        lines += [line] if width is None else textwrap.wrap(line, width, subsequent_indent="  ") or [line]
    return "\n".join(lines)


def _narrowed(widths: Sequence[int], left: Sequence[bool], width: int) -> list[int]:
    """Return the widths of columns, of which those of text are narrowed until a line fits, or to ``NARROWEST``."""
    narrowed = list(widths)
    while sum(narrowed) + len(narrowed) - 1 > width:
        widest = max((at for at, flush in enumerate(left) if flush), key=narrowed.__getitem__, default=None)
        if widest is None or narrowed[widest] <= NARROWEST:
            break
        narrowed[widest] -= 1
    return narrowed


def _blocks(widths: Sequence[int], left: Sequence[bool], width: int) -> list[list[int]]:
    """Divide columns among blocks that fit, by their indices; all begin with the columns of text before a number."""
    keys = list(takewhile(left.__getitem__, range(len(widths))))
    blocks, block = [], list(keys)
    for at in range(len(keys), len(widths)):
        if len(block) > len(keys) and sum(widths[it] for it in (*block, at)) + len(block) > width:
            blocks.append(block)
            block = list(keys)
        block.append(at)
    return [*blocks, block]


def _lines_of(row: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> list[str]:
    """Return a row as one or more lines; text that is wider than its column is wrapped."""
    wrapped = [
        textwrap.wrap(cell, width - 1, break_on_hyphens=False) if len(cell) > width else [cell]
        for cell, width in zip(row, widths, strict=True)
    ]
    lines = []
    for line in zip_longest(*wrapped, fillvalue=""):
        aligned = zip(line, widths, left, strict=True)
        lines.append(" ".join(cell.ljust(to) if flush else cell.rjust(to) for cell, to, flush in aligned).rstrip())
    return lines


def to_markdown(table: Table) -> str:
    """Format a table as GitHub Markdown; the best value of a group is bold, and ``about`` a list under it."""
    best = _best(table)

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    lines = [
        line([column.heading for column in table.columns]),
        line(["---" if _is_text(table, column) else "---:" for column in table.columns]),
    ]
    for number, row in enumerate(table.rows):
        cells = [(markdown(_cell(column, row)), (number, column.name) in best) for column in table.columns]
        lines.append(line([f"**{cell}**" if marked else cell for cell, marked in cells]))
    about = [f"- {markdown(text)}" for text in _about_lines(table)]
    return "\n".join([*lines, *([""] if about else []), *about]) + "\n"


def to_csv(table: Table) -> str:
    """Format a table as CSV (RFC 4180) with a header line.

    Values have full precision, None and NaN are empty, and ``about`` is in lines that begin with ``#``. Text that a
    spreadsheet would interpret as a formula gets an apostrophe before it.
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow([csv_cell(column.name) for column in table.columns])
    for row in table.rows:
        values = [row.get(column.name) for column in table.columns]
        writer.writerow([csv_cell(value) if isinstance(value, str) else _plain(value) for value in values])
    return target.getvalue() + "".join(f"# {line}\n" for line in _about_lines(table))


def to_json(table: Table, *, indent: int | None = None) -> str:
    """Format a table as a JSON object with ``columns``, ``rows`` and ``about``.

    Strict JSON has no infinity: NaN becomes null, an infinite value the text ``inf`` or ``-inf``. Values have full
    precision.

    Args:
        table: the table.
        indent: spaces of a level; None: all on one line.
    """
    columns = [asdict(column) for column in table.columns]
    rows = [{column.name: row.get(column.name) for column in table.columns} for row in table.rows]
    content = {"columns": columns, "rows": rows, "about": table.about}
    return json.dumps(_plain(content), indent=indent, allow_nan=False)


FORMATS: dict[str, Callable[[Table], str]] = {
    ".json": lambda table: to_json(table, indent=2) + "\n",
    ".csv": to_csv,
    ".md": to_markdown,
}
"""Formats by the suffix of the file."""


def check_output(path: Path, *, overwrite: bool = False, endings: Collection[str] = tuple(FORMATS)) -> None:
    """Check that a file can be written, before the work whose results it gets.

    Args:
        path: the file.
        overwrite: replace an existing file.
        endings: suffixes that its name may have.

    Raises:
        UsageError: the name has another suffix.
        OutputError: the file exists already, or its folder does not.
    """
    if path.suffix.lower() not in endings:
        raise UsageError(f"{path} cannot be written: its name must end in {' or '.join(endings)}.")
    check_target(path, overwrite=overwrite)


def write_table(path: Path, table: Table, *, overwrite: bool = False) -> None:
    """Write a table as JSON, CSV or Markdown, as the suffix of the name selects, under a temporary name first.

    Raises:
        UsageError: the suffix selects no format.
        OutputError: the file exists already, or cannot be written.
    """
    check_output(path, overwrite=overwrite)
    write_whole(path, FORMATS[path.suffix.lower()](table).encode())


def _cell(column: Column, row: Mapping[str, Value]) -> str:
    value = row.get(column.name)
    if value is None:
        return "-"
    if isinstance(value, str):
        return one_line(value)
    return str(value) if column.digits is None else f"{value:.{column.digits}f}"


def _is_text(table: Table, column: Column) -> bool:
    return any(isinstance(row.get(column.name), str) for row in table.rows)


def _group(table: Table, row: Mapping[str, Value]) -> tuple[Value, ...]:
    return tuple(row.get(name) for name in table.group_by)


def _best(table: Table) -> set[tuple[int, str]]:
    """Return (row number, column name) of the best values as shown; none if all are equal."""
    found = set()
    for column in table.columns:
        by_group: dict[tuple[Value, ...], dict[int, float]] = {}
        for number, row in enumerate(table.rows):
            value = row.get(column.name)
            if column.better and isinstance(value, (int, float)) and not math.isnan(value):
                shown = float(_cell(column, row))
                by_group.setdefault(_group(table, row), {})[number] = shown
        for values in by_group.values():
            best = (max if column.better == "higher" else min)(values.values())
            if len(set(values.values())) > 1:
                found |= {(number, column.name) for number, value in values.items() if value == best}
    return found


def _about_lines(table: Table) -> list[str]:
    """Return ``key: value`` lines; nested values are JSON."""
    plain = _plain(table.about)
    return [f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in plain.items()]


def _plain(value: Any) -> Any:
    """Convert a value to what strict JSON can represent."""
    if isinstance(value, Mapping):
        return {one_line(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, float)) else one_line(str(value))
