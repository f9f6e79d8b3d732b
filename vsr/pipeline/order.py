"""What a worker has to know to upscale any segment of a clip, wherever it runs."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from vsr.inference.engine import Engine, load_model
from vsr.inference.runtimes import Precision, RuntimeName
from vsr.media import animation
from vsr.media.clip import ClipInfo
from vsr.media.pictures import read_pictures
from vsr.media.reader import Damage, Frame, read_frames
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.outputs import Output
from vsr.pipeline.plan import Conversion
from vsr.pipeline.segments import Segment


@dataclass(frozen=True)
class EngineSpec:
    """How to build the engine: the arguments of ``load_model``."""

    model: str
    scale: float | None
    device: str
    engine: RuntimeName
    precision: Precision
    tile_size: int | None
    detail: float
    sharing: int = 1

    def load(self) -> Engine:
        """The engine, on its device."""
        engine = load_model(
            self.model, scale=self.scale, device=self.device, engine=self.engine, precision=self.precision,
            tile_size=self.tile_size, detail=self.detail, sharing=self.sharing,
        )  # fmt: skip
        engine.record()
        return engine


class EngineKeeper:
    """Loads engines and keeps the last one, so that the clips of one command share it."""

    def __init__(self) -> None:
        self._kept: tuple[EngineSpec, Engine] | None = None

    def load(self, spec: EngineSpec) -> Engine:
        """The engine that is kept, if it was built by the same arguments; else a new one in its place."""
        if self._kept is None or self._kept[0] != spec:
            self._kept = None  # first, as its memory may be needed
            self._kept = spec, spec.load()
        return self._kept[1]

    def forget(self) -> None:
        """Keep none, as what this clip has made of it is nothing for another."""
        self._kept = None


@dataclass(frozen=True)
class Order:
    """One clip's work. It can be pickled.

    Attributes:
        clip: the source.
        options: what was chosen.
        output: planned already; its ``writer`` takes the frames of a segment.
        conversion: layouts, colours and sizes of both ends.
        engine: what upscales.
        batch_size: frames at once.
        threads: of the encoder.
        steadied: whether the frames of a frame-wise generator are steadied.
        in_order: whether a frame's result depends on the frames before it.
    """

    clip: ClipInfo
    options: UpscaleOptions
    output: Output
    conversion: Conversion
    engine: EngineSpec
    batch_size: int
    threads: int
    steadied: bool = False
    in_order: bool = False

    def frames(self, segment: Segment, damage: Damage) -> Generator[Frame, None, None]:
        """The decoded frames of a segment, those of its warm-up first; what is wrong with its own is counted."""
        clip, part = self.clip, {"start": segment.first, "end": segment.end}
        if clip.format == animation.FORMAT:
            return animation.read_animation(clip, **part)
        if clip.pictures:
            return read_pictures(clip, max_pixels=self.options.max_pixels, **part)
        return read_frames(
            clip.path, clip.video, entry=segment.entry, deinterlace=self.options.deinterlace,
            max_pixels=self.options.max_pixels, damage=damage, damage_start=segment.start, **part,
        )  # fmt: skip
