"""Which codecs the containers can contain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import pytest

import vsr
from vsr.errors import UsageError, VsrError
from vsr.media.formats import CODECS, CONTAINERS, HARDWARE_CODECS, container_of, holds, known_codec
from vsr.media.writer import codec_named, format_of

ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".ts", ".avi")
HELD = {
    "h264": {".mp4", ".mov", ".mkv", ".ts", ".avi"},
    "hevc": {".mp4", ".mov", ".mkv", ".ts"},
    "av1": {".mp4", ".mkv", ".webm"},
    "vp9": {".mp4", ".mkv", ".webm"},
    "prores": {".mov", ".mkv"},
    "mpeg2video": {".mp4", ".mov", ".mkv", ".ts", ".avi"},
    "aac": {".mp4", ".mov", ".mkv", ".ts", ".avi"},
    "opus": {".mp4", ".mkv", ".webm", ".ts"},
    "vorbis": {".mp4", ".mkv", ".webm"},
    "truehd": {".mkv", ".ts"},
    "flac": {".mp4", ".mkv"},
    "pcm_s16le": {".mov", ".mkv", ".avi"},
    "mp2": {".mp4", ".mov", ".mkv", ".ts", ".avi"},
    "subrip": {".mkv"},
    "mov_text": {".mp4", ".mov"},
    "webvtt": {".mkv", ".webm"},
    "dvb_subtitle": {".mkv", ".ts"},
    "ass": {".mkv"},
    "": set(),
    "no_such_codec": set(),
}


@pytest.mark.parametrize("codec", HELD)
def test_which_codecs_a_container_can_contain(codec: str) -> None:
    said = {ending for ending in ENDINGS if holds(CONTAINERS[ending], codec)}
    # Only for AVI libav lists more codecs than players support; that is left as it is.
    assert said - {".avi"} == HELD[codec] - {".avi"}
    assert HELD[codec] & {".avi"} <= said


@pytest.mark.parametrize("ending", CONTAINERS)
def test_every_entry_can_be_written(ending: str) -> None:
    container = CONTAINERS[ending]
    assert container.muxer in av.formats_available
    assert container.codec in CODECS
    if container.muxer != "gif":
        assert holds(container, format_of(codec_named(container.codec)))
        assert holds(container, format_of_audio(container.audio))
    if container.subtitle is not None:
        assert holds(container, {"srt": "subrip"}.get(container.subtitle, container.subtitle))


def format_of_audio(encoder: str) -> str:
    return av.Codec(encoder, "w").canonical_name


def test_suffixes_ignore_case_and_unknown_ones_are_refused() -> None:
    assert container_of(Path("a.b.WebM")).muxer == "webm"
    assert container_of(Path("clip.MTS")) is CONTAINERS[".ts"]
    message = r"^cannot determine the format of a\.mp4\.txt: its name must end in \.mp4, \.m4v"
    with pytest.raises(UsageError, match=message):
        container_of(Path("a.mp4.txt"))


@pytest.mark.parametrize(
    ("name", "encoder", "options"),
    [
        ("h265", "libx265", {"crf": "20", "preset": "slow"}),
        ("X264", "libx264", {"crf": "20", "preset": "slow"}),
        ("libx264", "libx264", {"crf": "20", "preset": "slow"}),
        ("libsvtav1", "libsvtav1", {"crf": "20", "preset": "4"}),
        ("vp9", "libvpx-vp9", {"crf": "20", "cpu-used": "3"}),
        ("nvenc", "h264_nvenc", {"rc": "vbr", "cq": "20", "b": "0", "preset": "p5"}),
        ("h265_nvenc", "hevc_nvenc", {"rc": "vbr", "cq": "20", "b": "0", "preset": "p5"}),
        ("qsv", "h264_qsv", {"global_quality": "20", "preset": "slow"}),
        ("av1_qsv", "av1_qsv", {"global_quality": "20", "preset": "slow"}),
        ("videotoolbox", "h264_videotoolbox", {"global_quality": str(61 * 118), "flags": "+qscale"}),
        ("vaapi", "h264_vaapi", {"rc_mode": "CQP", "qp": "20"}),
    ],
)
def test_names_and_quality_that_people_know(name: str, encoder: str, options: dict[str, str]) -> None:
    codec = known_codec(name)
    assert codec is not None and codec.encoder == encoder
    assert codec.options(20, "slow") == options
    assert codec.options(None, None) == {}


@pytest.mark.parametrize("codec", CODECS | HARDWARE_CODECS)
def test_the_presets_of_x264_keep_their_order_in_every_encoder(codec: str) -> None:
    known = (CODECS | HARDWARE_CODECS)[codec]
    if not known.presets or known.preset_option == "profile":
        assert known.preset_named("medium") is None
        return
    named = [known.preset_named(name) for name in CODECS["h264"].presets]
    places = [known.presets.index(str(name)) for name in named]
    assert places == sorted(places) and (places[0], places[-1]) in ((0, len(known.presets) - 1), (0, 6))
    assert all(known.preset_named(own) == own for own in known.presets)


@pytest.mark.parametrize("name", HARDWARE_CODECS)
def test_an_encoder_without_its_hardware_is_one_sentence(
    name: str, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    """Whatever the machine has: it encodes, or says what it needs."""
    try:
        vsr.upscale(make_clip(size=(160, 96)), tmp_path / "out.mp4", model="identity", codec=name)
    except VsrError as exc:
        assert f"needs {HARDWARE_CODECS[name].hardware}" in str(exc) and "codec='h264' runs on the CPU." in str(exc)
        assert not (tmp_path / "out.mp4").exists()
