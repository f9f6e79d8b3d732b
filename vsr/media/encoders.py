"""Which encoder of libav writes a codec, and in which pixel format."""

from __future__ import annotations

from av.codec import Codec as LibavCodec
from av.codec import codecs_available, find_best_pix_fmt_of_list
from av.codec.codec import UnknownCodecError

from vsr.errors import UsageError
from vsr.media.codecs import CODECS, Codec
from vsr.media.ffmpeg import encoder_options
from vsr.media.pixels import has_alpha, planes_like

CAPTIONS_OPTION = "a53cc"
"""libav's, of encoders that write closed captions into the video."""

UNCODED = frozenset({"rawvideo", "wrapped_avframe"})
"""Encoders of libav's that encode nothing, and that few containers hold."""


def codec_named(name: str) -> Codec:
    """An entry of ``CODECS``, or any video encoder of this build of libav.

    Raises:
        UsageError: neither, or an entry whose encoder this build lacks.
    """
    codec = CODECS.get(name) or _plain(name)
    try:
        if name not in UNCODED and LibavCodec(codec.encoder, "w").type == "video":
            return codec
    except UnknownCodecError:
        pass
    there = [key for key, entry in CODECS.items() if entry.encoder in codecs_available]
    raise UsageError(
        f"this build of libav has no video encoder {codec.encoder!r}: take {', '.join(there)}, or an encoder's name."
    )


def _plain(name: str) -> Codec:
    """An encoder of which nothing is known but that it may take captions."""
    if CAPTIONS_OPTION in encoder_options(name):
        return Codec(name, defaults={CAPTIONS_OPTION: "1"}, side_data=frozenset({"A53_CC"}))
    return Codec(name)


def format_of(codec: Codec) -> str:
    """libav's name of the format that an encoder makes: ``vp9`` for ``libvpx-vp9``."""
    return LibavCodec(codec.encoder, "w").canonical_name


def encoded_format(codec: Codec, pix_fmt: str, *, asked: str | None = None) -> tuple[str, str]:
    """The pixel format in which an encoder takes frames that were decoded as ``pix_fmt``: the one that loses least.

    Args:
        codec: the encoder.
        pix_fmt: libav's format of the decoded planes.
        asked: what the user wants instead.

    Returns:
        the encoder's format, and the planes that it is made of without loss: itself, unless it is not planes.

    Raises:
        UsageError: the encoder takes no such format, or none that vsr can write.
    """
    taken = [choice.name for choice in LibavCodec(codec.encoder, "w").video_formats or []] or [pix_fmt]
    if asked is not None and asked not in taken:
        raise UsageError(f"the encoder {codec.encoder} takes no {asked}: take {', '.join(sorted(taken))}.")
    if asked is not None and has_alpha(asked) and codec in CODECS.values() and not codec.alpha:
        raise UsageError(f"{codec.encoder} writes no alpha that players find: take prores or ffv1, or another format.")
    usable = {
        choice: planes
        for choice in ([asked] if asked is not None else taken)
        if (planes := planes_like(choice)) is not None and (codec.alpha or asked or not has_alpha(choice))
    }
    source = pix_fmt.replace("yuvj", "yuv")
    if source.startswith("gray") and source not in usable:
        source = source.replace("gray", "yuv420p")  # not RGB, which loses nothing either, but plays in few places
    found, _ = find_best_pix_fmt_of_list(tuple(usable), source, has_alpha(source)) if usable else (None, None)
    if found is None:
        raise UsageError(f"the encoder {codec.encoder} takes no {asked or 'format'} that vsr can write.")
    return found.name, usable[found.name]
