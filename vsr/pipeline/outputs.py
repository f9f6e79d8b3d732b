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

from vsr.errors import OutputError, UsageError, setting
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
from vsr.media.provenance import Provenance
from vsr.media.reader import Frame, decoded_format
from vsr.media.writer import Encoder, VideoFormat, check_encoder, codec_named, encoded_suffix, format_of
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.plan import Conversion, plan_video
from vsr.pipeline.segments import FinishedSegment

logger = logging.getLogger(__name__)


class FrameWriter(AbstractContextManager["FrameWriter"], Protocol):
    """Accepts frames: an encoder, or a writer of pictures. Opened and closed by ``with``."""

    packets: list[Timing]
    """The packets that were written, in decoding order."""

    def write(self, frame: Frame) -> None:
        """Write a frame, whose timestamp must be greater than that of the last one."""


class SegmentResult(NamedTuple):
    """A finished segment and the folder that its writer filled."""

    done: FinishedSegment
    folder: Path


class Publication(Protocol):
    """The state of publishing an output, which is kept on the disk."""

    begun: Mapping[str, Any] | None
    """What an earlier run recorded when it began to publish the output; None: none did."""

    def begin(self, what: Mapping[str, Any]) -> None:
        """Record that the output is about to get its name, and how to recognise it.

        Raises:
            VsrError: the source has changed, so the output must not be published.
        """


class Output(Protocol):
    """The output of a job, as the rest of the pipeline uses it."""

    streams: tuple[StreamPlan, ...]
    """What becomes of the source's other streams."""
    program: str
    """Version and path of the ffmpeg program that assembles the output; empty if none is used."""
    made: Provenance | None
    """How the output is made, for its metadata."""
    warnings: list[str]
    """A sentence for each thing that the output will lack; the job logs them when nothing refuses it any more."""

    def check(self) -> None:
        """Check that the output does not exist yet, unless it may be overwritten.

        Raises:
            OutputError: it exists.
        """

    def plan(self, scale: float) -> Conversion:
        """Plan the output for an engine of that scale, and return the conversion of its frames.

        Raises:
            UsageError: such an output cannot be written.
        """

    def settings(self) -> dict[str, str]:
        """Return the settings that affect what the writer writes, as text by name."""

    def writer(self, folder: Path, threads: int) -> FrameWriter:
        """Return a writer that keeps the frames of a segment in its folder; ``threads`` are the encoder's."""

    def assemble_sample(self, folder: Path) -> None:
        """Try, before the first frame, what is done after the last one; ``folder`` is for temporary files."""

    def complete(self, folder: Path, segments: Sequence[SegmentResult], publication: Publication) -> list[str]:
        """Make the output from the segments and publish it; ``folder`` is for temporary files.

        On return the output and its name are synced to the disk.

        Returns:
            a description of each part of the source that was lost.
        """

    def is_published(self, begun: Mapping[str, Any]) -> bool:
        """Whether the existing output is the one of the run that recorded ``begun``."""

    def published(self, begun: Mapping[str, Any], segment: int, name: str) -> Path | None:
        """Return where publishing may have moved a file of a segment; None: nowhere."""


class ClipOutput:
    """A file with the upscaled video and the other streams of the source.

    Raises:
        UsageError: the container cannot hold the codec, or this build of libav has no such encoder.
        FFmpegError: there is no ffmpeg program.
    """

    def __init__(self, clip: ClipInfo, target: Path, options: UpscaleOptions) -> None:
        self.made: Provenance | None = None
        self.program = str(ffmpeg_program())  # needed at the end, so check for it at the beginning
        self._clip, self._target, self._container = clip, target, container_of(target)
        self._options = replace(options, codec=_codec_for(self._container, target, options))
        if self._container.muxer == "gif":  # the palette is computed from RGB pixels
            self._options = replace(self._options, pix_fmt="bgra" if has_alpha(clip.video.pix_fmt) else "bgr0")
        assert self._options.codec is not None
        self._codec = codec_named(self._options.codec)
        self._encoded = f"video{encoded_suffix(self._codec)}"
        self._video: VideoFormat | None = None
        plans = plan_streams(
            clip, self._container, audio=options.audio, subtitles=options.subtitles, cut=cut_of(clip, options)
        )
        self.streams = tuple(plans)
        self.warnings = [f"{clip.path.name}: {plan}" for plan in self.streams if not plan.is_kept]
        for plan in self.streams:
            if plan.is_kept:
                logger.info("%s: %s", clip.path.name, plan)

    def check(self) -> None:
        """As ``Output``."""
        inputs = (self._clip.path,)
        check_target(self._target, overwrite=self._options.overwrite, inputs=inputs, makes_folder=True)

    def plan(self, scale: float) -> Conversion:
        """As ``Output``; the encoder is opened as a test."""
        video, conversion, losses = plan_video(
            self._clip, self._codec, self._options, scale, turns=self._container.turns, kept=self._kept_side_data()
        )
        self.warnings += losses
        if self._container.one_rate:
            self.warnings.append(f"{self._target}: an AVI has one frame rate; other timestamps move to the next tick.")
            self._warn_of_late_picture()
        self._encoder_options = self._options.encoder_options(self._codec)
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
            self.warnings.append(
                f"{clip.path.name}: its video begins {float(late):.2f} s after its audio, which an AVI cannot store; "
                "an .mkv can."
            )

    def _kept_side_data(self) -> frozenset[str]:
        """Return which of the frames' side data the encoder or the container keeps."""
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

    def writer(self, folder: Path, threads: int) -> FrameWriter:
        """As ``Output``."""
        assert self._video is not None, "plan comes first"
        video = replace(self._video, threads=min(threads, self._codec.most_threads))
        return Encoder(folder / self._encoded, self._codec, self._encoder_options, video)

    def assemble_sample(self, folder: Path) -> None:
        """As ``Output``: what the program cannot write is reported before the first frame."""
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
        name = self._clip.path.name
        self.warnings += [f"{name}: {plan}" for plan in self._changed(streams)]
        self.warnings += [f"{name}: {lost} cannot be kept in {self._container.muxer}." for lost in missing]
        self.warnings += [
            f"{name}: {plan.stream}: some lines overlap; mov_text shows one at a time, so the earlier one ends early."
            for plan in self.streams
            if plan.codec == "mov_text" and cues_overlap(self._clip.path, plan.stream.index)
        ]

    def _changed(self, streams: Sequence[StreamPlan]) -> list[StreamPlan]:
        """Store the streams' plans, and return those that differ from the former ones."""
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
            assemble(
                encoded, self._clip, plans, assembled, self._container,
                encoded=video, cut=cut, last=last, made=self.made,
            )  # fmt: skip

        lost = list(map(str, self._changed(assemble_what_fits(self.streams, self._container, attempt))))
        num_frames = sum(len(part.packets) for part in parts)
        lost += check_assembled(assembled, self._clip, self.streams, num_frames=num_frames, cut=cut)
        self.check()  # hours may have passed since the first check
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
    """Return the planes of a blank frame."""
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
        self.made: Provenance | None = None
        part = options.start is not None or options.end is not None
        if not is_pattern(target) and not part and not _has_one_frame(clip):
            raise UsageError(f"{target} is one picture; for all frames name a pattern such as %06d{target.suffix}.")
        inputs = {picture.resolve() for picture in clip.pictures}
        if there := next((path for path in existing(target) if path.resolve() in inputs), None):
            raise OutputError(f"{there} is one of the inputs; give the output another name.")
        _, layout = decoded_format(clip.video)
        self._format = picture_format(layout, target)
        # The size of pictures is limited by memory only; this codec stands for no limits.
        self._codec = Codec("rawvideo", alpha=True, sizes="any", largest=MAX_SIDE)
        self.streams = tuple(StreamPlan(stream, "drop", reason="pictures hold none") for stream in clip.others)
        self.warnings = [f"{clip.path.name}: {plan}" for plan in self.streams]
        chosen = {"codec": options.codec, "crf": options.crf, "preset": options.preset, "pix_fmt": options.pix_fmt}
        if unused := [name for name, value in chosen.items() if value is not None]:
            self.warnings.append(f"{target.name}: pictures have no {', '.join(map(setting, unused))}: without effect.")
        if clip.video.sample_aspect_ratio not in (None, 1):
            square = setting("size")
            self.warnings.append(f"{clip.path.name}: pictures keep no pixel aspect; {square} makes the pixels square.")

    def check(self) -> None:
        """As ``Output``."""
        if not self._options.overwrite and (there := next(iter(existing(self._target)), None)):
            raise OutputError(f"{there} exists already; {setting('overwrite', True)} replaces it.")

    def plan(self, scale: float) -> Conversion:
        """As ``Output``."""
        options = replace(self._options, codec=None, pix_fmt=None)
        _, conversion, losses = plan_video(
            self._clip, self._codec, options, scale, turns=False, planes=self._format
        )
        self.warnings += losses
        self._size = (conversion.width, conversion.height)
        return conversion

    def settings(self) -> dict[str, str]:
        """As ``Output``."""
        return {"the size": "{}x{}".format(*self._size), "the kind": f"{self._target.suffix} of {self._format}"}

    def writer(self, folder: Path, threads: int) -> FrameWriter:
        """As ``Output``."""
        layout = layout_of(self._format)
        assert layout is not None
        return PictureWriter(folder, self._target, layout, self._clip.icc, str(self.made or ""))

    def assemble_sample(self, folder: Path) -> None:
        """As ``Output``: pictures need no program."""

    def complete(self, folder: Path, segments: Sequence[SegmentResult], publication: Publication) -> list[str]:
        """As ``Output``; an interrupted run is resumed."""
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
            if path not in own or not _has_digest(path, own[path]):
                raise OutputError(f"{path} exists now; {setting('overwrite', True)} replaces it.")
        moves = [(path, target) for (path, _), target in zip(pictures, targets, strict=True)]
        remaining = [
            (path, target) for path, target in moves if path.exists()
        ]  # the others have been moved already
        stamp = _stamp_of_all([path if path.exists() else target for path, target in moves])
        publication.begin({"frames": [done.frames for done, _ in segments], "stamp": stamp})
        publish(remaining)
        if left := len({*there, *targets}) - len(targets):
            logger.warning("%s: %d pictures of an earlier run are left after the last one.", self._target, left)
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
    """Return the kind of output that the target's name asks for."""
    return (PictureOutput if is_picture_name(target) else ClipOutput)(clip, target, options)


def cut_of(clip: ClipInfo, options: UpscaleOptions) -> Cut:
    """Return the requested part in the source's time; its shift is a whole number of the video's ticks."""
    if options.start is None and options.end is None:
        return WHOLE
    ticks = round((options.start or 0) / clip.video.time_base)
    return Cut(
        clip.start + options.start if options.start else None,  # from 0: include streams that begin earlier
        None if options.end is None else clip.start + options.end,
        ticks * clip.video.time_base,
    )


def publish(moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename finished files to their targets, and sync both to the disk.

    Raises:
        OutputError: a target cannot be written.
    """
    try:
        publish_all(moves)
    except OSError as exc:
        named = exc.filename2 or (moves[0][1] if len(moves) == 1 else moves[0][1].parent)
        raise OutputError(f"cannot write {named}: {exc.strerror}.") from exc


def _stamp_of_all(paths: Sequence[Path]) -> str:
    """Return a digest that identifies files, also after they are renamed; empty if one is missing."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for path in paths:
            digest.update(f"{stamp_of(path)}\n".encode())
    except OSError:
        return ""
    return digest.hexdigest()


def _has_digest(path: Path, digest: str | None) -> bool:
    """Whether a file exists and has a digest."""
    try:
        return digest_of(path) == digest
    except OSError:
        return False


def _has_one_frame(clip: ClipInfo) -> bool:
    return clip.video.num_frames_estimated == 1


def _codec_for(container: Container, target: Path, options: UpscaleOptions) -> str:
    if container.muxer == "gif":
        if options.crf is not None or options.preset is not None:
            raise UsageError(f"a GIF has no {setting('crf')} and no {setting('preset')}: leave them out.")
        if options.codec not in (None, "gif"):
            codec = setting("codec")
            raise UsageError(f"a GIF holds no {options.codec}; leave {codec} out, or name another output.")
        return container.codec
    name = options.codec or container.codec
    if not holds(container, format_of(codec_named(name))):
        fitting = [key for key, codec in CODECS.items() if holds(container, format_of(codec))]
        take = setting("codec", tuple(fitting))
        raise UsageError(f"{target.suffix} cannot hold {name}: take {take}, or another ending.")
    return name
