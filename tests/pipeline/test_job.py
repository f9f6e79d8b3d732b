"""Whole jobs on small clips: pictures, timestamps, streams, and all the ways a job can end."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import vsr
from vsr.errors import FFmpegError, InputError, OutputError, UnknownModelError, UsageError, VsrError
from vsr.inference.engine import Engine
from vsr.media.clip import layout_of, planes_of
from vsr.media.probe import probe
from vsr.media.reader import Frame
from vsr.media.writer import Encoder
from vsr.networks.generator import Generator
from vsr.networks.weights import save_network
from vsr.pipeline.job import ClipPlan, upscale_clip
from vsr.pipeline.options import UpscaleOptions

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]
LOSSLESS = {"crf": 0, "preset": "ultrafast"}


def timestamps(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def all_planes(path: Path) -> list[tuple[np.ndarray, ...]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    layout = layout_of(frames[0].format.name)
    assert layout is not None
    return [planes_of(frame, layout) for frame in frames]


def audio_packets(path: Path, stream: int) -> list[tuple[bytes, Fraction]]:
    with av.open(str(path)) as container:
        return [
            (bytes(packet), packet.pts * packet.time_base) for packet in container.demux(audio=stream) if packet.size
        ]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_size_frames_and_timestamps(make_clip: MakeClip, tiny_weights: Path, tmp_path: Path, suffix: str) -> None:
    clip = make_clip()
    summary = vsr.upscale(clip, tmp_path / f"out{suffix}", model=str(tiny_weights), preset="ultrafast")
    assert (summary.frames, summary.width, summary.height) == (8, 192, 128)
    tick = 0 if suffix != ".mkv" else Fraction(1, 1000)
    pairs = zip(timestamps(clip), timestamps(summary.target), strict=True)
    assert all(abs(before - after) <= tick for before, after in pairs)


@pytest.mark.parametrize(
    ("pts", "time_base"),
    [
        ([0, 1, 7, 8, 40, 41, 100, 101], Fraction(1, 1000)),
        ([133200 + 3600 * index for index in range(8)], Fraction(1, 90000)),
        ([1001 * index for index in range(8)], Fraction(1, 30000)),
        ([5], Fraction(1, 25)),
    ],
    ids=["variable", "late start", "ntsc", "one frame"],
)
def test_every_timestamp_is_kept(make_clip: MakeClip, tmp_path: Path, pts: list[int], time_base: Fraction) -> None:
    clip = make_clip(pts=pts, time_base=time_base, options={"bf": "2"})
    target = vsr.upscale(clip, tmp_path / "out.mp4", model="bicubic", scale=2).target
    assert timestamps(target) == timestamps(clip)
    assert len(timestamps(target)) == len(pts)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "gray"])
def test_identity_returns_every_code_value(make_clip: MakeClip, tmp_path: Path, pix_fmt: str) -> None:
    clip = make_clip(pix_fmt=pix_fmt, options={"crf": "10"})
    target = vsr.upscale(clip, tmp_path / "out.mp4", model="identity", **LOSSLESS).target
    for before, after in zip(all_planes(clip), all_planes(target), strict=True):
        for plane, returned in zip(before, after, strict=True):
            np.testing.assert_array_equal(plane, returned)


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p10le", "yuv444p10le"])
def test_more_than_eight_bits_reach_the_encoder(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pix_fmt: str
) -> None:
    """Checked before the encoder, since x264 is lossless at CRF 0 only with 8 bits."""
    clip, written, write = make_clip(pix_fmt=pix_fmt, options={"crf": "10"}), [], Encoder.write

    def record(self: Encoder, frame: Frame) -> None:
        written.append(frame.planes)
        write(self, frame)

    monkeypatch.setattr(Encoder, "write", record)
    target = vsr.upscale(clip, tmp_path / "out.mp4", model="identity").target
    _, *upscaled = written  # the first tries the encoder and the assembly out
    for before, handed in zip(all_planes(clip), upscaled, strict=True):
        for plane, returned in zip(before, handed, strict=True):
            np.testing.assert_array_equal(plane, returned)
    with av.open(str(target)) as container:
        assert container.streams.video[0].pix_fmt == pix_fmt


def test_the_output_is_what_the_model_makes(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, weights = make_clip(pix_fmt="yuv444p"), tmp_path / "fresh.safetensors"
    save_network(weights, Generator(blocks=1, channels=4), {})
    target = vsr.upscale(clip, tmp_path / "out.mp4", model=str(weights), batch_size=3, **LOSSLESS).target
    model = vsr.load_model(str(weights))
    with av.open(str(clip)) as source, av.open(str(target)) as result:
        for before, after in zip(source.decode(video=0), result.decode(video=0), strict=True):
            expected = model.upscale(before.to_ndarray(format="rgb24")).astype(int)
            # swscale's 8-bit RGB on both sides costs some codes; the frame before or behind would cost five on average.
            assert np.abs(after.to_ndarray(format="rgb24") - expected).mean() < 1.5


def test_audio_is_copied_bit_for_bit(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(audio=["aac", "libopus"])
    summary = vsr.upscale(clip, tmp_path / "out.mp4", model="bicubic", scale=2)
    for stream in range(2):
        assert audio_packets(summary.target, stream) == audio_packets(clip, stream) != []
    assert summary.streams == ("stream 1, aac audio: copied", "stream 2, opus audio: copied")


def test_audio_none_drops_the_audio(make_clip: MakeClip, tmp_path: Path) -> None:
    target = vsr.upscale(make_clip(audio=["aac"]), tmp_path / "out.mp4", model="bicubic", audio="none").target
    with av.open(str(target)) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_an_untagged_clip_that_grows_past_720_lines_keeps_its_colours(make_clip: MakeClip, tmp_path: Path) -> None:
    """Untagged, 180 lines are BT.601 and 720 are BT.709 to any player."""
    clip = make_clip(size=(32, 180), pix_fmt="yuv444p", pts=[0])
    target = vsr.upscale(clip, tmp_path / "out.mp4", model="bicubic", **LOSSLESS).target
    with av.open(str(clip)) as source, av.open(str(target)) as result:
        before = next(source.decode(video=0)).to_ndarray(format="rgb24", src_colorspace="ITU601").mean((0, 1))
        after = next(result.decode(video=0)).to_ndarray(format="rgb24", src_colorspace="ITU709").mean((0, 1))
    np.testing.assert_allclose(before, after, atol=1.5)


def test_progress_reports_every_batch(make_clip: MakeClip, tmp_path: Path) -> None:
    seen = []
    vsr.upscale(make_clip(), tmp_path / "out.mp4", model="bicubic", batch_size=3, progress=seen.append)
    assert [at.frames for at in seen] == [0, 3, 6, 8], "the number of frames is known from the beginning"
    assert {at.num_frames for at in seen} == {8}


def test_overwrite_replaces_the_output(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, target = make_clip(), tmp_path / "out.mp4"
    target.write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"out.mp4 exists already; overwrite=True replaces it"):
        vsr.upscale(clip, target, model="bicubic")
    assert target.read_bytes() == b"precious"
    vsr.upscale(clip, target, model="bicubic", overwrite=True)
    assert len(timestamps(target)) == 8


def test_the_input_is_never_overwritten(make_clip: MakeClip) -> None:
    clip = make_clip()
    before = clip.read_bytes()
    with pytest.raises(OutputError, match="is one of the inputs"):
        vsr.upscale(clip, clip, model="bicubic", overwrite=True)
    assert clip.read_bytes() == before


def test_impossible_requests_are_refused(make_clip: MakeClip, tiny_weights: Path, tmp_path: Path) -> None:
    clip = make_clip()
    with pytest.raises(UsageError, match=r"its name must end in .mp4"):
        vsr.upscale(clip, tmp_path / "out.xyz")
    with pytest.raises(OutputError, match="is a folder; name a file in it"):
        vsr.upscale(clip, tmp_path)
    with pytest.raises(InputError, match="cannot read .*missing.mp4: No such file"):
        vsr.upscale(tmp_path / "missing.mp4", tmp_path / "out.mp4")
    with pytest.raises(UnknownModelError, match="there is no model 'nope'"):
        vsr.upscale(clip, tmp_path / "out.mp4", model="nope")
    with pytest.raises(UsageError, match="the CPU does not compute in fp16: use precision='int8' or 'bf16' or 'fp32'"):
        vsr.upscale(clip, tmp_path / "no" / "out.mp4", model=str(tiny_weights), device="cpu", precision="fp16")
    with pytest.raises(InputError, match="https://example.org/a.mp4 is an address, and vsr reads files only"):
        vsr.upscale("https://example.org/a.mp4", tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"], "no folder is left"


def test_missing_folders_of_the_output_are_made(make_clip: MakeClip, tmp_path: Path) -> None:
    vsr.upscale(make_clip(), tmp_path / "new" / "deep" / "out.mp4", model="bicubic")
    assert len(timestamps(tmp_path / "new" / "deep" / "out.mp4")) == 8


def test_the_rest_beyond_the_models_scale_is_bicubic(
    make_clip: MakeClip, tiny_weights: Path, tmp_path: Path
) -> None:
    plans: list[ClipPlan] = []
    options = UpscaleOptions(model=str(tiny_weights), scale=6, device="cpu")
    upscale_clip(make_clip(), tmp_path / "out.mkv", options, on_plan=plans.append)
    line = str(plans[0])
    assert re.match(r"clip.mp4: 48x32 to 288x192, 8 frames; tiny-x4 and bicubic x1.5 on cpu in fp32, openvino ", line)
    assert re.search(r"; ffmpeg \d+(\.\d+)*$", line)
    after = probe(tmp_path / "out.mkv").video
    assert (after.width, after.height) == (288, 192)


class Failing(torch.nn.Module):
    """Fails after some frames."""

    scale = 1
    wants_unit_range = False
    peak_floats_per_pixel = 1

    def __init__(self, error: BaseException, after: int = 3) -> None:
        super().__init__()
        self.error, self.left = error, after

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return lr


@pytest.mark.parametrize("error", [VsrError("the device is gone"), ValueError("a bug"), KeyboardInterrupt()])
def test_any_error_of_the_network_ends_the_job(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr("vsr.pipeline.segment.load_model", lambda *_, **__: Engine(Failing(error), device="cpu"))
    with pytest.raises(type(error)):
        vsr.upscale(make_clip(pts=range(0, 100 * 512, 512)), tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_an_encoder_that_fails_half_way_ends_the_job(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    write = Encoder.write

    def fails(self: Encoder, frame: object) -> None:
        written.append(frame)
        if len(written) == 4:
            raise OutputError("encoding failed: no space left on device.")
        write(self, frame)  # type: ignore[arg-type]

    monkeypatch.setattr(Encoder, "write", fails)
    with pytest.raises(OutputError, match="no space left"):
        vsr.upscale(make_clip(pts=range(0, 100 * 512, 512)), tmp_path / "out.mp4", model="bicubic")
    assert not (tmp_path / "out.mp4").exists()


def test_a_job_folder_of_a_killed_job_does_not_block_a_new_one(make_clip: MakeClip, tmp_path: Path) -> None:
    stale = tmp_path / "out.mp4.vsr-job"
    stale.mkdir()
    (stale / "lock").touch()
    (stale / ".vsr-4711-manifest.json").write_bytes(b"half")
    assert vsr.upscale(make_clip(), tmp_path / "out.mp4", model="bicubic").frames == 8


def test_a_failed_assembly_keeps_what_was_computed(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise FFmpegError("ffmpeg failed with code 1: no such luck")

    folder = tmp_path / "out.mp4.vsr-job"
    with monkeypatch.context() as context:
        context.setattr("vsr.pipeline.outputs.assemble", fails)
        with pytest.raises(FFmpegError, match=f"no such luck. 8 frames are kept in {folder}; run again to resume"):
            vsr.upscale(make_clip(), tmp_path / "out.mp4", model="bicubic")
    assert not (tmp_path / "out.mp4").exists()
    assert vsr.upscale(tmp_path / "clip.mp4", tmp_path / "out.mp4", model="bicubic").resumed == 8


def test_two_jobs_do_not_write_one_output(make_clip: MakeClip, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    folder = tmp_path / "out.mp4.vsr-job"
    folder.mkdir()
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another vsr is writing .*out.mp4"):
            vsr.upscale(make_clip(), tmp_path / "out.mp4", model="bicubic")
        assert folder.is_dir()
    assert vsr.upscale(tmp_path / "clip.mp4", tmp_path / "out.mp4", model="bicubic").frames == 8


def test_a_target_that_appears_during_the_job_is_kept(make_clip: MakeClip, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    with pytest.raises(OutputError, match="exists already; overwrite=True replaces it. 8 frames are kept in "):
        vsr.upscale(make_clip(), target, model="bicubic", progress=lambda _: target.write_bytes(b"precious"))
    assert target.read_bytes() == b"precious"
    assert vsr.upscale(tmp_path / "clip.mp4", target, model="bicubic", overwrite=True).resumed == 8


def test_rgb_uses_all_codes(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("rgb.mkv", codec="ffv1", pix_fmt="bgr0", pts=[0], time_base=Fraction(1, 25))
    target = vsr.upscale(clip, tmp_path / "out.mp4", model="identity", **LOSSLESS).target
    with av.open(str(clip)) as source, av.open(str(target)) as result:
        before = next(source.decode(video=0)).to_ndarray(format="rgb24").astype(int)
        after = next(result.decode(video=0)).to_ndarray(format="rgb24", src_colorspace="ITU709")
    assert np.abs(after - before).mean() < 2
    assert before.max() > 220 > 40 > before.min()


def test_file_names_that_look_like_options_or_urls(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("a:b %03d 'ü'.mp4", audio=["aac"])
    assert vsr.upscale(clip, tmp_path / "-out: %d.mkv", model="bicubic").frames == 8


def test_real_clips_keep_every_frame_and_packet(shared_data: Path, tmp_path: Path) -> None:
    for name in ("bbb_176x144_128kbps_15fps_h263.3gp", "bt601.mp4"):
        clip = shared_data / "clips" / name
        target = vsr.upscale(clip, tmp_path / f"{name}.mkv", model="bicubic", preset="ultrafast").target
        pairs = list(zip(timestamps(clip), timestamps(target), strict=True))
        assert max(abs(before - after) for before, after in pairs) <= Fraction(1, 1000)
        if name == "bt601.mp4":
            copied = [packet for packet, _ in audio_packets(target, 0)]
            assert copied == [packet for packet, _ in audio_packets(clip, 0)] != []
