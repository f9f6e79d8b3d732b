"""How steady a clip is over time: changes from frame to frame that are not in the scene.

Everything is measured along the *reference*: its motion, cuts and still regions are used for all outputs, so that an
output cannot influence its own score through the flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from vsr.imaging.motion import dense_flow, origins, visible_in_both

Luma = npt.NDArray[np.float32]
"""(H, W) luma in 8-bit code values, not rounded: 16..235, and fractions of a code where the clip has more bits."""

Mask = npt.NDArray[np.bool_]

VISIBLE_SLACK = 0.5
"""Square pixels by which forward and backward flow may always disagree."""

CUT_RESIDUAL = 8.0
"""Code values: at a cut, the mean difference of the warped previous frame from the next one is larger than this ..."""
CUT_VISIBLE = 0.65
"""... and a smaller share of the pixels than this is visible in both. In a trailer of 250 frames the five cuts had a
difference of 12 codes at least and a share of 0.52 at most; all other frames 4.4 at most and 0.73 at least."""

STILL_CHANGE = 3.0
"""Code values: in a still region, each pixel of the reference changes by less than this ..."""
STILL_REACH = 8
"""... and so do all pixels up to this distance from it: the reach of the bicubic kernel at x4."""


@dataclass(frozen=True)
class Transition:
    """The change between two consecutive frames of the reference.

    Attributes:
        columns: (H, W) float32, the column in the earlier frame that each pixel of the later one comes from.
        rows: (H, W) float32, the row in the earlier frame.
        visible: (H, W), pixels that both frames show.
        still: (H, W), pixels around which nothing changes.
        is_cut: whether the scene changes; then nothing is compared.
    """

    columns: npt.NDArray[np.float32]
    rows: npt.NDArray[np.float32]
    visible: Mask
    still: Mask
    is_cut: bool


def find_transition(earlier: Luma, later: Luma) -> Transition:
    """Estimate the motion between two frames of the reference.

    The flow is that of :func:`vsr.imaging.motion.dense_flow`. A pixel is visible where the two flows agree to half a
    square pixel.

    Args:
        earlier: (H, W), at least ``MIN_FLOW_SIZE`` along each edge.
        later: of the same shape.
    """
    codes = [np.ascontiguousarray(np.clip(np.rint(frame), 0, 255).astype(np.uint8)) for frame in (earlier, later)]
    forward, backward = dense_flow(*codes)
    columns, rows = origins(backward)
    visible = visible_in_both(forward, backward, VISIBLE_SLACK)
    residual = np.abs(_warp(earlier, columns, rows) - later)
    is_cut = bool(residual.mean() > CUT_RESIDUAL and visible.mean() < CUT_VISIBLE)
    return Transition(columns, rows, visible, _find_still(earlier, later), is_cut)


def _find_still(earlier: Luma, later: Luma) -> Mask:
    around = np.ones((2 * STILL_REACH + 1, 2 * STILL_REACH + 1), np.uint8)
    return np.asarray(cv2.dilate(np.abs(later - earlier), around) < STILL_CHANGE)


def _warp(frame: Luma, columns: npt.NDArray[np.float32], rows: npt.NDArray[np.float32]) -> Luma:
    # Cubic: linear interpolation blurs, which costs a sharp output more than a soft one.
    return cast(Luma, cv2.remap(frame, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))


def warping_error(earlier: Luma, later: Luma, transition: Transition) -> float | None:
    """Return the mean absolute difference of a frame from the previous one warped along the flow, in code values.

    Lai et al., "Learning blind video temporal consistency", 2018, https://arxiv.org/abs/1808.00449, but with the
    absolute difference of luma instead of the squared one of RGB, so that it reads as code values of flicker. It
    includes the errors of the flow, which are larger in sharp frames, so compare it with the error of the reference
    itself.

    Args:
        earlier: a clip's frame that is paired with the earlier frame of the reference.
        later: the clip's frame that is paired with the later one.
        transition: the change between the two frames of the reference.

    Returns:
        None at a cut, and if no pixel is visible in both frames.
    """
    if transition.is_cut or not transition.visible.any():
        return None
    difference = np.abs(_warp(earlier, transition.columns, transition.rows) - later)
    return float(difference[transition.visible].mean(dtype=np.float64))


def still_change(earlier: Luma, later: Luma, transition: Transition) -> float | None:
    """Return the mean absolute change of a clip's pixels where the reference is still, in code values.

    Returns:
        None at a cut, and if nothing is still.
    """
    if transition.is_cut or not transition.still.any():
        return None
    return float(np.abs(later - earlier)[transition.still].mean(dtype=np.float64))
