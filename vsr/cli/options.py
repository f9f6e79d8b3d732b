"""Make command-line options from the fields of a dataclass, and parse their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from vsr.errors import did_you_mean
from vsr.networks import model_names
from vsr.options import Option, hints_of, option_of, parse_rate, parse_time
from vsr.training.recipes import Labels, parse_labels

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)


class ParsedType(click.ParamType):  # type: ignore[type-arg]  # generic in newer click alone
    """A type of option whose values are parsed by a function.

    Args:
        name: placeholder of the value in the help.
        parse: converts text to the value; raises ``ValueError`` with a sentence.
    """

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value) if isinstance(value, str) else value
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Choice(click.Choice):  # type: ignore[type-arg]
    """A choice that suggests one for a mistyped value."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        return super().get_invalid_choice_message(value, ctx).removesuffix(".") + did_you_mean(str(value), self.choices)


class ModelType(click.ParamType):  # type: ignore[type-arg]
    """A model, by name or by file; shells complete names of models and families first, then files."""

    name = "model"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        families, shipped = model_names()
        names = [name for name in (*families, *shipped) if name.startswith(incomplete)]
        return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


class SectionedOption(click.Option):
    """An option that the help lists under the heading ``section``."""

    def __init__(self, *args: Any, section: str = "Options", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help lists the options by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def options_of(
    options: Any,
    *names: str,
    without: Collection[str] = (),
    section: str = "Options",
    prefix: str = "",
    negatable: bool = False,
    required: bool = True,
    types: Mapping[str, click.ParamType] | None = None,  # type: ignore[type-arg]
) -> Callable[[Command], Command]:
    """Return a decorator that adds an option to a command for each field of a dataclass; without a value it is None.

    Args:
        options: the dataclass, or an instance of it, whose values are shown as defaults.
        names: the fields; all of them if empty.
        without: fields to leave out.
        section: heading in the help of the options that declare none.
        prefix: start of the names of the options.
        negatable: whether flags that are off by default also have a ``--no-`` form.
        required: whether options of fields without a default are required.
        types: by field, the type of its option where the field's type does not determine it.
    """
    hints = hints_of(options)
    chosen = [each for each in fields(options) if each.name in (names or {each.name}) and each.name not in without]

    def add(command: Command) -> Command:
        for each in reversed(chosen):
            known, hint, default = option_of(each), hints[each.name], getattr(options, each.name, None)
            flag = known.name or "--" + (prefix + each.name).replace("_", "-")
            if hint is bool and (negatable or default is not False):
                flag = f"{flag}/--no-{flag[2:]}"
            kind = (types or {}).get(each.name) or _type_of(hint, known)
            needed = required and each.default is each.default_factory is MISSING
            command = click.option(
                *flag.split(", "),
                prefix + each.name,
                cls=SectionedOption,
                section=known.section or section,
                help=_help_text(known, default, separator="," if ... in get_args(hint) else " "),
                metavar=known.metavar or ("auto|N" if known.auto else None),
                **({"required": True} if needed else {"default": None}),
                **_click_attributes(hint, known, kind),
            )(command)
        return command

    return add


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the options that were given."""
    return {name: value for name, value in values.items() if value is not None}


def _click_attributes(hint: Any, known: Option, kind: click.ParamType) -> dict[str, Any]:  # type: ignore[type-arg]
    """Return the attributes of a click option: flag, type, number of values, repetition."""
    if hint is bool:
        return {"is_flag": True}
    if get_origin(hint) is Mapping:
        return {"type": PAIR, "multiple": True, "callback": lambda ctx, param, pairs: dict(pairs or ()) or None}
    if known.repeated:
        return {"type": kind, "multiple": True, "callback": lambda ctx, param, values: values or None}
    pair = get_origin(hint) is tuple and ... not in get_args(hint) and not isinstance(kind, ParsedType)
    return {"type": kind, "nargs": len(get_args(hint))} if pair else {"type": kind}


def _type_of(hint: Any, known: Option) -> Any:
    if known.auto:
        return ParsedType("auto|N", partial(parse_auto, int(known.at_least)))
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        if ... not in get_args(hint):
            return item
        if not known.repeated:
            return ParsedType("LIST", partial(parse_list, item))
        return Choice(known.choices) if known.choices else PATH if item is Path else item
    if get_origin(hint) is Literal:
        return Choice(get_args(hint))
    return {Labels: LABELS, Path: PATH}.get(hint, hint)


def _help_text(known: Option, default: Any, separator: str) -> str:
    text = known.default_text
    if text is None:
        text = ", ".join(_format(it, "x") for it in default or ()) if known.repeated else _format(default, separator)
    return f"{known.help}  [default: {text}]".lstrip() if text else known.help


def _format(value: Any, separator: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, tuple):
        return separator.join(_format(item, separator) for item in value)
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def parse_list(item: type, text: str) -> tuple[Any, ...]:
    """Parse ``1,2`` to (1, 2), each part converted by ``item``."""
    try:
        return tuple(item(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as exc:
        raise ValueError(f"{text!r} is not a list of {item.__name__}s separated by commas") from exc


def parse_auto(least: int, text: str) -> int | None:
    """Parse ``auto`` to None, or a whole number of at least ``least``."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise ValueError(f"{text!r} is neither auto nor a whole number from {least} up.")
    return int(text)


def parse_scale(text: str) -> float:
    """Parse ``4``, ``4x``, ``x4`` or ``1.5`` to a number."""
    number = text.strip().lower().removeprefix("x").removesuffix("x")
    try:
        return float(number)
    except ValueError as exc:
        raise ValueError(f"{text!r} is not a scale: write 4, 4x or 1.5.") from exc


HEIGHTS = {"4k": 2160, "uhd": 2160, "8k": 4320}
"""Heights that are known by a name."""


def parse_height(text: str) -> int:
    """Parse ``1080``, ``1080p`` or ``4k`` to a number of lines."""
    name = text.strip().lower()
    if name in HEIGHTS:
        return HEIGHTS[name]
    if not (found := re.fullmatch(r"(\d{1,6})p?", name, re.ASCII)):
        raise ValueError(f"{text!r} is not a height: write 1080, 1080p or 4k.")
    return int(found[1])


def parse_size(text: str) -> tuple[int, int]:
    """Parse ``1920x1080`` to (1920, 1080)."""
    if not (found := re.fullmatch(r"(\d{1,6})[xX×:*](\d{1,6})", text.strip(), re.ASCII)):
        raise ValueError(f"{text!r} is not a size: write 1920x1080.")
    return int(found[1]), int(found[2])


def parse_pair(text: str) -> tuple[str, str]:
    """Parse ``KEY=VALUE`` to (KEY, VALUE)."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"{text!r} is not of the form KEY=VALUE.")
    return key, value


LABELS = ParsedType("LABELS", parse_labels)
TIME = ParsedType("T", parse_time)
SIZE = ParsedType("WxH", parse_size)
SCALE = ParsedType("N", parse_scale)
HEIGHT = ParsedType("N", parse_height)
RATE = ParsedType("N", parse_rate)
PAIR = ParsedType("KEY=VALUE", parse_pair)
MODEL = ModelType()
