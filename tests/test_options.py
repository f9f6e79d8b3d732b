"""What is said of an option beside its field: in sentences, in docstrings, and without a source to read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

from vsr.cli.options import options_of
from vsr.options import contradictions, described, documented, option, option_of


@documented
@dataclass(frozen=True, kw_only=True)
class Oven:
    """An oven.

    Raises:
        Nothing.
    """

    owner: str = field(metadata=described("Whose it is."))
    mode: Literal["grill", "steam"] = option("grill", "How it heats.")
    fan: Literal["left", "right"] | None = option(None, "Which way.", default_text="left")
    trays: int = option(3, "Trays.", at_least=1)
    weight: float = option(1.0, "Of the cake.", at_least=0)
    heat: float = option(1.0, "In kelvin.", above=0, subject="the heat")
    decay: float = option(0.5, "Of the heat.", at_least=0, below=1)
    share: float = option(0.5, "Of the time.", at_least=0, at_most=1, rule="is a share")
    decays: tuple[float, ...] = option((0.5,), "Of each part.", above=0, at_most=1)
    span: tuple[float, float] = option((0.5, 2.0), "From and to.", within=(0, math.inf))
    levels: tuple[int, int] = option((1, 2), "From and to.", within=(1, 9))
    kinds: tuple[str, ...] = option(("cake",), "What is baked.", choices=("cake", "bread"))
    guests: tuple[str, ...] = option((), "Who eats.", choices=("Bob", "Ann"))
    shelf: int | None = option(None, "Which.", note="None: any.", default_text="auto", auto=True, at_least=0)
    free: int = 0


@pytest.mark.parametrize(
    ("values", "sentences"),
    [
        ({}, []),
        ({"mode": "fry"}, ["mode is one of grill, steam, got 'fry'"]),
        ({"mode": None}, ["mode is one of grill, steam, got 'not set'"]),
        ({"fan": "up"}, ["fan is one of left, right, got 'up'"]),
        ({"trays": 0}, ["trays must be at least 1, got 0"]),
        ({"weight": -1.0}, ["weight must be finite and not negative, got -1.0"]),
        ({"weight": math.inf}, ["weight must be finite and not negative, got inf"]),
        ({"heat": 0.0}, ["the heat must be positive and finite, got 0.0"]),
        ({"heat": math.nan}, ["the heat must be positive and finite, got nan"]),
        ({"decay": 1.0}, ["decay must lie in [0, 1), got 1.0"]),
        ({"decay": 0.0}, []),
        ({"share": 1.5}, ["share is a share, got 1.5"]),
        ({"decays": (0.5, 0.0)}, ["decays must lie in (0, 1], got (0.5, 0.0)"]),
        ({"decays": ()}, []),
        ({"span": (2.0, 1.0)}, ["span is a range of values from 0 up, got 2.0 to 1.0"]),
        ({"span": (0.0, math.inf)}, ["span is a range of values from 0 up, got 0.0 to inf"]),
        ({"levels": (0, 9)}, ["levels is a range within 1 to 9, got 0 to 9"]),
        ({"kinds": ("pie", "cake")}, ["kinds are of bread, cake, got pie"]),
        ({"kinds": ()}, ["kinds are of bread, cake, got none at all"]),
        ({"guests": ("Eve",)}, ["guests are of Ann, Bob, got Eve"]),
        ({"shelf": -1}, ["shelf must not be negative, got -1"]),
        (
            {"trays": 0, "mode": "fry", "shelf": -1},
            [
                "mode is one of grill, steam, got 'fry'",
                "trays must be at least 1, got 0",
                "shelf must not be negative, got -1",
            ],
        ),
    ],
    ids=str,
)
def test_contradictions(values: dict[str, Any], sentences: list[str]) -> None:
    assert contradictions(Oven(owner="Ann", **values)) == sentences


def test_the_docstring_tells_of_every_option() -> None:
    assert Oven.__doc__ is not None
    head, _, told = Oven.__doc__.partition("\n\nAttributes:\n")
    assert head == "An oven.\n\nRaises:\n    Nothing."
    lines = told.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == [each.name for each in fields(Oven)]
    assert lines[0] == "    owner: Whose it is."
    assert lines[2] == "    fan: Which way. None: left."
    assert lines[-2] == "    shelf: Which. None: any."


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="at_last"):
        option(1, "", at_last=2)


WITHOUT_SOURCE = """
from dataclasses import dataclass
from vsr.options import documented, option

@documented
@dataclass(frozen=True)
class Made:
    trays: int = option(3, "Trays in it.")
"""


def test_a_class_without_source_gives_its_help() -> None:
    """As in a program that was frozen without its sources."""
    names: dict[str, Any] = {"__name__": "nowhere"}
    exec(compile(WITHOUT_SOURCE, "nowhere.py", "exec", dont_inherit=True), names)
    made = names["Made"]
    assert option_of(fields(made)[0]).help == "Trays in it." and "trays: Trays in it." in made.__doc__

    @click.command()
    @options_of(made)
    def command(**values: Any) -> None: ...

    assert "--trays INTEGER  Trays in it.  [default: 3]" in CliRunner().invoke(command, ["--help"]).output
