"""Everything that a user of vsr can meet, as one tree.

::

    VsrError                     exit code 1
    ├── UsageError               exit code 2: the words of the command contradict each other or name nothing
    │   ├── UnknownModelError    no model of that name, and no file either
    │   └── UnsupportedError     an engine or a precision that this machine or this model does not have
    ├── InputError               a file that was named as input is missing, unreadable, or holds no video
    ├── OutputError              the output exists already, or cannot be written
    ├── WeightsError             a weights file is damaged, of another kind, or refused
    ├── FFmpegError              the ffmpeg program is missing or failed
    ├── TrainingDataError        the training pictures cannot be used
    ├── TrainingError            a training run has diverged
    └── CheckpointError          a training run cannot be continued

Each message says what happened, with which file, and what to do next. A mistake of a caller in Python is a
``ValueError`` or ``TypeError`` instead.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints


class VsrError(Exception):
    """Base of all errors that vsr raises for its users."""

    exit_code = 1


class UsageError(VsrError):
    """The request contradicts itself or names something that does not exist."""

    exit_code = 2


class UnknownModelError(UsageError):
    """No shipped model and no file has that name."""


class UnsupportedError(UsageError):
    """An engine or a precision that this machine or this model does not have."""


class InputError(VsrError):
    """An input file is missing, unreadable, damaged, or not of the kind asked for."""


class OutputError(VsrError):
    """The output exists already or cannot be written."""


class WeightsError(VsrError):
    """A weights file cannot be used."""


class FFmpegError(VsrError):
    """The ffmpeg program is missing or failed."""


class TrainingDataError(VsrError):
    """The training pictures cannot be used."""


class TrainingError(VsrError):
    """A training run has diverged."""


class CheckpointError(VsrError):
    """A training run cannot be continued."""


def unknown_choices(options: Any) -> list[str]:
    """A sentence for each field of a dataclass that is a ``Literal`` and holds none of its values."""
    hints = get_type_hints(type(options))
    choices = {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}
    return [
        f"{name} is one of {', '.join(map(str, known))}, got {getattr(options, name)!r}"
        for name, known in choices.items()
        if getattr(options, name) not in known
    ]
