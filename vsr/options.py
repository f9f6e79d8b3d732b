"""Options declared once: help text, default, choices and range, as metadata of the dataclass field of the value."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, MISSING, Field, dataclass, field, fields, is_dataclass
from fractions import Fraction
from functools import partial
from inspect import cleandoc
from numbers import Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vsr.errors import UsageError, option_text, shortened

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
        if not _is_number(time) or not math.isfinite(time):
            raise ValueError(f"{shortened(str(time))} is not a time: write 90.5, 1:30.5 or 0:01:30.5.")
        return Fraction(str(time))
    if not re.fullmatch(r"(\d{1,9}:)?(\d{1,9}:)?(\d{1,9}(\.\d{0,9})?|\.\d{1,9})", time, re.ASCII):
        raise ValueError(f"{time!r} is not a time: write 90.5, 1:30.5 or 0:01:30.5.")
    seconds = Fraction(0)
    for part in time.split(":"):
        seconds = seconds * 60 + Fraction(part)
    return seconds


def convert(options: Any, **parsers: Callable[[Any], Any]) -> list[str]:
    """Convert the values of a frozen dataclass to the types of its fields, in its ``__post_init__``.

    Numbers and texts of NumPy become Python's, whole floats integers, texts paths, and sequences tuples; a single value
    becomes a tuple where that has any length. Choices are left to ``contradictions``.

    Args:
        options: the instance. A value that cannot be converted gets the default of its field.
        parsers: by field, what converts its values instead; raises ``ValueError`` with a sentence.

    Returns:
        An error message for each value that cannot be converted.

    Raises:
        UsageError: the field of such a value has no default.
    """
    hints, wrong, lacks_value = get_type_hints(type(options)), [], False
    for each in fields(options):
        hint, value = hints[each.name], plain(getattr(options, each.name))
        try:
            if each.name in parsers and not (value is None and NoneType in get_args(hint)):
                value = parsers[each.name](value)
            elif each.name not in parsers and get_origin(hints_of(options)[each.name]) is not Literal:
                value = _converted(hint, value)
        except ValueError as exc:
            own = each.name in parsers
            wrong.append(str(exc).rstrip(".") if own else f"{each.name} takes {_noun(hint)}, got {_shown(value)}")
            value = each.default if each.default_factory is MISSING else each.default_factory()
            lacks_value |= value is MISSING
        object.__setattr__(options, each.name, value)
    if lacks_value:
        raise UsageError("; ".join(wrong) + ".")
    return wrong


def converted(name: str, value: Any, hint: Any) -> Any:
    """Convert an argument that is no field as ``convert`` does.

    Raises:
        UsageError: it cannot be converted.
    """
    try:
        return _converted(hint, value)
    except ValueError as exc:
        raise UsageError(f"{name} takes {_noun(hint)}, got {_shown(value)}.") from exc


def plain(value: Any) -> Any:
    """Return a scalar of NumPy, or an array or tensor without dimensions, as Python's; all else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _converted(hint: Any, value: Any) -> Any:
    """Convert a value to a type.

    Raises:
        ValueError: it is none of that type.
    """
    kind: Any = get_origin(hint) or hint
    parts, value = get_args(hint), plain(value)
    if kind in (Union, UnionType):
        return _converted_to_any(parts, value)
    if kind is tuple:
        return _converted_tuple(parts, value)
    if kind in _CONVERTERS:
        return _CONVERTERS[kind](value)
    if kind is Literal and isinstance(value, str) and value in parts:
        return value
    if _is_positional(kind) and not isinstance(value, kind):
        hints = hints_of(kind)
        return kind(*_converted_tuple(tuple(hints[each.name] for each in fields(kind)), value))
    if kind is not Literal and isinstance(value, kind):
        return value
    raise ValueError(value)


def _converted_to_any(kinds: tuple[Any, ...], value: Any) -> Any:
    if value is None and NoneType in kinds:
        return None
    for kind in kinds:
        with suppress(ValueError):
            return _converted(kind, value)
    raise ValueError(value)


def _converted_tuple(parts: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    items = _items(value)
    if ... not in parts:
        if items is None or len(items) != len(parts):
            raise ValueError(value)
        return tuple(map(_converted, parts, items))
    whole = get_origin(parts[0]) is tuple or is_dataclass(parts[0])  # an item may itself be written as a sequence
    if items is None or (whole and items and all(_items(it) is None and not is_dataclass(it) for it in items)):
        items = (value,)
    return tuple(map(partial(_converted, parts[0]), items))


def _items(value: Any) -> tuple[Any, ...] | None:
    """Return the items of a sequence or other iterable; None for a single value."""
    is_single = isinstance(value, (str, bytes, os.PathLike)) or not isinstance(value, Iterable)
    return None if is_single else tuple(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _to_bool(value: Any) -> bool:
    if not isinstance(value, int) or value not in (0, 1):
        raise ValueError(value)
    return bool(value)


def _to_int(value: Any) -> int:
    if not _is_number(value):
        raise ValueError(value)
    if not isinstance(value, int) and (not math.isfinite(value) or value != int(value)):
        raise ValueError(value)
    return int(value)


def _to_float(value: Any) -> float:
    if not _is_number(value):
        raise ValueError(value)
    try:
        number = float(value)
    except OverflowError as exc:
        raise ValueError(value) from exc
    return int(value) if isinstance(value, int) else number


def _to_str(value: Any) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise ValueError(value)
    return str.__str__(text)


def _to_mapping(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(value)
    values = {_to_str(name): plain(each) for name, each in value.items()}
    return {
        name: str(each + 0) if isinstance(each, (int, float)) else _to_str(each)  # True as 1
        for name, each in values.items()
    }


_CONVERTERS: dict[Any, Callable[[Any], Any]] = {
    bool: _to_bool, int: _to_int, float: _to_float, str: _to_str, Mapping: _to_mapping,
    Path: lambda value: Path(_to_str(value)),
}  # fmt: skip

_NOUNS = {
    bool: ("True or False", "True or False"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    Path: ("a path", "paths"),
    Mapping: ("texts or numbers by their names", ""),
}
"""What a field of a type takes, one or several."""


def _noun(hint: Any, *, several: bool = False) -> str:
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(_noun(part) for part in parts if part is not NoneType)
    if kind is Literal:
        return " or ".join(map(repr, parts))
    if kind is tuple:
        number = "" if ... in parts else f"{len(parts)} "
        return number + _noun(parts[0], several=True)
    if kind in _NOUNS:
        return _NOUNS[kind][several]
    values = f" of {', '.join(each.name for each in fields(kind))}" if _is_positional(kind) else ""
    return f"{'one or more ' if several else 'a '}{kind.__name__}{values}"


def _is_positional(kind: Any) -> bool:
    return is_dataclass(kind) and not any(each.kw_only for each in fields(kind))


def _shown(value: Any) -> str:
    return shortened(repr(value))


def contradictions(options: Any) -> list[str]:
    """Return an error message for each field of a dataclass whose value is none of its choices or out of its range."""
    return [*_wrong_choices(options), *_wrong_numbers(options)]


def _wrong_choices(options: Any) -> Iterator[str]:
    hints = hints_of(options)
    for each in fields(options):
        value, hint, known = getattr(options, each.name), hints[each.name], option_of(each)
        if get_origin(hint) is Literal and (value is not None or each.default):
            if not isinstance(value, str) or value not in get_args(hint):
                shown = f"'{option_text(value)}'" if value is None or isinstance(value, str) else _shown(value)
                yield f"{known.subject or each.name} is one of {', '.join(map(str, get_args(hint)))}, got {shown}"
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
