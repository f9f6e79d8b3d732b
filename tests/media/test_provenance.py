"""The text in an output's metadata: written, read back, and told apart from other comments."""

from fractions import Fraction

import pytest

from vsr.media.provenance import Provenance


@pytest.mark.parametrize(
    "made",
    [
        Provenance("0.1.0", "video-x4", 1, 4),
        Provenance("0.1.0", "srgan-x4", 0.5, 1.5, start=Fraction("62.5")),
        Provenance("1.2", "my model.v2".replace(" ", "_"), 0, 2, Fraction(1, 3), Fraction("70.25")),
    ],
)
def test_text_is_read_back_exactly(made: Provenance) -> None:
    assert Provenance.parse(str(made)) == made


def test_punctuation_of_a_models_name_does_not_break_the_text() -> None:
    parsed = Provenance.parse(str(Provenance("0.1.0", "a, (b)", 1, 4)))
    assert parsed is not None and parsed.model == "a___b_"


@pytest.mark.parametrize("text", ["", "holiday", "made by vsr 0.1.0 (model)", "made by vsr 1 (start 1/0, model m)"])
def test_other_comments_are_none(text: str) -> None:
    assert Provenance.parse(text) is None
