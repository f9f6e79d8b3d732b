"""Command-line options made from the fields of a dataclass: its types, its defaults and its docstrings, said once."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from textwrap import dedent
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from vsr.training.recipes import Labels, parse_labels

Command = TypeVar("Command", bound=Callable[..., Any])


class _LabelsType(click.ParamType):  # type: ignore[type-arg]  # generic in newer click alone
    name = "LABELS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Labels:
        try:
            return parse_labels(value) if isinstance(value, str) else value
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class _ListType(click.ParamType):  # type: ignore[type-arg]
    """Values between commas."""

    name = "LIST"

    def __init__(self, item: type) -> None:
        self._item = item

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._item(part.strip()) for part in value.split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is not a list of {self._item.__name__}s between commas", param, ctx)


class SectionedOption(click.Option):
    """An option that stands under a heading of its own in the help."""

    def __init__(self, *args: Any, section: str = "Options", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section


class SectionedCommand(click.Command):
    """Shows its options under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def option_for_field(
    options: Any, name: str, *, section: str, prefix: str = "", negatable: bool = True, metavar: str | None = None
) -> Callable[[Command], Command]:
    """A ``click.option`` for one field of a dataclass: not given, it stays None.

    Args:
        options: an instance, whose value is shown as the default.
        name: of the field.
        section: heading under which it stands.
        prefix: put before the option's name.
        negatable: whether a flag has a ``--no-`` form too.
        metavar: what the help calls the value.
    """
    hint = get_type_hints(type(options))[name]
    flag = "--" + (prefix + name).replace("_", "-")
    if hint is bool and negatable:
        flag = f"{flag}/--no-{flag[2:]}"
    shown = _shown(getattr(options, name), "," if ... in get_args(hint) else " ")
    text = summary_of(type(options), name) + (f"  [default: {shown}]" if shown else "")
    attributes = {"is_flag": True} if hint is bool else _kind(hint)
    attributes |= {"section": section, "help": text, "metavar": metavar}
    return click.option(flag, default=None, cls=SectionedOption, **attributes)


def _kind(hint: Any) -> dict[str, Any]:
    if type(None) in get_args(hint):  # of the fields that may be None all are files
        return {"type": click.Path(path_type=Path, dir_okay=False)}
    if get_origin(hint) is Literal:
        return {"type": click.Choice(get_args(hint))}
    if get_origin(hint) is tuple:
        item, *rest = get_args(hint)
        return {"type": _ListType(item)} if rest == [...] else {"type": item, "nargs": 1 + len(rest)}
    return {"type": _LabelsType()} if hint is Labels else {"type": hint}


def _shown(value: Any, between: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, tuple):
        return between.join(_shown(item, between) for item in value)
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def summary_of(options: type, name: str) -> str:
    """The docstring behind a field, without its markup, in one line."""
    if options not in _SUMMARIES:
        _SUMMARIES[options] = _summaries(options)
    return _SUMMARIES[options].get(name, "")


_SUMMARIES: dict[type, dict[str, str]] = {}


def _summaries(options: type) -> dict[str, str]:
    body = ast.parse(dedent(inspect.getsource(options))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text.value.value).replace("``", "").split())
    return {field.name: found[field.name] for field in fields(options) if field.name in found}


Parser = Callable[[click.Context, click.Parameter, Any], Any]

ENGINES = ["auto", "torch", "inductor", "openvino"]
PRECISIONS = ["auto", "fp32", "fp16", "bf16", "int8"]


def auto_or(least: int) -> Parser:
    """For options that are ``auto``, which becomes None, or a whole number from ``least`` up."""

    def parse(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
        if value == "auto":
            return None
        if not (value.isascii() and value.isdigit()) or int(value) < least:
            raise click.BadParameter(f"{value!r} is neither auto nor a whole number from {least} up.")
        return int(value)

    return parse


def parse_time(ctx: click.Context, param: click.Parameter, value: str | None) -> Fraction | None:
    """``90.5``, ``1:30.5`` or ``0:01:30.5`` -> seconds, exactly."""
    if value is None:
        return None
    if not re.fullmatch(r"(\d{1,9}:)?(\d{1,9}:)?\d{1,9}(\.\d{0,9})?", value, re.ASCII):
        raise click.BadParameter(f"{value!r} is no time: write 90.5, 1:30.5 or 0:01:30.5.")
    seconds = Fraction(0)
    for part in value.split(":"):
        seconds = seconds * 60 + Fraction(part)
    return seconds


def parse_size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """``1920x1080`` -> (1920, 1080)."""
    if value is None:
        return None
    if not (found := re.fullmatch(r"(\d{1,6})x(\d{1,6})", value, re.ASCII)):
        raise click.BadParameter(f"{value!r} is no size: write 1920x1080.")
    return int(found[1]), int(found[2])


def parse_rate(ctx: click.Context, param: click.Parameter, value: str) -> Fraction:
    """``25``, ``29.97`` or ``30000/1001`` -> frames a second."""
    try:
        if len(value) > 20 or "e" in value.lower():
            raise ValueError(value)
        return Fraction(value)
    except (ValueError, ZeroDivisionError) as exc:
        raise click.BadParameter(f"{value!r} is no rate: write 25 or 30000/1001.") from exc


def parse_pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """``KEY=VALUE`` of each use -> a dict."""
    pairs = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{text!r} is not of the form KEY=VALUE.")
        pairs[key] = value
    return pairs
