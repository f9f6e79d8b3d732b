"""The two kinds of output: a clip in a container, and pictures."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from vsr.errors import OutputError, UsageError
from vsr.files import MAX_SIDE, check_target, digest_of, publish_all, stamp_of
from vsr.media.clip import WHOLE, ClipInfo, Cut, Plane, has_alpha, layout_of
from vsr.media.ffmpeg import ffmpeg_program
from vsr.media.formats import CODECS, Codec, Container, Timing, container_of, holds
from vsr.media.mux import (
    LATE_SECONDS,
    Part,
    StreamPlan,
    assemble,
    assemble_sample,
    assemble_what_fits,
    check_assembled,
    cues_overlap,
    earliest_beginning,
    join,
    missing_metadata,
    plan_streams,
)
from vsr.media.pictures import (
    PictureWriter,
    existing,
    is_pattern,
    is_picture_name,
    numbered,
    picture_format,
    single_name_error,
    written_pictures,
)
from vsr.media.reader import Frame, decoded_format
from vsr.media.writer import Encoder, VideoFormat, check_encoder, codec_named, encoded_suffix, format_of
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.plan import Conversion, plan_video
from vsr.pipeline.segments import FinishedSegment

logger = logging.getLogger(__name__)


class FrameContext(AbstractContextManager["FrameContext"], Protocol):
    """What takes frames: an encoder, or a writer of pictures. Opened and closed by ``with``."""

    packets: list[Timing]
    """What was written, in the order of decoding."""

    def write(self, frame: Frame) -> None:
        """Write one frame, whose timestamp is greater than the last."""


class SegmentResult(NamedTuple):
    """A finished segment and the folder that its writer filled."""

    done: FinishedSegment
    folder: Path


class Publication(Protocol):
    """How far an output is on its way to its name; it outlives the process."""

    begun: Mapping[str, Any] | None
    """What an earlier run said that began to give the output its name; None: none did."""

    def begin(self, what: Mapping[str, Any]) -> None:
        """Remember that the output is about to get its name, and by what it can be told from another's file.

        Raises:
            VsrError: it must not, as the source is another by now.
        """


class Output(Protocol):
    """What a job has to know of the thing it makes."""

    streams: tuple[StreamPlan, ...]
    """What becomes of the source's other streams."""
    program: str
    """The ffmpeg program that assembles it, in words; empty where none does."""

    def check(self) -> None:
        """See to it that nothing stands where the output is to be; an ``OutputError`` says what does."""

    def plan(self, scale: float) -> Conversion:
        """What the frames become, with an engine of that scale; refuses what cannot be written."""

    def settings(self) -> dict[str, str]:
        """All of the plan that changes what the writer writes, in words."""

    def writer(self, folder: Path, threads: int) -> FrameContext:
        """Takes the frames of a segment, and keeps them in its folder; the threads are the encoder's."""

    def assemble_sample(self, folder: Path) -> None:
        """Try out what comes after the last frame, before the first; ``folder`` is for what is written for it."""

    def complete(self, folder: Path, segments: Sequence[SegmentResult], publication: Publication) -> list[str]:
        """The finished output under its name, from what the writers left; ``folder`` is for what lies between.

        On return it is on the disk, and so is its name.

        Returns:
            what of the source has been lost on the way, in words.
        """

    def is_published(self, begun: Mapping[str, Any]) -> bool:
        """Whether what stands under the output's name is what a run put there that said this when it began."""

    def published(self, begun: Mapping[str, Any], segment: int, name: str) -> Path | None:
        """Where a file that a writer left has moved to, if publishing has come so far."""


class ClipOutput:
    """A file with the upscaled video and the other streams of the source.

    Raises:
        UsageError: the container cannot hold the codec, or this build of libav has no such encoder.
        FFmpegError: there is no ffmpeg program.
    """

    def __init__(self, clip: ClipInfo, target: Path, options: UpscaleOptions) -> None:
        self.program = str(ffmpeg_program())  # needed last, missed first
        self._clip, self._target, self._container = clip, target, container_of(target)
        self._options = replace(options, codec=_codec_for(self._container, target, options))
        if self._container.muxer == "gif":  # a palette is made of whole pixels
            self._options = replace(self._options, pix_fmt="bgra" if has_alpha(clip.video.pix_fmt) else "bgr0")
        assert self._options.codec is not None
        self._codec = codec_named(self._options.codec)
        self._encoded = f"video{encoded_suffix(self._codec)}"
        self._video: VideoFormat | None = None
        plans = plan_streams(
            clip, self._container, audio=options.audio, subtitles=options.subtitles, cut=cut_of(clip, options)
        )
        self.streams = tuple(plans)
        for plan in self.streams:
            logger.log(logging.INFO if plan.is_kept else logging.WARNING, "%s: %s", clip.path.name, plan)

    def check(self) -> None:
        """As ``Output``."""
        check_target(self._target, overwrite=self._options.overwrite, inputs=(self._clip.path,))

    def plan(self, scale: float) -> Conversion:
        """As ``Output``; the encoder is tried out."""
        video, conversion = plan_video(
            self._clip, self._codec, self._options, scale, turns=self._container.turns, kept=self._kept_side_data()
        )
        if self._container.one_rate:
            logger.warning("%s: an AVI has one frame rate; frames at other times come at the next tick.", self._target)
            self._warn_of_late_picture()
        self._encoder_options = self._options.encoder_options(self._codec.preset_option)
        if self._container.one_rate:
            self._encoder_options.setdefault("bf", "0")  # its frames have no timestamps to be reordered by
        check_encoder(self._codec, self._encoder_options, video)
        self._video = video
        return conversion

    def _warn_of_late_picture(self) -> None:
        clip, cut = self._clip, cut_of(self._clip, self._options)
        begins = max((clip.video.first_pts or 0) * clip.video.time_base, cut.start or Fraction(0))
        late = begins - earliest_beginning(clip, self.streams, cut)
        if late > LATE_SECONDS:
            logger.warning(
                "%s: its picture begins %.2f s after its sound, and so much too early in an AVI; an .mkv keeps it.",
                clip.path.name, float(late),
            )  # fmt: skip

    def _kept_side_data(self) -> frozenset[str]:
        """What of the frames' side data the encoder or the container keeps."""
        tagged = self._container.stereo_mode and "stereo_mode" in self._clip.video.metadata
        return self._codec.side_data | (frozenset({"STEREO3D"}) if tagged else frozenset())

    def settings(self) -> dict[str, str]:
        """As ``Output``."""
        assert self._video is not None, "plan comes first"
        video = self._video
        return {
            "the size": f"{video.width}x{video.height}",
            "the encoder": self._codec.encoder,
            "the encoder's options": " ".join(f"{key}={value}" for key, value in self._encoder_options.items())
            or "the defaults",
            "the pixel format": video.pix_fmt,
            "the video format": str(video),
        }

    def writer(self, folder: Path, threads: int) -> FrameContext:
        """As ``Output``."""
        assert self._video is not None, "plan comes first"
        video = replace(self._video, threads=min(threads, self._codec.most_threads))
        return Encoder(folder / self._encoded, self._codec, self._encoder_options, video)

    def assemble_sample(self, folder: Path) -> None:
        """As ``Output``: what the program cannot write is known before the first frame."""
        assert self._video is not None, "plan comes first"
        encoded, sample = folder / self._encoded, folder / f"assembled{self._target.suffix}"
        try:
            with Encoder(encoded, self._codec, self._encoder_options, self._video) as encoder:
                encoder.write(Frame(_blank(self._video), self._clip.video.first_pts or 0, 0))
            streams = assemble_sample(
                encoded, self._clip, self.streams, sample, self._container,
                encoded=self._video, cut=cut_of(self._clip, self._options),
            )  # fmt: skip
            missing = missing_metadata(sample, self._clip, streams, self._container)
        finally:
            for path in (encoded, sample):
                path.unlink(missing_ok=True)
        for plan in self._changed(streams):
            logger.warning("%s: %s", self._clip.path.name, plan)
        for lost in missing:
            logger.warning("%s: %s cannot be kept in %s.", self._clip.path.name, lost, self._container.muxer)
        for plan in self.streams:
            if plan.codec == "mov_text" and cues_overlap(self._clip.path, plan.stream.index):
                logger.warning(
                    "%s: %s: some lines overlap; mov_text shows one at a time, so that the earlier ends there.",
                    self._clip.path.name, plan.stream,
                )  # fmt: skip

    def _changed(self, streams: Sequence[StreamPlan]) -> list[StreamPlan]:
        """Keep what becomes of the streams, and tell what is otherwise than it was planned."""
        changed = [plan for plan, before in zip(streams, self.streams, strict=True) if plan != before]
        self.streams = tuple(streams)
        return changed

    def complete(self, folder: Path, segments: Sequence[SegmentResult], publication: Publication) -> list[str]:
        """As ``Output``."""
        assert self._video is not None, "plan comes first"
        if publication.begun is not None and self.is_published(publication.begun):
            return list(map(str, publication.begun["lost"]))
        video, cut = self._video, cut_of(self._clip, self._options)
        parts = [Part(folder / self._encoded, done.packets) for done, folder in segments if done.frames]
        encoded, assembled = parts[0].path, folder / f"assembled{self._target.suffix}"
        if len(parts) > 1:
            encoded = folder / self._encoded
            join(parts, encoded, video)

        last = max((packet for part in parts for packet in part.packets), key=lambda packet: packet.pts)

        def attempt(plans: Sequence[StreamPlan]) -> None:
            assemble(encoded, self._clip, plans, assembled, self._container, encoded=video, cut=cut, last=last)

        lost = list(map(str, self._changed(assemble_what_fits(self.streams, self._container, attempt))))
        num_frames = sum(len(part.packets) for part in parts)
        lost += check_assembled(assembled, self._clip, self.streams, num_frames=num_frames, cut=cut)
        self.check()  # hours may have passed since the first look
        publication.begin({"stamp": _stamp_of_all([assembled]), "lost": lost})
        publish([(assembled, self._target)])
        return lost

    def published(self, begun: Mapping[str, Any], segment: int, name: str) -> Path | None:
        """As ``Output``."""
        return None

    def is_published(self, begun: Mapping[str, Any]) -> bool:
        """As ``Output``."""
        return _stamp_of_all([self._target]) == str(begun["stamp"])


def _blank(video: VideoFormat) -> tuple[Plane, ...]:
    """The planes of a frame without a picture."""
    layout = layout_of(video.planes or video.pix_fmt)
    assert layout is not None
    dtype = np.uint8 if layout.bit_depth == 8 else np.uint16
    across, down = ceil(video.width / (1 << layout.subsampling_x)), ceil(video.height / (1 << layout.subsampling_y))
    shapes = {"grey": [], "rgb": [(video.height, video.width)] * 2, "yuv": [(down, across)] * 2}[layout.kind]
    alpha = [(video.height, video.width)] if layout.alpha else []
    return tuple(np.zeros(shape, dtype) for shape in [(video.height, video.width), *shapes, *alpha])


class PictureOutput:
    """Still pictures: one, or one for each frame.

    Raises:
        UsageError: one name for many frames.
        OutputError: pictures of such names exist already, or are inputs.
    """

    def __init__(self, clip: ClipInfo, target: Path, options: UpscaleOptions) -> None:
        self._clip, self._target, self._options = clip, target, options
        self.program = ""
        part = options.start is not None or options.end is not None
        if not is_pattern(target) and not part and not _one_frame(clip):
            raise UsageError(f"{target} is one picture; for all frames name a pattern such as %06d{target.suffix}.")
        inputs = {picture.resolve() for picture in clip.pictures}
        if there := next((path for path in existing(target) if path.resolve() in inputs), None):
            raise OutputError(f"{there} is one of the inputs; give the output another name.")
        _, layout = decoded_format(clip.video)
        self._format = picture_format(layout, target)
        # Pictures are as large as memory allows; a codec of that name has no limits of its own.
        self._codec = Codec("rawvideo", alpha=True, sizes="any", largest=MAX_SIDE)
        self.streams = tuple(StreamPlan(stream, "drop", reason="pictures hold none") for stream in clip.others)
        for plan in self.streams:
            logger.warning("%s: %s", clip.path.name, plan)
        if clip.video.sample_aspect_ratio not in (None, 1):
            logger.warning("%s: pictures keep no pixel aspect; --size makes the pixels square.", clip.path.name)

    def check(self) -> None:
        """As ``Output``."""
        if not self._options.overwrite and (there := next(iter(existing(self._target)), None)):
            raise OutputError(f"{there} exists already; --overwrite replaces it.")

    def plan(self, scale: float) -> Conversion:
        """As ``Output``."""
        options = replace(self._options, codec=None, pix_fmt=None)
        _, conversion = plan_video(self._clip, self._codec, options, scale, turns=False, planes=self._format)
        self._size = (conversion.width, conversion.height)
        return conversion

    def settings(self) -> dict[str, str]:
        """As ``Output``."""
        return {"the size": "{}x{}".format(*self._size), "the kind": f"{self._target.suffix} of {self._format}"}

    def writer(self, folder: Path, threads: int) -> FrameContext:
        """As ``Output``."""
        layout = layout_of(self._format)
        assert layout is not None
        return PictureWriter(folder, self._target, layout, self._clip.icc)

    def assemble_sample(self, folder: Path) -> None:
        """As ``Output``: pictures need no program."""

    def complete(self, folder: Path, segments: Sequence[SegmentResult], publication: Publication) -> list[str]:
        """As ``Output``; where that was interrupted, it goes on."""
        pictures = [
            (path, done.files.get(path.name))
            for done, folder in segments
            for path in written_pictures(folder, self._target, done.frames)
        ]
        if len(pictures) > 1 and not is_pattern(self._target):
            raise single_name_error(self._target)
        targets = [numbered(self._target, number) for number in range(1, len(pictures) + 1)]
        own = {} if publication.begun is None else dict(zip(targets, (digest for _, digest in pictures), strict=True))
        there = list(existing(self._target))
        for path in [] if self._options.overwrite else there:
            if path not in own or not _is(path, own[path]):
                raise OutputError(f"{path} exists by now; --overwrite replaces it.")
        moves = [(path, target) for (path, _), target in zip(pictures, targets, strict=True)]
        left_to_move = [
            (path, target) for path, target in moves if path.exists()
        ]  # the others have moved there already
        stamp = _stamp_of_all([path if path.exists() else target for path, target in moves])
        publication.begin({"frames": [done.frames for done, _ in segments], "stamp": stamp})
        publish(left_to_move)
        if left := len({*there, *targets}) - len(targets):
            logger.warning("%s: %d pictures of an earlier run are left behind the last.", self._target, left)
        return []

    def published(self, begun: Mapping[str, Any], segment: int, name: str) -> Path | None:
        """As ``Output``."""
        before = sum(begun["frames"][:segment])
        return numbered(self._target, before + int(Path(name).stem))

    def is_published(self, begun: Mapping[str, Any]) -> bool:
        """As ``Output``."""
        numbers = range(1, sum(begun["frames"]) + 1)
        return _stamp_of_all([numbered(self._target, number) for number in numbers]) == str(begun["stamp"])


def output_for(clip: ClipInfo, target: Path, options: UpscaleOptions) -> Output:
    """The kind that a name asks for."""
    return (PictureOutput if is_picture_name(target) else ClipOutput)(clip, target, options)


def cut_of(clip: ClipInfo, options: UpscaleOptions) -> Cut:
    """The part that was asked for, on the source's own clock. The shift is a whole number of the video's ticks."""
    if options.start is None and options.end is None:
        return WHOLE
    ticks = round((options.start or 0) / clip.video.time_base)
    return Cut(
        clip.start + options.start if options.start else None,  # what begins before the beginning belongs to it
        None if options.end is None else clip.start + options.end,
        ticks * clip.video.time_base,
    )


def publish(moves: Sequence[tuple[Path, Path]]) -> None:
    """Give finished files their names, and see both to the disk.

    Raises:
        OutputError: a name cannot be written, or the disk refuses.
    """
    try:
        publish_all(moves)
    except OSError as exc:
        named = exc.filename2 or (moves[0][1] if len(moves) == 1 else moves[0][1].parent)
        raise OutputError(f"cannot write {named}: {exc.strerror}.") from exc


def _stamp_of_all(paths: Sequence[Path]) -> str:
    """A digest of which files these are; it stays when they are renamed. Empty where one is missing."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for path in paths:
            digest.update(f"{stamp_of(path)}\n".encode())
    except OSError:
        return ""
    return digest.hexdigest()


def _is(path: Path, digest: str | None) -> bool:
    """Whether a file is the one that a record speaks of."""
    try:
        return digest_of(path) == digest
    except OSError:
        return False


def _one_frame(clip: ClipInfo) -> bool:
    return clip.video.num_frames_estimated == 1


def _codec_for(container: Container, target: Path, options: UpscaleOptions) -> str:
    if container.muxer == "gif":
        if options.codec not in (None, "gif"):
            raise UsageError(f"a GIF holds no {options.codec}; leave --codec out, or name another output.")
        return container.codec
    name = options.codec or container.codec
    if not holds(container, format_of(codec_named(name))):
        fitting = [key for key, codec in CODECS.items() if holds(container, format_of(codec))]
        raise UsageError(f"{target.suffix} cannot hold {name}: take --codec {' or '.join(fitting)}, or another ending.")
    return name
