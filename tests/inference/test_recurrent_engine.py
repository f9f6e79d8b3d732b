"""A recurrent generator in the engine: the same frames by every runtime, precision and tile size."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from vsr.imaging.motion import Motion, estimate_motion
from vsr.inference.engine import Engine, FrameSequence
from vsr.inference.openvino_backend import calibrate
from vsr.networks.recurrent import RecurrentGenerator

Codes = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def network() -> RecurrentGenerator:
    """A network whose results depend on the state by several codes."""
    torch.manual_seed(0)
    made = RecurrentGenerator(scale=4, blocks=1, channels=8, aligned=True)
    torch.nn.init.normal_(made.tail.weight, std=0.05)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def clip() -> Codes:
    """(6, 44, 60, 3): a window that moves over soft noise by a pixel and two a frame."""
    noise = np.random.default_rng(0).random((80, 100, 3), np.float32)
    ground = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)  # type: ignore[call-overload]
    return np.stack([ground[at : at + 44, 2 * at : 2 * at + 60] for at in range(6)])


def engine_of(network: RecurrentGenerator, **options: Any) -> Engine:
    return Engine(deepcopy(network), **{"device": "cpu", "runtime": "torch"} | options)


def apart(found: Codes, expected: Codes) -> int:
    return int(np.abs(found.astype(int) - expected).max())


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        ({"runtime": "openvino"}, 1),  # what lies halfway between two codes
        ({"precision": "bf16"}, 2),
        ({"tile_size": 36, "overlap": 32}, 1),
        ({"runtime": "openvino", "tile_size": 36, "overlap": 32}, 1),
    ],
)
def test_all_ways_have_the_same_result(
    network: RecurrentGenerator, clip: Codes, options: dict[str, Any], codes: int
) -> None:
    assert apart(engine_of(network, **options).upscale(clip), engine_of(network).upscale(clip)) <= codes


def test_int8_is_close_and_keeps_its_state(network: RecurrentGenerator, clip: Codes) -> None:
    pictures = [torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255 for frame in clip[:2]]
    engine = engine_of(network, runtime="auto", precision="int8", calibration=calibrate(network, pictures))
    found = engine.upscale(clip)
    assert apart(found, engine_of(network).upscale(clip)) <= 3
    engine.reset()
    assert apart(engine.upscale(clip[3:]), found[3:]) > 0, "the frames before count"


def test_frames_can_be_split_over_calls(network: RecurrentGenerator, clip: Codes) -> None:
    engine = engine_of(network)
    whole = engine.upscale(clip)
    engine.reset()
    parts = [engine.upscale(clip[at : at + 2]) for at in (0, 2, 4)]
    assert np.array_equal(np.concatenate(parts), whole)
    followed = engine.upscale(clip[4:5])
    engine.reset()
    assert apart(engine.upscale(clip[4:5]), followed) > 0, "the frames before count until a reset"


def test_a_picture_is_upscaled_by_itself(network: RecurrentGenerator, clip: Codes) -> None:
    engine = engine_of(network)
    whole = engine.upscale(clip)
    engine.reset()
    first = engine.upscale(clip[:3])
    assert np.array_equal(engine.upscale(clip[0]), whole[0])
    assert np.array_equal(np.concatenate([first, engine.upscale(clip[3:])]), whole), "and is not remembered"


def test_an_equal_frame_repeats_the_result_and_leaves_the_state(network: RecurrentGenerator, clip: Codes) -> None:
    engine = engine_of(network)
    whole = engine.upscale(clip)
    engine.reset()
    repeated = engine.upscale(clip[[0, 1, 1, 1, 2, 3]])
    assert np.array_equal(repeated, whole[[0, 1, 1, 1, 2, 3]])


def test_another_size_begins_a_new_clip(network: RecurrentGenerator, clip: Codes) -> None:
    engine = engine_of(network)
    expected = engine.upscale(clip[:, :40])
    engine.upscale(clip)
    assert np.array_equal(engine.upscale(clip[:, :40]), expected)


def test_a_cut_resets_the_state(network: RecurrentGenerator, clip: Codes) -> None:
    other = 255 - clip[:3, ::-1, ::-1]
    engine = engine_of(network)
    fresh = engine.upscale(other)
    engine.reset()
    assert np.array_equal(engine.upscale(np.concatenate([clip[:3], other]))[3:], fresh)


def test_alignment_follows_the_motion(network: RecurrentGenerator, clip: Codes) -> None:
    unaligned = RecurrentGenerator(**network.config | {"aligned": False})
    unaligned.load_state_dict(network.state_dict())
    assert apart(engine_of(unaligned).upscale(clip), engine_of(network).upscale(clip)) > 1
    still = clip[[0, 0]]
    still[1, 5, 5] ^= 1  # not equal, and yet nothing moves
    assert apart(engine_of(unaligned).upscale(still), engine_of(network).upscale(still)) <= 1


def test_overflowed_frames_are_computed_again_with_their_state(
    network: RecurrentGenerator, clip: Codes, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(network, precision="bf16")
    step, calls = engine._runtime.step, 0

    def overflow(lr: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        sr, following = step(lr, state)
        if calls == 3:
            following[0, 0, 0, 0] = torch.inf
        return sr, following

    engine._runtime.step = overflow  # type: ignore[method-assign]
    found = engine.upscale(clip)
    assert engine.overflowed == 1 and "some frames overflow in half precision" in caplog.text
    assert apart(found, engine_of(network).upscale(clip)) <= 2


def test_a_frame_wise_network_is_steadied(tiny_generator: Callable[..., torch.nn.Module], clip: Codes) -> None:
    engine = Engine(tiny_generator(), device="cpu", runtime="torch")
    still = clip[[0, 0]]
    still[1, ::2, ::2] ^= 1  # codes that flicker by one
    frames = [torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255 for frame in still]
    motion = estimate_motion(still[0], still[1])

    def change(steadied: bool, motion: Motion | None) -> float:
        sequence = FrameSequence(engine, steadied=steadied)
        first, second = sequence.step(frames[0], [None]), sequence.step(frames[1], [motion])
        assert torch.equal(first, engine(frames[0]))
        return float((second - first).abs().mean())

    assert change(True, motion) < 0.5 * change(False, motion)
    assert change(True, None) == change(False, None), "there is no motion to follow at a beginning"


@pytest.mark.parametrize("steadied", [False, True])
def test_several_frames_at_a_time(
    steadied: bool, network: RecurrentGenerator, tiny_generator: Callable[..., torch.nn.Module], clip: Codes
) -> None:
    engine = Engine(tiny_generator(), device="cpu", runtime="torch") if steadied else engine_of(network)
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255
    motions = [None, *(estimate_motion(*pair) for pair in itertools.pairwise(clip))]
    one, several = FrameSequence(engine, steadied=steadied), FrameSequence(engine, steadied=steadied)
    expected = torch.cat([one.step(frame[None], [motion]) for frame, motion in zip(frames, motions, strict=True)])
    found = torch.cat([several.step(frames[part], motions[part]) for part in (slice(0, 1), slice(1, 4), slice(4, 6))])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
