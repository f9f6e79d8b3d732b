"""Options declared once: help text, default, choices and range, as metadata of the dataclass field of the value."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import KW_ONLY, Field, dataclass, field, fields
from fractions import Fraction
from inspect import cleandoc
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from vsr.errors import option_text

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """Describes an option, besides the type and the default of its field.

    Attributes:
        help: text of the command's help.
        note: further explanation, for callers in Python.
        name: name on the command line, such as ``-o, --output``; if empty, derived from the field's name.
        metavar: placeholder of the value in the help.
        default_text: default as text; if empty, the help shows none; if None, the value itself.
        section: heading of the help under which it is listed; if empty, the command's choice.
        repeated: whether each use of the option adds one item to the tuple.
        auto: whether ``auto`` on the command line means None.
        choices: allowed items of a tuple; those of a ``Literal`` come from its type.
        at_least: least value, or least item of a tuple.
        above: exclusive lower bound.
        at_most: greatest value.
        below: exclusive upper bound.
        within: bounds (least, greatest) of a value that is itself a range (low, high).
        subject: subject of the error message; if empty, the field's name.
        rule: predicate of the error message; if empty, derived from the bounds.
    """

    help: str
    _: KW_ONLY
    note: str = ""
    name: str = ""
    metavar: str | None = None
    default_text: str | None = None
    section: str = ""
    repeated: bool = False
    auto: bool = False
    choices: tuple[str, ...] = ()
    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf
    within: tuple[float, float] | None = None
    subject: str = ""
    rule: str = ""


def option(default: T, help: str, **details: Any) -> T:
    """Declare a field of a dataclass that is an option.

    Args:
        default: value if none is given.
        help: text of the command's help.
        details: further attributes of :class:`Option`.
    """
    return field(default=default, metadata=described(help, **details))


def described(help: str, **details: Any) -> dict[str, Option]:
    """Make the metadata of a field without a default: ``data: Path = field(metadata=described("A folder."))``."""
    return {"option": Option(help, **details)}


def option_of(field: Field[Any]) -> Option:
    """Return the option of a field, empty if it has none."""
    known: Option = field.metadata.get("option") or Option("")
    return known


def documented(options: type[T]) -> type[T]:
    """Append the texts of its options to the docstring of a dataclass, as a section ``Attributes``."""
    lines = [cleandoc(options.__doc__ or ""), "", "Attributes:"]
    for each in fields(options):  # type: ignore[arg-type]  # a dataclass
        known = option_of(each)
        without_value = known.default_text and each.default in (None, ()) and not known.auto
        texts = (known.help, f"{each.default}: {known.default_text}." if without_value else "", known.note)
        lines.append(f"    {each.name}: " + " ".join(filter(None, texts)))
    options.__doc__ = "\n".join(lines) + "\n"
    return options


def hints_of(options: Any) -> dict[str, Any]:
    """Return the types of the fields of a dataclass, or of an instance, by name; ``X | None`` as X."""
    hints = get_type_hints(options if isinstance(options, type) else type(options))
    for name, hint in hints.items():
        rest = [kind for kind in get_args(hint) if kind is not type(None)]
        if len(rest) == 1 and len(get_args(hint)) == 2:
            hints[name] = rest[0]
    return hints


NTSC = {Fraction(each * 1000, 1001) for each in (24, 30, 48, 60, 72, 90, 96, 120)}
"""Frame rates that are written with two or three decimals, such as 29.97 and 23.976."""

NTSC_ROUNDING = 0.004
"""Most frames per second that such a decimal is away from its rate: 23.98 is 24000/1001."""


def parse_rate(rate: str | float | Fraction) -> Fraction:
    """Read frames per second: ``25``, ``12.5`` or ``30000/1001``; 29.97 and its like are those of NTSC.

    Raises:
        ValueError: it is none, in a sentence.
    """
    text = str(rate)
    try:
        if len(text) > 20 or "e" in text.lower():
            raise ValueError(text)
        value = Fraction(text)
    except (ValueError, ZeroDivisionError) as exc:
        raise ValueError(f"{text!r} is not a frame rate: write 25 or 30000/1001.") from exc
    if "." not in text:
        return value
    return next((each for each in NTSC if value.denominator > 1 and abs(value - each) < NTSC_ROUNDING), value)


def parse_time(time: str | float | Fraction) -> Fraction:
    """Read ``90.5``, ``1:30.5`` or ``0:01:30.5`` as exact seconds; a number is one of seconds.

    Raises:
        ValueError: it is none, in a sentence.
    """
    if isinstance(time, Fraction):
        return time
    if not isinstance(time, str):
        if not math.isfinite(time):
            raise ValueError(f"{time} is not a time: write 90.5, 1:30.5 or 0:01:30.5.")
        return Fraction(str(time))
    if not re.fullmatch(r"(\d{1,9}:)?(\d{1,9}:)?(\d{1,9}(\.\d{0,9})?|\.\d{1,9})", time, re.ASCII):
        raise ValueError(f"{time!r} is not a time: write 90.5, 1:30.5 or 0:01:30.5.")
    seconds = Fraction(0)
    for part in time.split(":"):
        seconds = seconds * 60 + Fraction(part)
    return seconds


def contradictions(options: Any) -> list[str]:
    """Return an error message for each field of a dataclass whose value is none of its choices or out of its range."""
    return [*_wrong_choices(options), *_wrong_numbers(options)]


def _wrong_choices(options: Any) -> Iterator[str]:
    hints = hints_of(options)
    for each in fields(options):
        value, hint, known = getattr(options, each.name), hints[each.name], option_of(each)
        if get_origin(hint) is Literal and value not in get_args(hint) and (value is not None or each.default):
            choices = ", ".join(map(str, get_args(hint)))
            yield f"{known.subject or each.name} is one of {choices}, got '{option_text(value)}'"
        elif known.choices:
            strange = sorted(set(value) - {*known.choices})
            if strange or (each.default and not value):
                choices = ", ".join(sorted(known.choices))
                yield f"{each.name} are of {choices}, got {', '.join(strange) or 'none at all'}"


def _wrong_numbers(options: Any) -> Iterator[str]:
    for each in fields(options):
        value, known = getattr(options, each.name), option_of(each)
        if known.within is not None:
            low, high = value
            if not known.within[0] <= low <= high <= known.within[1] or math.isinf(high):
                yield f"{each.name} is a range {_span(*known.within)}, got {low} to {high}"
        elif value is not None and (rule := known.rule or _rule(known, value)):
            items = value if isinstance(value, tuple) else (value,)
            if not all(known.at_least <= it <= known.at_most and known.above < it < known.below for it in items):
                yield f"{known.subject or each.name} {rule}, got {value}"


def _span(low: float, high: float) -> str:
    return f"of values from {low} up" if math.isinf(high) else f"within {low} to {high}"


def _rule(known: Option, value: Any) -> str:
    """Return the predicate of the error message for the bounds of an option; empty without bounds."""
    low, high = max(known.at_least, known.above), min(known.at_most, known.below)
    if not math.isinf(high):
        return f"must lie in {'(' if known.above == low else '['}{low}, {high}{')' if known.below == high else ']'}"
    if math.isinf(low):
        return ""
    if known.above == low:
        return "must be positive and finite"
    if low:
        return f"must be at least {low}"
    return "must be finite and not negative" if isinstance(value, float) else "must not be negative"
