"""One output on its way along the reference, and the scores that it leaves."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import cast

from torch import Tensor

from vsr.errors import InputError
from vsr.evaluation.clips import Clip, read_rgb
from vsr.evaluation.pairing import Pairing
from vsr.evaluation.steadiness import Luma, Transition, still_change, warping_error
from vsr.evaluation.video_scores import FrameScore
from vsr.evaluation.vmaf import DEPTHS, VmafScorer
from vsr.imaging.colour import ColourSpec, PixelLayout, rgb_to_planes
from vsr.imaging.metrics import luma, psnr_y, ssim_y
from vsr.media.pixels import Plane


class Shown:
    """A frame in the forms in which it is compared, each computed when it is first asked for.

    Args:
        rgb: (1, 3, H, W) float32, not clipped.
    """

    def __init__(self, rgb: Tensor) -> None:
        self._rgb = rgb

    @cached_property
    def rgb(self) -> Tensor:
        """(1, 3, H, W) float32 as a display shows it, in [0, 1]."""
        return self._rgb.clamp(0, 1)

    @cached_property
    def luma(self) -> Luma:
        """MATLAB's Y."""
        return cast(Luma, luma(self.rgb)[0].numpy())

    def coded_luma(self, matrix: str, bit_depth: int) -> Plane:
        """(H, W) luma of limited range: that of the file itself, where the file has this matrix, range and depth."""
        layout, colour = PixelLayout("grey", bit_depth), ColourSpec(matrix=matrix, full_range=False)
        return cast(Plane, rgb_to_planes(self._rgb, layout, colour)[0][0].numpy())


@dataclass(frozen=True)
class Step:
    """A frame of the reference, and how it came out of the last one.

    Attributes:
        number: of the frame, from 0.
        seconds: its time.
        shown: the frame.
        transition: from the last frame; None of the first, or where steadiness is not measured.
        warping_error: of the reference, None where it cannot be told.
        still_change: of the reference.
        bicubic_still_change: of the enlarged LR clip.
    """

    number: int
    seconds: float
    shown: Shown
    transition: Transition | None = None
    warping_error: float | None = None
    still_change: float | None = None
    bicubic_still_change: float | None = None


class Track:
    """An output that is read along the reference. Use as a context manager: leaving it closes the clip and ends VMAF.

    Args:
        reference: the clip to compare with.
        clip: the output.
        pairing: of the two.
        num_frames: of the reference.
        border: pixels that PSNR and SSIM leave out at each side.
        vmaf_model: of libvmaf; None: VMAF is not measured.
    """

    def __init__(
        self, reference: Clip, clip: Clip, pairing: Pairing, num_frames: int, border: int, vmaf_model: str | None
    ) -> None:
        self._partner = dict(pairing.pairs)
        self._border = border
        self._matrix = reference.colour.matrix
        deepest = max(reference.layout.bit_depth, clip.layout.bit_depth)
        self._bit_depth = next(depth for depth in DEPTHS if depth >= deepest)
        self._scores: list[FrameScore] = []
        self._last: Luma | None = None
        self.vmaf_version = ""
        with ExitStack() as stack:
            self._frames = stack.enter_context(closing(read_paired(clip, pairing, num_frames)))
            self._vmaf: VmafScorer | None = None
            if vmaf_model is not None:
                scorer = VmafScorer(clip.video.width, clip.video.height, self._bit_depth, vmaf_model)
                self._vmaf = stack.enter_context(scorer)
            self._open = stack.pop_all()

    def take(self, step: Step) -> None:
        """Compare the frame that belongs to the reference's next one, if there is one.

        Raises:
            InputError: the clip is not what it was when its times were read.
            FFmpegError: VMAF failed.
        """
        rgb = next(self._frames)
        if rgb is None:
            self._last = None
            return
        shown = Shown(rgb)
        score = FrameScore(
            number=step.number,
            output_number=self._partner[step.number],
            seconds=step.seconds,
            psnr_y=psnr_y(shown.rgb, step.shown.rgb, border=self._border).item(),
            ssim_y=ssim_y(shown.rgb, step.shown.rgb, border=self._border).item(),
        )
        if self._vmaf is not None:
            frames = (frame.coded_luma(self._matrix, self._bit_depth) for frame in (step.shown, shown))
            self._vmaf.add(*frames)
        if step.transition is not None and self._last is not None:
            score = self._with_steadiness(score, self._last, shown.luma, step, step.transition)
        self._scores.append(score)
        self._last = shown.luma

    @staticmethod
    def _with_steadiness(
        score: FrameScore, earlier: Luma, later: Luma, step: Step, transition: Transition
    ) -> FrameScore:
        change = still_change(earlier, later, transition)
        return replace(
            score,
            warping_error=warping_error(earlier, later, transition),
            reference_warping_error=step.warping_error,
            still_pixels=int(transition.still.sum()) if change is not None else 0,
            still_change=change,
            reference_still_change=step.still_change,
            bicubic_still_change=step.bicubic_still_change,
        )

    def finish(self) -> tuple[FrameScore, ...]:
        """The scores of all frames that have a partner; call it once, behind the last frame.

        Raises:
            FFmpegError: VMAF failed.
        """
        if self._vmaf is None:
            return tuple(self._scores)
        values = self._vmaf.finish()
        self.vmaf_version = self._vmaf.version
        return tuple(replace(score, vmaf=value) for score, value in zip(self._scores, values, strict=True))

    def __enter__(self) -> Track:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def read_paired(clip: Clip, pairing: Pairing, num_frames: int) -> Generator[Tensor | None, None, None]:
    """For each of the reference's ``num_frames`` frames the clip's own one as RGB (1, 3, H, W); None without a partner.

    Raises:
        InputError: the clip has fewer frames than when its times were read.
    """
    partner = dict(pairing.pairs)
    at = -1
    with closing(read_rgb(clip)) as frames:
        for number in range(num_frames):
            wanted = partner.get(number)
            if wanted is None:
                yield None
                continue
            for rgb in frames:
                at += 1
                if at == wanted:
                    yield rgb
                    break
            else:
                raise InputError(f"{clip.path} has changed while it was compared; leave it alone and start again.")
