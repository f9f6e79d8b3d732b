"""Words of the command line -> values; what they cannot be is said at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import click

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
