"""Pictures as callers hold them, NumPy arrays, torch tensors and PIL pictures, to tensors and back to the same kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

Picture = TypeVar("Picture", npt.NDArray[Any], Tensor, Image.Image)
"""What callers hold: an array (H, W, C) or (H, W), a tensor (C, H, W) or (H, W), or a PIL picture."""

PEAKS = {torch.uint8: 255.0, torch.uint16: 65535.0}
"""White in each dtype of whole numbers; white in a floating one is 1."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

PIL_MODES = ("L", "LA", "RGB", "RGBA", "I;16")
"""Modes of PIL that are kept."""

GREY_WEIGHTS = (0.299, 0.587, 0.114)
"""Of red, green and blue in grey: Rec. ITU-R BT.601, as PIL's."""


@dataclass(frozen=True, eq=False)
class Pixels(Generic[Picture]):
    """Pictures of one size, as a tensor of their own dtype.

    Attributes:
        values: (N, C, H, W) uint8, uint16 or floating, on the device of the tensor that was given; C is 1 for grey, 2
            for grey with alpha, 3 for RGB, 4 for RGB with alpha.
        wrap: makes the caller's kind, with the axes that it had, of values like these of any size.
    """

    values: Tensor
    wrap: Callable[[Tensor], Picture]

    def part(self, start: int, end: int) -> Pixels[Picture]:
        """Return some of the pictures."""
        return replace(self, values=self.values[start:end])

    def rgb(self, device: torch.device) -> Tensor:
        """Return (N, 3, H, W) float32 RGB, white at 1; grey in all three channels."""
        colours = self.values[:, : 1 if self.values.shape[1] < 3 else 3].to(device)
        return self._scaled(colours).expand(-1, 3, -1, -1)

    def alpha(self, device: torch.device) -> Tensor | None:
        """Return (N, 1, H, W) float32 in [0, 1]; None if there is none."""
        if self.values.shape[1] % 2:
            return None
        return self._scaled(self.values[:, -1:].to(device)).clamp(0, 1)

    def _scaled(self, values: Tensor) -> Tensor:
        return values.float() * (1 / PEAKS.get(self.values.dtype, 1.0))  # as ``colour.planes_to_rgb`` does

    def like(self, rgb: Tensor, alpha: Tensor | None) -> Tensor:
        """Return upscaled pictures as values: of the channels, the dtype and on the device of these.

        Args:
            rgb: (N, 3, h, w) float; clipped to [0, 1].
            alpha: (N, 1, h, w) float, or None.

        Returns:
            (N, C, h, w), rounded where the dtype is of whole numbers.
        """
        if self.values.shape[1] < 3:
            rgb = (rgb * rgb.new_tensor(GREY_WEIGHTS)[:, None, None]).sum(1, keepdim=True)
        whole = rgb if alpha is None else torch.cat([rgb, alpha.to(rgb)], 1)
        peak = PEAKS.get(self.values.dtype)
        if peak is not None:
            # In place of uint16, which not every device has, on the way.
            # Rounds as ``colour.rgb_to_planes`` does.
            codes = (whole * peak).add_(0.5).clamp_(0, peak).to(torch.uint8 if peak == 255 else torch.int32)
            return codes.to(self.values.device).to(self.values.dtype)
        return whole.clamp(0, 1).to(self.values)


def pixels_of(given: Picture, *, batches: bool = False) -> Pixels[Picture]:
    """Read a picture, or a batch of pictures.

    Args:
        given: a NumPy array (H, W, C) or (H, W), a torch tensor (C, H, W) or (H, W), each of uint8, uint16 or floats in
            [0, 1], or a PIL picture. C is 1 for grey, 2 for grey with alpha, 3 for RGB, 4 for RGB with alpha.
        batches: accept (N, H, W, C) and (N, C, H, W) too.

    Raises:
        TypeError: another kind, dtype, or mode of PIL.
        ValueError: another shape.
    """
    if isinstance(given, Image.Image):
        return _of_pil(given)
    if isinstance(given, np.ndarray):
        if given.dtype.kind not in "uf" or given.dtype.itemsize > 8 or given.dtype in (np.uint32, np.uint64):
            raise TypeError(f"expected uint8, uint16 or floats in [0, 1], got an array of {given.dtype}")
        # A copy, since torch warns of read-only arrays, which picture libraries often return.
        # Of this machine's byte order, the only one that torch knows.
        tensor = torch.from_numpy(np.array(given, given.dtype.newbyteorder("="), order="C"))
        pixels, dtype = _of_tensor(tensor, given.shape, batches, channels_last=True), given.dtype
        if dtype.isnative:
            return cast("Pixels[Picture]", pixels)
        return cast("Pixels[Picture]", replace(pixels, wrap=lambda values: pixels.wrap(values).astype(dtype)))
    if isinstance(given, Tensor):
        if given.dtype not in (*PEAKS, *FLOATS):
            raise TypeError(f"expected uint8, uint16 or floats in [0, 1], got a tensor of {given.dtype}")
        return cast("Pixels[Picture]", _of_tensor(given.detach(), tuple(given.shape), batches, channels_last=False))
    raise TypeError(f"expected a NumPy array, a torch tensor or a PIL picture, got {type(given).__name__}")


def _of_tensor(tensor: Tensor, shape: tuple[int, ...], batches: bool, *, channels_last: bool) -> Pixels[Any]:
    if tensor.ndim == 2:
        values = tensor[None, None]
    else:
        values = tensor.movedim(-1, -3) if channels_last and tensor.ndim > 2 else tensor
        values = values[None] if tensor.ndim == 3 else values
    if values.ndim != 4 or (tensor.ndim == 4 and not batches) or not 1 <= values.shape[1] <= 4 or 0 in values.shape:
        layout = "(H, W, C) or (H, W)" if channels_last else "(C, H, W) or (H, W)"
        more = (", or (N, H, W, C)" if channels_last else ", or (N, C, H, W)") * batches
        raise ValueError(f"expected a shape {layout}{more}, of 1 to 4 channels, got {shape}")

    def wrap(result: Tensor) -> Any:
        laid = result[0, 0] if len(shape) == 2 else result[0] if len(shape) == 3 else result
        laid = (laid.movedim(-3, -1) if channels_last and len(shape) > 2 else laid).contiguous()
        return laid.numpy() if channels_last else laid

    return Pixels(values, wrap)


def _of_pil(picture: Image.Image) -> Pixels[Image.Image]:
    """Read a PIL picture; one of a palette becomes RGB, or RGBA where the palette has alpha, and bilevel grey."""
    if picture.mode == "P":
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode not in PIL_MODES:
        raise TypeError(f"PIL pictures of mode {picture.mode} have to be converted to RGB or RGBA before")
    return Pixels(pixels_of(np.asarray(picture)).values, _to_pil)


def _to_pil(result: Tensor) -> Image.Image:
    values = result[0].permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
