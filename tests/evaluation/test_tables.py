from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path

import pytest

from vsr.errors import OutputError, UsageError
from vsr.evaluation.tables import Column, Table, check_output, to_csv, to_json, to_markdown, to_text, write_table

COLUMNS = (
    Column("data"),
    Column("model"),
    Column("PSNR", "dB", 2, "higher"),
    Column("LPIPS", "", 3, "lower"),
    Column("frames"),
)


def row(data: str, model: str, psnr: float | None, lpips: float | None, frames: int | None = 5) -> dict[str, object]:
    return {"data": data, "model": model, "PSNR": psnr, "LPIPS": lpips, "frames": frames}


def table(*rows: dict[str, object], about: dict[str, object] | None = None) -> Table:
    return Table(COLUMNS, rows, about or {}, group_by=("data",))  # type: ignore[arg-type]


TWO = table(row("a", "one", 30.456, 0.25), row("a", "two", 28.0, 0.1234, 12), about={"scale": 4, "LR": "made"})


def test_the_text_is_exact() -> None:
    assert to_text(TWO).splitlines() == [
        "data  model  PSNR [dB]  LPIPS  frames",
        "--------------------------------------",
        "a     one        30.46* 0.250       5",
        "a     two        28.00  0.123*     12",
        "",
        "scale: 4",
        "LR: made",
    ]


def test_the_markdown_is_exact() -> None:
    assert to_markdown(TWO).splitlines() == [
        "| data | model | PSNR [dB] | LPIPS | frames |",
        "| --- | --- | ---: | ---: | ---: |",
        "| a | one | **30.46** | 0.250 | 5 |",
        "| a | two | 28.00 | **0.123** | 12 |",
        "",
        "- scale: 4",
        "- LR: made",
    ]


def test_csv_keeps_full_precision() -> None:
    lines = to_csv(TWO).splitlines()
    assert lines[-2:] == ["# scale: 4", "# LR: made"]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert [float(each["PSNR"]) for each in rows] == [30.456, 28.0]
    assert rows[1] == {"data": "a", "model": "two", "PSNR": "28.0", "LPIPS": "0.1234", "frames": "12"}


def test_json_keeps_full_precision() -> None:
    content = json.loads(to_json(TWO))
    assert content["rows"] == [dict(each) for each in TWO.rows]
    assert content["columns"][2] == {"name": "PSNR", "unit": "dB", "digits": 2, "better": "higher", "by": ""}
    assert content["about"] == {"scale": 4, "LR": "made"}
    assert "\n" not in to_json(TWO) and json.loads(to_json(TWO, indent=2)) == content


def marked(text: str) -> list[str]:
    return [cell.strip(" *") for cell in text.replace("\n", "|").split("|") if "**" in cell]


def test_each_group_has_its_own_best_values() -> None:
    blocks = table(row("a", "x", 30, 0.3), row("a", "y", 29, 0.2), row("b", "x", 20, 0.5), row("b", "y", 21, 0.4))
    assert marked(to_markdown(blocks)) == ["30.00", "0.200", "21.00", "0.400"]
    assert to_text(blocks).splitlines()[4] == "", "groups are separated"
    whole = Table(blocks.columns, blocks.rows, {})
    assert marked(to_markdown(whole)) == ["30.00", "0.200"]
    assert "" not in to_text(whole).splitlines()


def test_values_that_look_equal_are_marked_alike() -> None:
    assert marked(to_markdown(table(row("a", "x", 30.001, 0.2), row("a", "y", 30.004, 0.2)))) == []
    three = table(row("a", "x", 30.001, 0.2), row("a", "y", 30.004, 0.2), row("a", "z", 29, 0.2))
    assert marked(to_markdown(three)) == ["30.00", "30.00"]
    assert marked(to_markdown(table(row("a", "x", 30, 0.2)))) == [], "one row has nothing to compare with"


def test_missing_infinite_and_nan_values() -> None:
    odd = table(row("a", "x", math.inf, None), row("a", "y", math.nan, 0.5), row("a", "z", -math.inf, 0.6, None))
    lines = to_text(odd).splitlines()
    cells = [line.split()[2:] for line in lines[2:5]]
    assert cells == [["inf*", "-", "5"], ["nan", "0.500*", "5"], ["-inf", "0.600", "-"]]

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    rows = json.loads(to_json(odd), parse_constant=refuse)["rows"]
    assert [each["PSNR"] for each in rows] == ["inf", None, "-inf"]
    assert [each["LPIPS"] for each in rows] == [None, 0.5, 0.6]
    cells = [line.split(",")[2:4] for line in to_csv(odd).splitlines()[1:]]
    assert cells == [["inf", ""], ["", "0.5"], ["-inf", "0.6"]]


def test_nested_values_in_about_are_strict_json() -> None:
    about = {"limits": {"psnr": [1.5, math.inf, math.nan]}, "file": Path("a/b"), "on": True, "none": None}
    content = json.loads(to_json(table(about=about)), parse_constant=pytest.fail)
    assert content["about"] == {"limits": {"psnr": [1.5, "inf", None]}, "file": "a/b", "on": True, "none": None}
    assert to_markdown(table(about=about)).splitlines()[-4:] == [
        '- limits: {"psnr": [1.5, "inf", null]}',
        "- file: a/b",
        "- on: true",
        "- none: null",
    ]


def test_missing_values_and_no_rows() -> None:
    short = Table((Column("a"), Column("b", digits=1)), ({"a": "x"},), {})
    assert to_text(short).splitlines()[-1].split() == ["x", "-"]
    assert json.loads(to_json(short))["rows"] == [{"a": "x", "b": None}]
    empty = Table((Column("a"),), (), {})
    assert to_text(empty).splitlines() == ["a", "--"]
    assert to_csv(empty) == "a\n"


def test_names_with_special_characters_are_escaped(tmp_path: Path) -> None:
    names = table(row("a|b", 'x,"y"', 1.0, 1.0), row("two\nlines", "byte\udcff", 1.0, 1.0))
    assert "| a\\|b |" in to_markdown(names) and len(to_markdown(names).splitlines()) == 4
    assert "two lines" in to_text(names) and "byte?" in to_text(names)
    read = list(csv.reader(io.StringIO(to_csv(names))))
    assert [each[:2] for each in read[1:]] == [["a|b", 'x,"y"'], ["two lines", "byte?"]]
    for ending in (".md", ".csv", ".json"):
        write_table(tmp_path / f"t{ending}", names)


@pytest.mark.parametrize("ending", [".json", ".csv", ".md", ".JSON"])
def test_the_suffix_selects_the_format(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"table{ending}"
    write_table(path, TWO)
    written = path.read_text(encoding="utf-8")
    expected = {".json": to_json(TWO, indent=2) + "\n", ".csv": to_csv(TWO), ".md": to_markdown(TWO)}
    assert written == expected[ending.lower()]
    assert os.listdir(tmp_path) == [path.name], "no temporary file is left"


def test_bad_output_paths_are_refused(tmp_path: Path) -> None:
    existing = tmp_path / "there.csv"
    existing.write_text("precious")
    (tmp_path / "folder.md").mkdir()
    for path, error, words in [
        (tmp_path / "t.xlsx", UsageError, r"t\.xlsx cannot be written: its name must end in \.json or \.csv or \.md"),
        (tmp_path / "t", UsageError, "its name must end in"),
        (existing, OutputError, r"there\.csv exists already; overwrite=True replaces it"),
        (tmp_path / "folder.md", OutputError, "is a folder; name a file in it"),
        (tmp_path / "no" / "t.md", OutputError, "no does not exist; create it first"),
        (tmp_path / ("x" * 300 + ".md"), OutputError, "File name too long"),
    ]:
        for refuse in (check_output, lambda path: write_table(path, TWO)):
            with pytest.raises(error, match=words):
                refuse(path)
    assert existing.read_text() == "precious"
    check_output(existing, overwrite=True)
    check_output(tmp_path / "new.PNG", endings=[".png"])
    with pytest.raises(UsageError, match=r"its name must end in \.png\."):
        check_output(tmp_path / "new.csv", endings=[".png"])
    write_table(existing, TWO, overwrite=True)
    assert existing.read_text() == to_csv(TWO)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write to")
def test_a_folder_without_write_access_is_an_output_error() -> None:
    with pytest.raises(OutputError, match=r"cannot write /proc/t\.md: "):
        write_table(Path("/proc/t.md"), TWO)


def test_names_cannot_become_formulas_or_markup() -> None:
    """Numbers stay numbers, including negative ones."""
    rows = row('=HYPERLINK("x")', "-m", -1.5, math.inf), row("+1|<b>", "@m\x1b\n# x", 2.0, 0.5)
    found = table(*rows, about={"a|b": "<i>"})
    read = list(csv.reader(io.StringIO(to_csv(found))))
    assert read[1] == ['\'=HYPERLINK("x")', "'-m", "-1.5", "inf", "5"]
    assert read[2][:2] == ["'+1|<b>", "'@m\\x1b # x"] and read[3] == ["# a|b: <i>"]
    lines = to_markdown(found).splitlines()
    assert lines[3].startswith("| +1\\|&lt;b&gt; | @m\\\\x1b # x | ") and lines[-1] == "- a\\|b: &lt;i&gt;"
    assert "@m\\x1b # x" in to_text(found)


def test_long_text_is_wrapped_in_its_column() -> None:
    note = "could not be read, because the disk was removed while it was being read"
    table = Table(
        (Column("clip"), Column("frames"), Column("time", "s", 1), Column("note")),
        ({"clip": "a.mp4", "frames": 8, "time": 0.5, "note": note}, {"clip": "b.mp4", "frames": 9, "time": 1.5}),
        {"measured": "on a machine that was idle, by the clock of the wall, and with nothing else"},
    )
    assert to_text(table, 60).splitlines() == [
        "clip   frames  time [s]  note",
        "------------------------------------------------------------",
        "a.mp4       8       0.5  could not be read, because the",
        "                         disk was removed while it was",
        "                         being read",
        "b.mp4       9       1.5  -",
        "",
        "measured: on a machine that was idle, by the clock of the",
        "  wall, and with nothing else",
    ]
    assert to_text(table, 200) == to_text(table)


def test_numbers_that_do_not_fit_follow_in_further_blocks() -> None:
    columns = (Column("model"), *(Column(f"quantity {number}", "ms", 1, "lower") for number in range(5)))
    rows = tuple({"model": name, **{f"quantity {at}": at + 1.0 for at in range(5)}} for name in ("a", "b"))
    assert to_text(Table(columns, rows, {}), 50).splitlines() == [
        "model  quantity 0 [ms]  quantity 1 [ms]",
        "----------------------------------------",
        "a                  1.0              2.0",
        "b                  1.0              2.0",
        "",
        "model  quantity 2 [ms]  quantity 3 [ms]",
        "----------------------------------------",
        "a                  3.0              4.0",
        "b                  3.0              4.0",
        "",
        "model  quantity 4 [ms]",
        "-----------------------",
        "a                  5.0",
        "b                  5.0",
    ]


def test_a_table_that_cannot_be_narrower_stays_whole() -> None:
    wide = Table((Column("x" * 30, digits=1), Column("y" * 30, digits=1)), ({"x" * 30: 1.0, "y" * 30: 2.0},), {})
    assert max(map(len, to_text(wide, 20).splitlines())) == 31
