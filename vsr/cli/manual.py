"""Manual pages of the commands, made from their help: ``python -m vsr.cli.manual FOLDER``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

import vsr
from vsr.cli import main
from vsr.cli.terminal import echo, echo_error
from vsr.errors import VsrError
from vsr.files import write_whole

EXIT_STATUS = (
    ("0", "All is done."),
    ("1", "Something failed; an error on stderr names it."),
    ("2", "The command is used wrongly."),
    ("130", "It was interrupted."),
)


class ManualFormatter(click.HelpFormatter):
    """Formats the help of a command as a page for man(1), in the macros of man(7)."""

    def __init__(self, name: str, line: str) -> None:
        super().__init__(width=10**6)  # lines are filled by man
        title = _escaped(name.upper())
        self.write(f'.TH "{title}" 1 "" "vsr {vsr.__version__}" "vsr manual"\n')
        self.write(f".SH NAME\n{_escaped(name)} \\- {_escaped(line.rstrip('.'))}\n")
        self._is_described = False

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        self.write(f".SH SYNOPSIS\n\\fB{_escaped(prog)}\\fR {_escaped(args)}\n")

    def write_heading(self, heading: str) -> None:
        self.write(f".SH {_escaped(heading.upper())}\n")

    def write_paragraph(self) -> None:
        """Write nothing: headings and paragraphs begin with macros."""

    def write_text(self, text: str) -> None:
        if not self._is_described:
            self.write_heading("Description")
            self._is_described = True
        for paragraph in text.split("\n\n"):
            if paragraph.startswith("\b\n"):  # click's mark of lines to keep
                self.write(f".PP\n.nf\n{_escaped(paragraph[2:])}\n.fi\n")
            else:
                self.write(f".PP\n{_escaped(' '.join(paragraph.split()))}\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        for term, definition in rows:
            words = [_emphasised(word, is_first=not at) for at, word in enumerate(term.split(" "))]
            self.write(f".TP\n{' '.join(words)}\n{_escaped(' '.join(definition.split()))}\n")


def _escaped(text: str) -> str:
    """Return text that troff shows as it is, also where a line begins with a dot."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return re.sub(r"(?m)^\.", r"\\&.", text)


def _emphasised(word: str, *, is_first: bool) -> str:
    """Return a word in bold if it is typed as it stands, else in italics."""
    return f"\\f{'B' if is_first or word.startswith(('-', '/')) else 'I'}{_escaped(word)}\\fR"


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the source of a page for each command: ``vsr-models-show.1``."""
    yield from _pages(click.Context(main, info_name="vsr", **main.context_settings))


def _pages(context: click.Context) -> Iterator[tuple[str, str]]:
    command, name = context.command, context.command_path.replace(" ", "-")
    formatter = ManualFormatter(name, command.get_short_help_str(limit=200))
    command.format_help(context, formatter)
    if context.parent is None:
        with formatter.section("Exit status"):
            formatter.write_dl(EXIT_STATUS)
    inner = {name: found for name, found in getattr(command, "commands", {}).items() if not found.hidden}
    above = [context.parent.command_path] if context.parent else []
    others = [*above, *(f"{context.command_path} {at}" for at in inner)]
    formatter.write_heading("See also")
    formatter.write(", ".join(f"\\fB{_escaped(other.replace(' ', '-'))}\\fR(1)" for other in others) + "\n")
    yield f"{name}.1", formatter.getvalue()
    for inner_name, found in inner.items():
        yield from _pages(click.Context(found, info_name=inner_name, parent=context))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def write_pages(folder: Path) -> None:
    """Write the manual pages of vsr into FOLDER, such as ~/.local/share/man/man1."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in pages():
            write_whole(folder / name, source.encode())
            echo(str(folder / name))
    except (VsrError, OSError) as exc:
        echo_error(f"the manual is not written: {exc}")
        raise SystemExit(1) from exc


if __name__ == "__main__":
    write_pages()
