"""Names with terminal controls, spreadsheet formulas or markup are shown literally."""

from __future__ import annotations

import unicodedata

import pytest

from vsr.errors import csv_cell, markdown, markdown_code, one_line


@pytest.mark.parametrize(
    "text",
    ["clip.mp4", "día – Übung", "映画 テスト", "50 %, \\ 'x'", "مرحبا", "नमस्ते", "a\u200cb\u200dc"],
)
def test_letters_of_all_scripts_are_kept(text: str) -> None:
    assert one_line(text) == text


def test_no_terminal_control_is_left() -> None:
    everything = "".join(map(chr, range(0x110000)))
    shown = one_line(everything)
    assert not [each for each in shown if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp")]
    turning = {"RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI", "FSI", "PDI"}
    assert not [each for each in shown if unicodedata.bidirectional(each) in turning]
    assert len(shown.splitlines()) == 1
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nvsr: done\r\nb\tc", "a vsr: done b c"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("a\x9b2Jb\x7f", "a\\x9b2Jb\\x7f"),
        ("gpj.\u202ecod.exe", "gpj.\\u202ecod.exe"),
        ("a\udcffb", "a?b"),
        ("\x85\u2028\u2029", "   "),
    ],
)
def test_control_characters_are_replaced(text: str, shown: str) -> None:
    assert one_line(text) == shown


@pytest.mark.parametrize("text", ["=1+1", "+1", "-cmd", "@SUM(A1)", "\t=1+1", "\r=1", " =1", "\n@x"])
def test_formulas_become_text(text: str) -> None:
    assert csv_cell(text).startswith("'")


@pytest.mark.parametrize("text", ["a=b", "a-b.png", "été", "1.5", ""])
def test_other_cells_are_unchanged(text: str) -> None:
    assert csv_cell(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b\n| c", "a\\|b \\| c"),
        ("<img src=x onerror=alert(1)>&amp;", "&lt;img src=x onerror=alert(1)&gt;&amp;amp;"),
        ("[x](javascript:y) **b** `c` \\", "[x\\](javascript:y) \\*\\*b\\*\\* \\`c\\` \\\\"),
        ("srgan_x4 (x4)", "srgan_x4 (x4)"),
    ],
)
def test_markdown_is_escaped(text: str, shown: str) -> None:
    assert markdown(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("vsr train -o a", "`vsr train -o a`"),
        ("a `b` | <c>\n", "`` a `b` \\| <c>  ``"),
    ],
)
def test_markdown_code(text: str, shown: str) -> None:
    assert markdown_code(text) == shown
