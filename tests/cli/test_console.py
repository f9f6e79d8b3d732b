from __future__ import annotations

import logging

import pytest

from vsr.cli.terminal import start_logging


@pytest.mark.parametrize(("verbose", "times"), [(0, 1), (1, 3)])
def test_the_reader_says_a_sentence_once(verbose: int, times: int, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(verbose, quiet=False)
    for name in ("a.mp4", "a.mp4", "b.mp4", "a.mp4"):
        logging.getLogger("vsr.media.reader").warning("%s: what a pity", name)
        logging.getLogger("vsr.pipeline.plan").warning("an event")
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "a.mp4" in line] == ["warning: a.mp4: what a pity"] * times
    assert said.count("warning: b.mp4: what a pity") == 1 and said.count("warning: an event") == 4
