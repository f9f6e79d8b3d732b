"""Motion between two LR frames, and trust in it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]
"""8-bit code values: (..., H, W, 3) RGB, or (H, W) luma."""
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

MIN_FLOW_SIZE = 16
"""Pixels along each edge to which a smaller frame is padded before its flow is computed."""

VISIBLE_SLACK = 0.25
"""Square LR pixels by which forward and backward flow may always disagree."""

STILL_GAIN, STILL_FLOW = 1.5, 0.25
"""Flow is set to zero if it reduces the residual by at most ``STILL_GAIN`` codes and is shorter than ``STILL_FLOW`` LR
pixels."""
STILL_RESIDUAL = 1.0
"""Code values: pixels that change by less are still, whatever their flow. The flow of flat regions is arbitrary."""

TAU_HIGH, TAU_LOW = 8.0, 2.5
"""Code values: the residual at which trust is 1/e, for detail that LR does not show and for detail that it does. At 12
instead of 8 flicker falls by an eighth, but thin letters in front of motion are smeared."""

CUT_RESIDUAL, CUT_VISIBLE = 12.0, 0.65
"""At a cut the mean residual is above ``CUT_RESIDUAL`` codes, and the share of visible pixels below ``CUT_VISIBLE``."""


@dataclass(frozen=True, eq=False)
class Motion:
    """The motion from the previous LR frame to the current one, and trust in it.

    Attributes:
        flow: (H, W, 2) float32 in LR pixels, x then y: pixel p of ``current`` was at p + flow[p] in ``previous``.
        trust_high: (H, W) float32 in [0, 1], for detail that LR does not show: it falls slowly with the residual.
        trust_low: the same for detail that LR shows: it falls fast with the residual.
        is_cut: whether the scene changes; then flow and trust are 0.
    """

    flow: Floats
    trust_high: Floats
    trust_low: Floats
    is_cut: bool

    @property
    def nbytes(self) -> int:
        """The size of the arrays in bytes."""
        return self.flow.nbytes + self.trust_high.nbytes + self.trust_low.nbytes


def estimate_motion(previous: Codes, current: Codes) -> Motion:
    """Estimate the motion between two LR frames.

    The result is the same bit for bit with any number of OpenCV threads.

    Args:
        previous: (H, W, 3) uint8 RGB of any size.
        current: the following frame, of the same shape.

    Raises:
        ValueError: the frames differ in shape, or are not uint8 RGB.
    """
    if previous.shape != current.shape or current.ndim != 3 or current.shape[2] != 3 or 0 in current.shape:
        raise ValueError(f"expected two frames (H, W, 3) of one size, got {previous.shape} and {current.shape}")
    if previous.dtype != np.uint8 or current.dtype != np.uint8:
        raise ValueError(f"expected frames of uint8, got {previous.dtype} and {current.dtype}")
    flow, visible = _masked_flow(previous, current)
    unmoved, moved = _residual(previous, current), _residual(_warp(previous, flow), current)
    short = (unmoved <= moved + STILL_GAIN) & (_square_length(flow) < STILL_FLOW**2)
    still = short | (unmoved <= moved) | (unmoved < STILL_RESIDUAL)
    flow[still] = 0
    residual = np.where(still, unmoved, moved)
    visible |= still
    if residual.mean(dtype=np.float64) > CUT_RESIDUAL and visible.mean() < CUT_VISIBLE:
        nothing = np.zeros_like(residual)
        return Motion(np.zeros_like(flow), nothing, nothing, is_cut=True)
    high, low = (_trust(residual, visible, tau) for tau in (TAU_HIGH, TAU_LOW))
    return Motion(flow, high, low, is_cut=False)


def dense_flow(earlier: Codes, later: Codes) -> tuple[Floats, Floats]:
    """Compute optical flow between two frames in both directions.

    Kroeger et al., "Fast optical flow using dense inverse search", 2016, https://arxiv.org/abs/1603.03590 (OpenCV's
    DIS), with the settings of its ``ULTRAFAST`` preset but at full resolution: on 720p about as fast as ``MEDIUM``,
    which stops at half resolution, and with a quarter less error.

    Args:
        earlier: (H, W) luma, at least ``MIN_FLOW_SIZE`` along each edge.
        later: the later frame, of the same shape.

    Returns:
        Two arrays (H, W, 2), x then y, in pixels: from ``earlier`` to ``later``, and back.
    """
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    dis.setFinestScale(0)
    no_guess = cast(Floats, None)  # the stubs do not allow None
    forward, backward = dis.calc(earlier, later, no_guess), dis.calc(later, earlier, no_guess)
    return cast(Floats, forward), cast(Floats, backward)


def visible_in_both(forward: Floats, backward: Floats, slack: float) -> Mask:
    """Return where the pixels of a later frame are also visible in the earlier one.

    Forward and backward flow agree there, ``|f + b|^2 <= 0.01 (|f|^2 + |b|^2) + slack`` (Sundaram et al. 2010, as in
    Lai et al. 2018), and the flow starts inside the frame.

    Args:
        forward: (H, W, 2) flow from the earlier frame to the later one.
        backward: (H, W, 2) flow from the later frame to the earlier one.
        slack: the constant of the formula, in square pixels.

    Returns:
        (H, W) bool, for the pixels of the later frame.
    """
    height, width = backward.shape[:2]
    columns, rows = origins(backward)
    returned = cast(Floats, cv2.remap(forward, columns, rows, cv2.INTER_LINEAR))
    missed = _square_length(returned + backward)
    length = _square_length(returned) + _square_length(backward)
    inside = (columns >= 0) & (rows >= 0) & (columns <= width - 1) & (rows <= height - 1)
    return cast(Mask, (missed <= 0.01 * length + slack) & inside)


def origins(flow: Floats) -> tuple[Floats, Floats]:
    """Return the columns and rows, (H, W) float32 each, of a later frame's pixels in the earlier frame.

    Args:
        flow: (H, W, 2), from the later frame to the earlier one.
    """
    height, width = flow.shape[:2]
    columns = flow[..., 0] + np.arange(width, dtype=np.float32)
    rows = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    return columns.astype(np.float32), rows.astype(np.float32)


def _square_length(flow: Floats) -> Floats:
    return cast(Floats, flow[..., 0] ** 2 + flow[..., 1] ** 2)


def _masked_flow(previous: Codes, current: Codes) -> tuple[Floats, Mask]:
    """Return the flow (H, W, 2) from ``current`` to ``previous``, and the mask (H, W) of ``visible_in_both``."""
    height, width = current.shape[:2]
    below, right = max(MIN_FLOW_SIZE - height, 0), max(MIN_FLOW_SIZE - width, 0)
    earlier, later = (
        cv2.copyMakeBorder(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 0, below, 0, right, cv2.BORDER_REPLICATE)
        for frame in (previous, current)
    )
    forward, backward = (flow[:height, :width] for flow in dense_flow(cast(Codes, earlier), cast(Codes, later)))
    return np.ascontiguousarray(backward), visible_in_both(np.ascontiguousarray(forward), backward, VISIBLE_SLACK)


def _warp(frame: Codes, flow: Floats) -> Codes:
    return cast(Codes, cv2.remap(frame, *origins(flow), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))


def _residual(expected: Codes, current: Codes) -> Floats:
    """Return the largest difference of the three colours, averaged over 3x3 pixels: (H, W) in code values."""
    red, green, blue = cv2.split(cv2.absdiff(expected, current))
    return _smooth(cv2.max(cv2.max(red, green), blue).astype(np.float32))


def _trust(residual: Floats, visible: Mask, tau: float) -> Floats:
    return _smooth(np.exp(-np.square(residual / np.float32(tau))) * visible)


def _smooth(image: Floats) -> Floats:
    return cast(Floats, cv2.blur(image, (3, 3), borderType=cv2.BORDER_REPLICATE))
