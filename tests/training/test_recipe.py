from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest

from vsr.errors import UsageError
from vsr.training.recipes import (
    LOSSES,
    RECIPES,
    STAGES,
    ClipDegradation,
    Labels,
    Recipe,
    Stage,
    VideoDegradation,
    override,
    parse_labels,
    with_total_steps,
)

PRETRAIN, ADVERSARIAL = Stage(length=10, mse=1.0), Stage(length=5, mse=1.0, adversarial=1e-3)


def recipe(**values: Any) -> Recipe:
    return Recipe(**{"follows": "nobody", "pretrain": PRETRAIN, "adversarial": ADVERSARIAL, **values})


def refusal(**values: Any) -> str:
    with pytest.raises(UsageError) as caught:
        recipe(**values)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("0.9", Labels("fixed", 0.9)),
        ("1", Labels("fixed", 1.0)),
        ("uniform:0.7:1", Labels("uniform", 0.7, 1.0)),
        ("normal:0.1:0.05", Labels("normal", 0.1, 0.05)),
    ],
)
def test_labels_as_text_and_back(text: str, labels: Labels) -> None:
    assert parse_labels(text) == labels
    assert str(labels) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "labels are written 0.9, uniform:0.7:1 or normal:0.1:0.05, got ''"),
        ("soft", "labels are written 0.9, uniform:0.7:1 or normal:0.1:0.05, got 'soft'"),
        ("uniform:0.7", "labels are written 0.9, uniform:0.7:1 or normal:0.1:0.05, got 'uniform:0.7'"),
        ("uniform:0.7:1:1", "labels are written 0.9, uniform:0.7:1 or normal:0.1:0.05, got 'uniform:0.7:1:1'"),
        ("uniform:low:high", "labels are written 0.9, uniform:0.7:1 or normal:0.1:0.05, got 'uniform:low:high'"),
        ("odd:0.1:0.2", "labels are fixed, uniform or normal, got 'odd'"),
        ("1.5", "labels lie in [0, 1], got 1.5"),
        ("-0.1", "labels lie in [0, 1], got -0.1"),
        ("nan", "labels lie in [0, 1], got nan"),
        ("uniform:0.7:0.3", "labels lie in [0, 1], got uniform:0.7:0.3"),
        ("uniform:0.7:1.1", "labels lie in [0, 1], got uniform:0.7:1.1"),
        ("uniform:0.7:nan", "labels lie in [0, 1], got uniform:0.7:nan"),
        ("normal:1.1:0.1", "labels lie in [0, 1], got normal:1.1:0.1"),
        ("normal:0.5:-1", "a standard deviation is not negative, got normal:0.5:-1"),
        ("normal:0.5:inf", "a standard deviation is not negative, got normal:0.5:inf"),
    ],
)
def test_labels_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_labels(text)
    assert str(caught.value) == message


def test_what_a_recipe_starts_from() -> None:
    """Ledig et al. 2017, section 3.2: x4, sixteen blocks of 64 channels, sixteen crops of 96; labels of 1 and 0."""
    chosen = recipe()
    assert (chosen.scale, chosen.blocks, chosen.channels, chosen.batch_size, chosen.crop_size) == (4, 16, 64, 16, 96)
    assert (str(chosen.real_labels), str(chosen.fake_labels)) == ("1", "0")
    assert chosen.discriminator.length == 0 and chosen.unit == "steps"
    assert [chosen.stage(name) for name in STAGES] == [PRETRAIN, Stage(), ADVERSARIAL]
    assert all(getattr(Stage(), loss) == 0 for loss in LOSSES), "nothing is minimised unless it is said"


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"blocks": 0}, "blocks must be at least 1, got 0."),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0."),
        ({"crops_per_picture": 0}, "crops_per_picture must be at least 1, got 0."),
        ({"discriminator_channels": 0}, "discriminator_channels must be at least 1, got 0."),
        ({"channels": 2}, "channels must be at least 3, got 2."),
        ({"scale": 3}, "scale must be 2, 4 or 8, got 3."),
        ({"crop_size": 98}, "crop_size must be a multiple of 4, at least 16, got 98."),
        ({"crop_size": 12}, "crop_size must be a multiple of 4, at least 16, got 12."),
        ({"crop_size": -16}, "crop_size must be a multiple of 4, at least 16, got -16."),
        ({"scale": 8, "crop_size": 24}, "crop_size must be a multiple of 8, at least 32, got 24."),
        # VGG and the discriminator halve crops four times.
        ({"scale": 2, "crop_size": 14}, "crop_size must be a multiple of 2, at least 16, got 14."),
        ({"batch_size": 6, "crops_per_picture": 4}, "batch_size 6 is no multiple of crops_per_picture 4."),
        ({"ema_decay": 1.0}, "ema_decay must lie in [0, 1), got 1.0."),
        ({"ema_decay": -0.1}, "ema_decay must lie in [0, 1), got -0.1."),
        ({"ema_decay": NAN}, "ema_decay must lie in [0, 1), got nan."),
        ({"norm_momentum": 0.0}, "norm_momentum must lie in (0, 1], got 0.0."),
        ({"norm_momentum": 1.1}, "norm_momentum must lie in (0, 1], got 1.1."),
        ({"norm_momentum": NAN}, "norm_momentum must lie in (0, 1], got nan."),
        ({"betas": (0.9, 1.0)}, "betas must lie in [0, 1), got (0.9, 1.0)."),
        ({"betas": (-0.1, 0.9)}, "betas must lie in [0, 1), got (-0.1, 0.9)."),
        ({"gradient_clip": -1.0}, "gradient_clip must be finite and not negative, got -1.0."),
        ({"gradient_clip": INF}, "gradient_clip must be finite and not negative, got inf."),
        ({"upsampling": "deconv"}, "upsampling is one of shuffle, nearest, got 'deconv'."),
        ({"adversarial_form": "ragan"}, "adversarial_form is one of bce, relativistic, hinge, got 'ragan'."),
        ({"unit": "hours"}, "unit is one of steps, epochs, got 'hours'."),
        ({"pretrain": Stage(length=-1, mse=1.0)}, "pretrain: the length must not be negative, got -1."),
        (
            {"pretrain": Stage(length=1)},
            f"pretrain: a loss is needed, one of {', '.join(LOSSES)} with a weight above 0.",
        ),
        (
            {"adversarial": Stage(length=1)},
            f"adversarial: a loss is needed, one of {', '.join(LOSSES)} with a weight above 0.",
        ),
        ({"adversarial": Stage(mse=-1.0)}, "adversarial: weights of losses must be finite and not negative."),
        ({"adversarial": Stage(content=INF)}, "adversarial: weights of losses must be finite and not negative."),
        ({"adversarial": Stage(l1=NAN)}, "adversarial: weights of losses must be finite and not negative."),
        (
            {"pretrain": Stage(length=1, adversarial=0.1)},
            "pretrain: the adversarial loss belongs to the adversarial stage.",
        ),
        (
            {"discriminator": Stage(learning_rate=0.0)},
            "discriminator: learning_rate must be positive and finite, got 0.0.",
        ),
        (
            {"pretrain": Stage(mse=1.0, learning_rate=NAN)},
            "pretrain: learning_rate must be positive and finite, got nan.",
        ),
        (
            {"adversarial": Stage(learning_rate=INF)},
            "adversarial: learning_rate must be positive and finite, got inf.",
        ),
        (
            {"adversarial": Stage(milestones=(0.5, 1.5))},
            "adversarial: milestones are shares of the stage in [0, 1], got (0.5, 1.5).",
        ),
        (
            {"adversarial": Stage(schedule="linear")},  # type: ignore[arg-type]
            "adversarial: schedule is one of constant, multi-step, cosine, one-cycle, got 'linear'.",
        ),
    ],
    ids=str,
)
def test_each_contradiction(values: dict[str, Any], message: str) -> None:
    assert refusal(**values) == message


def test_all_contradictions_at_once() -> None:
    message = refusal(
        blocks=0, channels=1, scale=5, ema_decay=2.0, crop="left", pretrain=Stage(length=-1, learning_rate=0.0)
    )
    complaints = message.removesuffix(".").split("; ")
    firsts = [complaint.split(" ")[0] for complaint in complaints]
    assert firsts == ["crop", "blocks", "channels", "ema_decay", "scale", "pretrain:", "pretrain:", "pretrain:"]


@pytest.mark.parametrize(
    "values",
    [
        {"blocks": 1, "channels": 3, "batch_size": 1, "discriminator_channels": 1},
        {"scale": 2, "crop_size": 16},
        {"scale": 8, "crop_size": 32},
        {"ema_decay": 0.0, "norm_momentum": 1.0, "betas": (0.0, 0.0)},
        {"pretrain": Stage()},
        {"discriminator": Stage(length=1)},
        {"adversarial": Stage(length=1, adversarial=1.0)},
        {"adversarial": Stage(length=1, l1=1.0, milestones=())},
        {"adversarial": Stage(length=1, l1=1.0, milestones=(0.0, 1.0))},
    ],
    ids=str,
)
def test_the_extremes_that_are_allowed(values: dict[str, Any]) -> None:
    chosen = recipe(**values)
    assert {name: getattr(chosen, name) for name in values} == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"blur": (2.0, 1.0)}, "blur is a range of values from 0 up, got 2.0 to 1.0."),
        ({"noise": (-1.0, 1.0)}, "noise is a range of values from 0 up, got -1.0 to 1.0."),
        ({"noise": (0.0, INF)}, "noise is a range of values from 0 up, got 0.0 to inf."),
        ({"h264_crf": (30, 20)}, "h264_crf is a range within 0 to 51, got 30 to 20."),
        ({"h265_crf": (20, 52)}, "h265_crf is a range within 0 to 51, got 20 to 52."),
        ({"mpeg2_quantiser": (0, 3)}, "mpeg2_quantiser is a range within 1 to 31, got 0 to 3."),
        ({"codecs": ("h264", "av1")}, "codecs are of h264, h265, mpeg2, none, got av1."),
        ({"codecs": ()}, "codecs are of h264, h265, mpeg2, none, got none at all."),
        ({"reductions": ("lanczos",)}, "reductions are of area, bicubic, bilinear, got lanczos."),
        ({"chroma": ("yuv411p",)}, "chroma are of yuv420p, yuv422p, yuv444p, got yuv411p."),
        ({"clean": 1.1}, "clean is a share in [0, 1], got 1.1."),
        ({"still": NAN}, "still is a share in [0, 1], got nan."),
        ({"frames": 0}, "motion and context must not be negative, and at least one frame is needed."),
        ({"motion": -1.0}, "motion and context must not be negative, and at least one frame is needed."),
    ],
    ids=str,
)
def test_degradations_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        VideoDegradation(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clean": -0.1, "again": 2.0}, "clean is a share in [0, 1], got -0.1; again is a share in [0, 1], got 2.0."),
        ({"gaussian": NAN}, "gaussian is a share in [0, 1], got nan."),
        ({"sharpening": (2.0, 1.0)}, "sharpening is a range of values from 0 up, got 2.0 to 1.0."),
        ({"mpeg4_quantiser": (0, 4)}, "mpeg4_quantiser is a range within 1 to 31, got 0 to 4."),
        ({"keyframes": (0, 4)}, "keyframes is a range within 1 to 600, got 0 to 4."),
        ({"again_size": (0.1, 1.0)}, "again_size is a range within 0.25 to 4, got 0.1 to 1.0."),
        ({"worst_crf": 34}, "worst_crf lies between the ranges of h264_crf and h265_crf and 51, got 34."),
        ({"codecs": ("vp9",)}, "codecs are of flv, h264, h265, mpeg2, mpeg4, none, got vp9."),
        ({"chroma": ()}, "chroma are of yuv420p, yuv422p, yuv444p, got none at all."),
        ({"lead": -1}, "context and lead must not be negative."),
    ],
    ids=str,
)
def test_degradations_of_clips_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        ClipDegradation(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"generator": "recurrent", "frames": 65}, "frames must lie in 1 to 64, got 65."),
        ({"real_motion": 1.5}, "real_motion is a share in [0, 1], got 1.5."),
    ],
    ids=str,
)
def test_clips_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        override(recipe(), **values)
    assert str(caught.value) == message


def test_override_reaches_every_part_and_leaves_the_rest() -> None:
    before = recipe()
    after = override(
        before,
        batch_size=8,
        pretrain_length=1000,
        discriminator_length=7,
        adversarial_content=0.5,
        adversarial_content_layer="conv3_4",
        video_noise=(0.0, 3.0),
        clip_noise=(0.0, 2.0),
        # Names of the recipe's own that begin like a part's.
        discriminator_channels=4,
        discriminator_head="pooled",
        adversarial_form="hinge",
    )
    expected = dataclasses.replace(
        before,
        batch_size=8,
        pretrain=Stage(length=1000, mse=1.0),
        discriminator=Stage(length=7),
        adversarial=Stage(length=5, mse=1.0, adversarial=1e-3, content=0.5, content_layer="conv3_4"),
        video=VideoDegradation(noise=(0.0, 3.0)),
        clip=ClipDegradation(noise=(0.0, 2.0)),
        discriminator_channels=4,
        discriminator_head="pooled",
        adversarial_form="hinge",
    )
    assert after == expected and before == recipe()
    assert override(before) == before


def test_override_refuses_what_is_not_there() -> None:
    with pytest.raises(TypeError, match="a recipe has no field 'steps'"):
        override(recipe(), steps=5)
    with pytest.raises(TypeError, match="nonsense"):
        override(recipe(), pretrain_nonsense=5)
    with pytest.raises(UsageError, match=r"^scale must be 2, 4 or 8, got 3\.$"):
        override(recipe(), scale=3)


def lengths(chosen: Recipe) -> list[int]:
    return [chosen.stage(name).length for name in STAGES]


@pytest.mark.parametrize(
    ("own", "steps", "expected"),
    [
        ((1_000_000, 0, 200_000), 6, [5, 0, 1]),
        ((1_000_000, 0, 200_000), 1200, [1000, 0, 200]),
        ((1_000_000, 0, 200_000), 2, [1, 0, 1]),
        ((0, 0, 1000), 7, [0, 0, 7]),
        ((1, 1, 5), 3, [1, 1, 1]),
        ((1, 1, 5), 14, [2, 2, 10]),
        ((1, 1, 5), 70_000, [10_000, 10_000, 50_000]),
        ((3, 0, 240), 10, [1, 0, 9]),
    ],
)
def test_steps_are_shared_out_in_proportion(own: tuple[int, int, int], steps: int, expected: list[int]) -> None:
    values = {f"{name}_length": length for name, length in zip(STAGES, own, strict=True)}
    before = override(recipe(unit="epochs"), **values)
    after = with_total_steps(before, steps)
    assert lengths(after) == expected
    assert after.unit == "steps"
    assert override(after, unit="epochs", **values) == before, "nothing else changes"


def test_shares_are_whole_and_complete() -> None:
    for own in itertools.product((0, 1, 2, 5, 99, 100_000), repeat=3):
        present = sum(length > 0 for length in own)
        if not present:
            continue
        values = {f"{name}_length": length for name, length in zip(STAGES, own, strict=True)}
        before = override(recipe(), **values)
        for steps in (present, present + 1, 7, 10, 1001):
            shares = lengths(with_total_steps(before, steps))
            assert sum(shares) == steps
            assert all((share > 0) == (length > 0) for share, length in zip(shares, own, strict=True))


def test_one_stage_alone_takes_all_steps() -> None:
    after = with_total_steps(recipe(unit="epochs"), 9, "adversarial")
    assert (after.adversarial.length, after.unit) == (9, "steps")
    assert with_total_steps(recipe(), 9, "discriminator").discriminator.length == 9, (
        "one that the recipe leaves out, too"
    )


def test_steps_that_cannot_be_shared_out() -> None:
    with pytest.raises(UsageError, match=r"^steps must be at least 3, one for each stage, got 2\.$"):
        with_total_steps(RECIPES["vgg16-tv"], 2)
    with pytest.raises(UsageError, match="no stage has a length, so the steps cannot be divided"):
        with_total_steps(recipe(pretrain=Stage(), adversarial=Stage()), 5)
    with pytest.raises(UsageError, match="pretrain: a loss is needed"):
        with_total_steps(RECIPES["coco-200"], 5, "pretrain")
