"""Every way to store a pixel, through a whole job: code values, alpha, colour tags and HDR10's metadata."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av import VideoFrame
from PIL import Image

import vsr
from vsr.media.clip import nearest_format
from vsr.media.libav import side_data_of
from vsr.media.probe import probe

pytestmark = pytest.mark.usefixtures("leaves_nothing")

Ffmpeg = Callable[..., str]
Listing = Callable[[Path, int, str], list[tuple[int, int, str]]]

NOISE = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.12,format=gbrp,noise=alls=40:allf=t,crop=51:37")
ALPHA = "geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='mod(7*X+3*Y+40*N,256)'"

EXACT = (
    "yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p",
    "yuv420p9le", "yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le", "yuv444p12le",
    "yuv422p14le", "yuv420p16le", "yuv444p16le", "gray", "gray10le", "gray12le", "gray16le",
    "gbrp", "gbrp10le", "gbrp12le", "gbrp14le", "gbrp16le", "nv12", "yuyv422", "rgb24", "rgb48le",
    "yuva420p", "yuva422p", "yuva444p", "yuva444p10le", "yuva444p16le", "gbrap", "gbrap12le", "gbrap16le", "rgba",
    "bgra", "rgba64le", "gray16be", "yuv422p10be", "ya8",
)  # fmt: skip


@pytest.mark.parametrize("stored", EXACT)
def test_every_code_value_returns(stored: str, ffmpeg: Ffmpeg, frame_listing: Listing, tmp_path: Path) -> None:
    """Identity and a lossless codec: what the program decodes of the output is what it decodes of the input."""
    clip = tmp_path / "in.nut"
    alpha = ["-vf", f"format=gbrap,{ALPHA}"] if "a" in stored.removeprefix("gr").replace("gray", "") else []
    # FFV1 of libav loses the last chroma row of 4:1:0 where the height is no multiple of four.
    size = ("-s", "52x36") if stored == "yuv410p" else ()
    ffmpeg(*NOISE, *alpha, *size, "-c:v", "rawvideo", "-pix_fmt", stored, clip)
    assert probe(clip).video.pix_fmt == stored
    planes = nearest_format(stored)
    assert planes is not None
    target = vsr.upscale(clip, tmp_path / "out.mkv", model="identity", codec="ffv1").target
    before, after = (frame_listing(path, 0, planes) for path in (clip, target))
    assert [md5 for _, _, md5 in after] == [md5 for _, _, md5 in before]
    assert len({md5 for _, _, md5 in before}) == 3


def test_a_palette_with_transparency(ffmpeg: Ffmpeg, frame_listing: Listing, tmp_path: Path) -> None:
    clip = tmp_path / "in.gif"
    circle = "geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='255*lt(hypot(X-32,Y-24),20)'"
    palette = "split[a][b];[a]palettegen[p];[b][p]paletteuse"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=0.5,format=rgba", "-vf", f"{circle},{palette}", clip)
    assert probe(clip).video.pix_fmt in ("bgra", "pal8")
    target = vsr.upscale(clip, tmp_path / "out.mkv", model="identity", codec="ffv1").target
    before, after = (frame_listing(path, 0, "gbrap") for path in (clip, target))
    assert [md5 for _, _, md5 in after] == [md5 for _, _, md5 in before] and len(before) == 5
    again = vsr.upscale(clip, tmp_path / "out.gif", model="identity").target
    with av.open(str(again)) as container:
        alpha = np.stack([frame.to_ndarray(format="rgba")[..., 3] for frame in container.decode(video=0)])
    assert alpha.shape == (5, 48, 64) and set(np.unique(alpha)) == {0, 255} and alpha[0, 24, 32] == 255


@pytest.mark.parametrize(
    ("codec", "ending", "pix_fmt", "tolerance"),
    [("ffv1", ".mkv", "yuva420p", 0), ("prores", ".mov", "yuva444p10le", 1), ("qtrle", ".mov", "argb", 0)],
)
def test_alpha(
    codec: str, ending: str, pix_fmt: str, tolerance: int, ffmpeg: Ffmpeg, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    clip = tmp_path / "in.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.12,format=gbrap", "-vf", ALPHA, "-c:v", "ffv1",
           "-pix_fmt", "yuva420p", clip)  # fmt: skip
    asked = pix_fmt if codec == "qtrle" else None
    target = vsr.upscale(clip, tmp_path / f"out{ending}", model="identity", codec=codec, pix_fmt=asked).target
    assert "alpha" not in caplog.text
    assert probe(target).video.pix_fmt.startswith(pix_fmt[:7])
    alphas = []
    for path in (clip, target):
        with av.open(str(path)) as container:
            alphas.append(np.stack([frame.to_ndarray(format="rgba")[..., 3] for frame in container.decode(video=0)]))
    assert np.abs(alphas[0].astype(int) - alphas[1]).max() <= tolerance
    assert alphas[0].std() > 40


def test_alpha_of_vp9(ffmpeg: Ffmpeg, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Libvpx writes alpha beside the packets, which the encoder's MP4 cannot hold: colours stay, with a warning."""
    clip = tmp_path / "in.mkv"
    square = "geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='255*gt(X,31)'"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.2,format=gbrap", "-vf", square, "-c:v", "ffv1",
           "-pix_fmt", "yuva420p", clip)  # fmt: skip
    target = vsr.upscale(clip, tmp_path / "out.webm", model="identity", crf=10).target
    ffmpeg("-c:v", "libvpx-vp9", "-i", target, "-pix_fmt", "yuva420p", "-c:v", "ffv1", tmp_path / "seen.mkv")
    frames = []
    for path in (clip, tmp_path / "seen.mkv"):
        with av.open(str(path)) as container:
            frames.append([frame.to_ndarray(format="rgba").astype(int) for frame in container.decode(video=0)])
    for before, after in zip(*frames, strict=True):
        assert np.abs(before[..., :3] - after[..., :3]).mean() < 12
        assert (after[..., 3] == 255).all()
    assert "in.mkv: its alpha channel is left out, as yuv420p holds none." in caplog.text


def test_alpha_is_not_dropped_in_silence(ffmpeg: Ffmpeg, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = tmp_path / "in.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.12,format=yuva420p", "-c:v", "ffv1", clip)
    vsr.upscale(clip, tmp_path / "out.mp4", model="identity")
    assert "in.mkv: its alpha channel is left out, as yuv420p holds none." in caplog.text


@pytest.mark.parametrize("alpha", ["", "a"])
def test_alpha_grows_with_the_picture(alpha: str, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    clip = tmp_path / "in.mkv"
    source = f"color=red@0.5:s=32x24:r=25:d=0.04,format=gbr{alpha}p"
    ffmpeg("-f", "lavfi", "-i", source, "-c:v", "ffv1", clip)
    target = vsr.upscale(clip, tmp_path / "out.mkv", model="bicubic", scale=3, codec="ffv1").target
    with av.open(str(target)) as container:
        (frame,) = container.decode(video=0)
        pixels = frame.to_ndarray(format="rgba")
    assert pixels.shape == (72, 96, 4)
    assert set(np.unique(pixels[..., 3])) <= ({127, 128} if alpha else {255})
    assert np.abs(pixels[..., 0].astype(int) - 254).max() <= 2 and pixels[..., 1].max() <= 1


@pytest.mark.parametrize(("codec", "ending"), [("h264", ".mp4"), ("hevc", ".mkv"), ("ffv1", ".mkv"), ("vp9", ".webm")])
@pytest.mark.parametrize("full", [False, True])
def test_range(full: bool, codec: str, ending: str, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    clip = tmp_path / "in.mp4"
    told = "pc" if full else "tv"
    ffmpeg(
        "-f", "lavfi", "-i", f"color=white:s=64x48:r=25:d=0.2,scale=out_range={told}", "-vf",
        f"format=yuv420p,setparams=range={told}:colorspace=bt709:color_primaries=bt709:color_trc=bt709", "-c:v",
        "libx264", "-crf", "1", clip,
    )  # fmt: skip
    target = vsr.upscale(clip, tmp_path / f"out{ending}", model="identity", codec=codec).target
    before, after = probe(clip).video.tags, probe(target).video.tags
    assert (after.range, after.matrix, after.primaries, after.transfer) == (2 if full else 1, 1, 1, 1)
    assert (before.range, before.matrix) == (after.range, after.matrix)
    with av.open(str(target)) as container:
        frame = next(container.decode(video=0))
        luma = np.frombuffer(memoryview(frame.planes[0]), np.uint8)[:64]
    assert np.abs(luma.astype(int) - (255 if full else 235)).max() <= 1


LOCATIONS = {"left": 1, "center": 2, "topleft": 3, "top": 4}


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize(
    ("codec", "ending"), [("h264", ".mp4"), ("hevc", ".mp4"), ("h264", ".ts"), ("ffv1", ".mkv"), ("vp9", ".webm")]
)
def test_chroma_location(codec: str, ending: str, location: str, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    clip = tmp_path / "in.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.12", "-c:v", "libx264", "-pix_fmt", "yuv420p",
           "-chroma_sample_location", location, clip)  # fmt: skip
    assert probe(clip).video.tags.chroma_location == LOCATIONS[location]
    target = vsr.upscale(clip, tmp_path / f"out{ending}", model="identity", codec=codec).target
    found = probe(target).video.tags.chroma_location
    assert found == LOCATIONS[location] or (codec == "vp9" and found == 0)  # VP9 has no place to say it


@pytest.mark.parametrize(
    ("codec", "ending"), [("hevc", ".mp4"), ("hevc", ".mkv"), ("hevc", ".ts"), ("av1", ".mp4"), ("av1", ".mkv")]
)
def test_hdr10_of_a_real_clip(codec: str, ending: str, shared_data: Path, tmp_path: Path) -> None:
    clip = shared_data / "clips" / "sample_with_colr_mdcv_and_clli.mp4"
    target = vsr.upscale(
        clip, tmp_path / f"out{ending}", model="bicubic", height=68, end=Fraction(1, 10), codec=codec
    ).target
    before, after = probe(clip).video, probe(target).video
    assert before.mastering_display is not None and before.light_levels is not None
    assert after.light_levels == before.light_levels
    assert after.mastering_display is not None
    ours, theirs = after.mastering_display, before.mastering_display
    pairs = zip(ours.chromaticities + ours.luminances, theirs.chromaticities + theirs.luminances, strict=True)
    assert max(abs(one - other) for one, other in pairs) <= 1  # AV1 counts in powers of two
    assert (after.tags.matrix, after.tags.primaries, after.tags.transfer) == (9, 9, 16)
    assert after.pix_fmt == "yuv420p10le"


def test_hlg_of_a_real_clip(shared_data: Path, tmp_path: Path) -> None:
    clip = shared_data / "clips" / "hlg10-color-test.mp4"
    target = vsr.upscale(
        clip, tmp_path / "out.mp4", model="bicubic", height=68, end=Fraction(1, 10), codec="hevc"
    ).target
    tags = probe(target).video.tags
    assert (tags.range, tags.matrix, tags.primaries, tags.transfer) == (1, 9, 9, 18)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_the_bitstreams_transfer_overrides_the_containers(codec: str, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    stream, clip = tmp_path / f"in.{codec[-3:]}.nut", tmp_path / "in.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.12", "-c:v", codec, "-pix_fmt", "yuv420p10le",
           f"-{codec[3:]}-params", "colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc", stream)  # fmt: skip
    ffmpeg("-i", stream, "-c", "copy", "-color_trc", "bt2020-10", "-color_primaries", "bt709", clip)
    assert b"colrnclx\0\x01\0\x0e" in clip.read_bytes(), "the box says otherwise than the bitstream"
    assert (probe(clip).video.tags.primaries, probe(clip).video.tags.transfer) == (9, 18)
    target = vsr.upscale(clip, tmp_path / "out.mp4", model="identity", codec="hevc").target
    assert (probe(target).video.tags.primaries, probe(target).video.tags.transfer) == (9, 18)
    assert b"colrnclx\0\x09\0\x12" in target.read_bytes()


@pytest.mark.parametrize(("height", "stated"), [(360, 2), (719, 2), (720, 1), (1080, 1)])
@pytest.mark.parametrize("codec", ["h264", "ffv1"])
def test_red_stays_red_above_the_height_where_players_change_the_matrix(
    height: int, stated: int, codec: str, ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    """An untagged clip of few lines is BT.601; the output has the same colours with and without its tags."""
    clip = tmp_path / "in.mkv"
    red = "color=0xde1e10:s=64x48:r=25:d=0.04,scale=out_color_matrix=smpte170m,format=yuv444p"
    ffmpeg("-f", "lavfi", "-i", f"{red},setparams=colorspace=unknown", "-c:v", "ffv1", "-pix_fmt", "yuv444p", clip)
    assert probe(clip).video.tags.matrix == 2
    target = vsr.upscale(clip, tmp_path / "out.mkv", model="bicubic", size=(64, height), codec=codec).target
    assert probe(target).video.tags.matrix == stated
    matrix = "bt709" if height >= 720 else "smpte170m"  # by what it says, and by the rule of thumb
    read = f"scale=in_color_matrix={matrix},format=gbrp"
    ffmpeg("-i", target, "-vf", read, "-frames:v", "1", tmp_path / "seen.png")
    assert np.abs(np.asarray(Image.open(tmp_path / "seen.png"))[0, 0].astype(int) - (222, 30, 16)).max() <= 2


def test_rgb_into_h264_is_what_players_see(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    clip = tmp_path / "in.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.12,format=gbrp", "-c:v", "ffv1", clip)
    target = vsr.upscale(clip, tmp_path / "out.mp4", model="identity", crf=1).target
    pictures = []
    for path in (clip, target):
        ffmpeg("-i", path, "-vf", "scale=in_color_matrix=bt709:flags=accurate_rnd", "-frames:v", "1", "-pix_fmt",
               "rgb24", "-f", "rawvideo", tmp_path / "raw")  # fmt: skip
        pictures.append(np.frombuffer((tmp_path / "raw").read_bytes(), np.uint8).astype(int))
    assert np.abs(pictures[0] - pictures[1]).mean() < 2
    tags = probe(target).video.tags
    assert (tags.range, tags.matrix) == (1, 1)


def captions_of(path: Path) -> list[bytes]:
    """Return the closed captions of each frame that has some."""
    with av.open(str(path)) as container:
        data = [side_data_of(frame) for frame in container.decode(video=0)]
    return [entries["A53_CC"] for entries in data if "A53_CC" in entries]


def write_captioned(path: Path) -> None:
    """Write H.264 of twelve frames, each with two letters of CEA-608 in a message of ATSC A/53."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frames = [VideoFrame.from_ndarray(np.full((72, 64), 9 * index, np.uint8), "yuv420p") for index in range(12)]
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, Fraction(1, 25)
        for packet in [packet for frame in [*frames, None] for packet in stream.encode(frame)]:
            unit = bytes(packet)
            at = next(at for at in range(len(unit)) if unit[at : at + 3] == b"\0\0\1" and unit[at + 3] & 31 in (1, 5))
            letters = bytes([0x41 + round(packet.pts * packet.time_base * 25), 0x42])
            message = b"\xb5\0\x31GA94\x03\xc1\xff\xfc" + letters + b"\xff"
            new = av.Packet(unit[:at] + b"\0\0\1\6\4" + bytes([len(message)]) + message + b"\x80" + unit[at:])
            new.stream, new.time_base, new.pts, new.dts = stream, packet.time_base, packet.pts, packet.dts
            new.is_keyframe = packet.is_keyframe
            container.mux(new)


@pytest.mark.parametrize(
    ("codec", "kept"), [("h264", True), ("hevc", True), ("libx264rgb", True), ("av1", False), ("ffv1", False)]
)
def test_closed_captions_are_kept_or_warned_of(
    codec: str, kept: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = tmp_path / "in.ts"
    write_captioned(clip)
    captions = captions_of(clip)
    assert len(set(captions)) == 12
    target = vsr.upscale(clip, tmp_path / "out.mkv", model="bicubic", scale=2, codec=codec).target
    assert captions_of(target) == (captions if kept else [])
    said = "in.ts: closed captions inside the video cannot be kept." in caplog.text
    assert said is not kept


@pytest.mark.parametrize(
    ("source", "target", "codec", "kept"),
    [
        (".mkv", ".mkv", "h264", True), (".mkv", ".mp4", "h264", True), (".mkv", ".mkv", "hevc", True),
        (".mkv", ".mp4", "hevc", False), (".mp4", ".mkv", "h264", True), (".mp4", ".ts", "h264", True),
    ],
)  # fmt: skip
def test_stereoscopic_arrangement_is_kept_or_warned_of(
    source: str, target: str, codec: str, kept: bool, ffmpeg: Ffmpeg, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = tmp_path / f"in{source}"
    tagged = {".mkv": ("-metadata:s:v", "stereo_mode=left_right"), ".mp4": ("-x264-params", "frame-packing=3")}
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.12", "-c:v", "libx264", *tagged[source], clip)
    assert "STEREO3D" in probe(clip).video.side_data
    out = vsr.upscale(clip, tmp_path / f"out{target}", model="identity", codec=codec).target
    assert ("STEREO3D" in probe(out).video.side_data) is kept
    said = f"in{source}: the arrangement of a stereoscopic picture cannot be kept." in caplog.text
    assert said is not kept


def test_side_data_that_pyav_does_not_know_hides_no_other(tmp_path: Path) -> None:
    """A JPEG with EXIF: libav reports it and its orientation, PyAV knows only the latter."""
    described = Image.Exif()
    described[0x010E], described[0x0112] = "a picture", 6
    clip = tmp_path / "in.mjpeg"
    Image.new("RGB", (64, 48), (200, 10, 10)).save(clip, "JPEG", exif=described)
    assert "DISPLAYMATRIX" in probe(clip).video.side_data
    vsr.upscale(clip, tmp_path / "out.mp4", model="identity")
    assert probe(tmp_path / "out.mp4").video.display_matrix == probe(clip).video.display_matrix
