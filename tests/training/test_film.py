"""Clips made of pictures: never beyond their edges, equally sharp in all frames, moving like a camera."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from textures import moving, shift_between

from vsr.imaging.pictures import Picture
from vsr.training import clips as film_module
from vsr.training.clips import film

SEEDS = range(24)


def texture(height: int = 160, width: int = 200, grain: float = 1.0) -> Picture:
    picture: Picture = moving(height, width, 1, grain)[0]
    return picture


def filmed(picture: Picture, seed: int, *, frames: int = 6, size: int = 48, layer: Picture | None = None) -> np.ndarray:
    return film(picture, frames, size, lambda random: picture if layer is None else layer, np.random.default_rng(seed))


@pytest.fixture
def no_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_module, "LAYERED", 0.0)
    monkeypatch.setattr(film_module, "TRIPOD", 0.0)
    monkeypatch.setattr(film_module, "STILL", 0.0)


@pytest.mark.parametrize("shape", [(160, 200), (60, 300), (40, 40)], ids=["large", "flat", "smaller than the window"])
def test_no_pixel_comes_from_beyond_a_picture(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_module, "PLAIN", 0.0)
    white, grey = np.full((*shape, 3), 255, np.uint8), np.full((90, 90, 3), 255, np.uint8)
    for seed in SEEDS:
        clip = filmed(white, seed, layer=grey)
        assert clip.shape == (6, 48, 48, 3) and clip.dtype == np.uint8
        assert clip.min() >= 254


def test_a_window_stays_inside_where_there_is_room(no_layers: None) -> None:
    framed = np.zeros((400, 400, 3), np.uint8)
    framed[5:-5, 5:-5] = texture(390, 390) // 2 + 100
    mirrored = [filmed(framed, seed)[:, 8:-8, 8:-8].min() < 50 for seed in SEEDS]  # the frame, or less, is at the edge
    assert sum(mirrored) < 4


def test_frames_are_equally_sharp_at_any_subpixel_position(no_layers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_module, "BLURRED", 0.0)
    picture = cv2.resize(texture(400, 400, grain=0.8), (300, 300), interpolation=cv2.INTER_AREA)
    own = cv2.Laplacian(picture.astype(float), cv2.CV_64F).std()
    for seed in SEEDS:
        details = [cv2.Laplacian(frame.astype(float), cv2.CV_64F).std() for frame in filmed(picture, seed)]
        assert min(details) > 0.7 * own
        assert max(details) < 1.25 * min(details)


def test_a_quarter_of_the_clips_is_still_and_no_frame_jumps() -> None:
    picture = texture(300, 300, grain=3)
    still = 0
    for seed in range(60):
        clip = filmed(picture, seed).astype(float)
        steps = np.abs(np.diff(clip, axis=0)).mean((1, 2, 3))
        still += bool(steps.max() == 0)
        assert steps.max() < 80
    assert 6 <= still <= 26


def test_cameras_move_smoothly_in_each_direction(no_layers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FASTEST", 2.0), ("SHAKE", 0.0), ("TURN", 0.0), ("ZOOM", 0.0), ("BLURRED", 0.0)):
        monkeypatch.setattr(film_module, name, value)
    picture = texture(300, 300, grain=3)
    ways = []
    for seed in SEEDS:
        clip = filmed(picture, seed).astype(float)
        steps = np.array([shift_between(after, before) for before, after in zip(clip, clip[1:], strict=False)])
        assert np.abs(np.diff(steps, axis=0)).max() < 0.4
        ways.append(steps.mean(0))
    assert np.min(ways) < -0.4 and np.max(ways) > 0.4


def test_layers_move_independently_of_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_module, "PLAIN", 0.0)
    monkeypatch.setattr(film_module, "STILL", 0.0)
    monkeypatch.setattr(film_module, "TRIPOD", 1.0)
    ground, layer = np.full((200, 200, 3), 20, np.uint8), np.full((200, 200, 3), 220, np.uint8)
    moved, soft = 0, 0
    for seed in SEEDS:
        clip = filmed(ground, seed, layer=layer)[..., 0].astype(float)
        assert clip.min() >= 19 and clip.max() <= 221
        moved += bool(np.abs(np.diff(clip, axis=0)).max() > 20)
        soft += bool(((clip > 40) & (clip < 200)).any())
    assert moved > 0.6 * len(SEEDS) and soft > 0.8 * len(SEEDS)


def test_flat_layers_have_one_colour_that_is_often_saturated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_module, "TRIPOD", 1.0)
    monkeypatch.setattr(film_module, "MAX_LAYERS", 1)
    monkeypatch.setattr(film_module, "BLURRED", 0.0)
    monkeypatch.setattr(film_module, "PLAIN", 1.0)
    grey = np.full((160, 200, 3), 128, np.uint8)
    saturated = 0
    for seed in SEEDS:
        farthest = np.abs(filmed(grey, seed)[0].astype(int) - 128).max(-1)
        colours = np.unique(filmed(grey, seed)[0][farthest == farthest.max()], axis=0)
        assert len(colours) == 1, "an edge between it and the ground is a mixture of the two"
        saturated += {0, 255} <= set(colours[0].tolist())
    assert saturated >= len(SEEDS) // 6


def test_motion_blur_is_along_the_motion(no_layers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = texture(300, 300, grain=1)
    for name, value in (("SHAKE", 0.0), ("TURN", 0.0), ("ZOOM", 0.0), ("TILT", 0.0)):
        monkeypatch.setattr(film_module, name, value)
    monkeypatch.setattr(film_module, "_unit_vector", lambda angle: (1.0, 0.0))  # to the right
    losses = []
    for seed in SEEDS:
        details = []
        for blurred in (0.0, 1.0):
            monkeypatch.setattr(film_module, "BLURRED", blurred)
            clip = filmed(picture, seed).astype(float)
            details.append([np.abs(np.diff(clip, axis=axis)).mean() for axis in (1, 2)])
        losses.append(np.array(details[1]) / details[0])
    down, across = np.mean(losses, 0)
    assert across < 0.85 and across < down - 0.1


def test_clips_depend_on_the_random_numbers_alone() -> None:
    picture = texture()
    assert (filmed(picture, 3) == filmed(picture, 3)).all()
    assert (filmed(picture, 3) != filmed(picture, 4)).any()
    mirrored = np.ascontiguousarray(picture[:, ::-1])[:, ::-1]
    assert (filmed(picture, 3) == filmed(mirrored, 3)).all()  # a view is accepted
