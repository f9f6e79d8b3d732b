"""Clips against their reference, from file to table: known differences, times, depths, matrices, bad input."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vsr.errors import FFmpegError, InputError, OutputError, UsageError, VsrError
from vsr.evaluation import vmaf
from vsr.evaluation.options import VideoEvalOptions
from vsr.evaluation.scores import PANELS, OutputScore, VideoReport, frames_table, plot_frames, video_table
from vsr.evaluation.tables import to_csv, to_json, to_text
from vsr.evaluation.videos import VideoEvalProgress, evaluate_videos
from vsr.media.provenance import Provenance

CODE = 219 / 255
"""Change of MATLAB's Y, in codes, if red, green and blue change by one of 255."""

pytestmark = pytest.mark.usefixtures("leaves_nothing")


def evaluate(reference: Path, *outputs: Path, **options: object) -> VideoReport:
    chosen = {"vmaf": False, "steadiness": False, **options}
    return evaluate_videos(VideoEvalOptions(reference=reference, outputs=outputs, **chosen))  # type: ignore[arg-type]


def score(reference: Path, output: Path, **options: object) -> OutputScore:
    return evaluate(reference, output, **options).outputs[0]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes pictures losslessly, each at its time."""

    def make(
        name: str,
        pictures: Sequence[np.ndarray],
        *,
        pts: Sequence[int] | None = None,
        time_base: Fraction = Fraction(1, 25),
        pix_fmt: str = "bgr0",
        matrix: int = 2,
        codec: str = "ffv1",
    ) -> Path:
        path = tmp_path / name
        height, width = pictures[0].shape[:2]
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            stream.codec_context.time_base = stream.time_base = time_base
            stream.codec_context.colorspace = matrix
            for number, picture in enumerate(pictures):
                packed = "rgb24" if picture.dtype == np.uint8 else "rgb48le"
                frame = av.VideoFrame.from_ndarray(picture, packed)
                if pix_fmt.startswith("yuv"):
                    frame = frame.reformat(format=pix_fmt, dst_colorspace=matrix)
                else:
                    frame = frame.reformat(format=pix_fmt)
                frame.pts, frame.time_base = number if pts is None else pts[number], time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make


def textures(count: int, *, height: int = 48, width: int = 64, step: int = 2) -> list[np.ndarray]:
    """(height, width, 3) uint8, 60..190: views of blurred noise, each ``step`` columns further right."""
    noise = np.random.default_rng(0).normal(size=(height, width + step * count, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    whole = (125 + 25 * smooth / smooth.std()).clip(60, 190).astype(np.uint8)
    return [np.ascontiguousarray(whole[:, step * number : step * number + width]) for number in range(count)]


def test_a_clip_scores_perfectly_against_itself(write: Callable[..., Path]) -> None:
    clip = write("a.mkv", textures(4))
    found = score(clip, clip, steadiness=True)
    assert found.psnr_y == found.psnr_y_of_mean == math.inf
    assert found.ssim_y == 1 and found.num_equal == 4
    assert found.warping_error == found.reference_warping_error
    assert found.warping_error is not None and found.warping_error < 0.5


def test_psnr_of_known_differences(write: Callable[..., Path]) -> None:
    pictures = textures(3)
    shifts = (1, 2, 4)
    output = [picture + np.uint8(shift) for picture, shift in zip(pictures, shifts, strict=True)]
    found = score(write("ref.mkv", pictures), write("out.mkv", output))
    expected = [20 * math.log10(255 / (shift * CODE)) for shift in shifts]
    assert [frame.psnr_y for frame in found.frames] == pytest.approx(expected, abs=1e-3)
    assert found.psnr_y == pytest.approx(sum(expected) / 3, abs=1e-3)
    mean_square = sum((shift * CODE) ** 2 for shift in shifts) / 3
    assert found.psnr_y_of_mean == pytest.approx(10 * math.log10(255**2 / mean_square), abs=1e-3)


def test_equal_frames_are_counted_and_left_out_of_the_mean(write: Callable[..., Path]) -> None:
    pictures = textures(3)
    found = evaluate(
        write("ref.mkv", pictures), write("out.mkv", [pictures[0], pictures[1] + np.uint8(1), pictures[2]])
    )
    output = found.outputs[0]
    one = 20 * math.log10(255 / CODE)
    assert output.num_equal == 2
    assert output.psnr_y == pytest.approx(one, abs=1e-3)
    assert output.psnr_y_of_mean == pytest.approx(one + 10 * math.log10(3), abs=1e-3)
    assert "2 frames equal the reference's in luma." in to_text(video_table(found))


def test_a_border_is_left_out(write: Callable[..., Path]) -> None:
    pictures = textures(2)
    framed = [picture.copy() for picture in pictures]
    for picture in framed:
        picture[:4], picture[:, -4:] = 0, 0
    reference, output = write("ref.mkv", pictures), write("out.mkv", framed)
    assert score(reference, output).psnr_y < 30
    assert score(reference, output, border=4).psnr_y == math.inf


def test_more_than_8_bits_are_compared(write: Callable[..., Path]) -> None:
    deep = [picture.astype(np.uint16) << 8 for picture in textures(2)]
    reference = write("ref.mkv", deep, pix_fmt="gbrp10le")
    output = write("out.mkv", [picture + np.uint16(64) for picture in deep], pix_fmt="gbrp10le")
    assert score(reference, output).psnr_y == pytest.approx(20 * math.log10(255 / (219 / 1023)), abs=0.01)


def test_each_clip_is_converted_with_its_own_matrix(write: Callable[..., Path]) -> None:
    pictures = textures(2)
    old, new = (write(f"{matrix}.mkv", pictures, pix_fmt="yuv444p", matrix=matrix) for matrix in (5, 1))
    found = evaluate(write("ref.mkv", pictures), old, new)
    assert all(output.psnr_y > 50 for output in found.outputs)
    between = score(old, new)
    assert between.psnr_y > 48
    assert "Its matrix is bt709, the reference's bt601." in between.notes


def test_dropped_frames_are_found_and_named(write: Callable[..., Path]) -> None:
    pictures = textures(12)
    kept = [number for number in range(12) if number not in (3, 8)]
    reference = write("ref.mkv", pictures)
    output = write("out.mkv", [pictures[number] for number in kept], pts=kept)
    with pytest.raises(
        InputError, match=r"2 of 12 frames of .*ref.mkv have no partner in .*out.mkv \(frames 3 at 0.120"
    ):
        evaluate(reference, output)
    found = evaluate(reference, output, max_unpaired=0.2, steadiness=True)
    assert found.outputs[0].num_equal == 10
    assert [frame.number for frame in found.outputs[0].frames] == kept
    assert [frame.output_number for frame in found.outputs[0].frames] == list(range(10))
    missing = [frame.number for frame in found.outputs[0].frames if frame.warping_error is None]
    assert missing == [0, 4, 9], "nothing is compared across a gap"
    text = to_text(video_table(found))
    assert "Without a partner: 2 of the reference's frames, frames 3 at 0.120 s, 8 at 0.320 s." in text


def test_irregular_times_pair_across_containers(make_clip: Callable[..., Path], write: Callable[..., Path]) -> None:
    pictures = textures(6)
    ticks = [0, 1501, 3003, 9009, 9800, 20020]
    exact = write("ref.mov", pictures, pts=ticks, time_base=Fraction(1, 30000), pix_fmt="rgb24", codec="qtrle")
    found = score(exact, write("out.mkv", pictures, pts=ticks, time_base=Fraction(1, 30000)))
    assert found.num_equal == 6
    assert 0 < found.pairing.largest_offset <= Fraction(1, 1000)


def test_clips_with_b_frames_and_a_start_offset_pair(make_clip: Callable[..., Path]) -> None:
    late = {"size": (64, 48), "pts": range(6400, 6400 + 8 * 512, 512)}
    reference = make_clip("ref.mp4", **late, options={"preset": "medium", "bf": "3", "crf": "0"})
    assert score(reference, make_clip("out.mkv", **late, codec="libx264", options={"crf": "0"})).num_equal == 8
    early = make_clip("early.mp4", size=(64, 48), options={"crf": "0"})
    shifted = score(reference, early, align="start")
    assert shifted.num_equal == 8
    assert "It starts 0.500 s before the reference." in shifted.notes
    with pytest.raises(
        InputError, match=r"no frame of .*early.mp4 has the time of .* 0.000 to 0.280 s and 0.500 to"
    ):
        evaluate(reference, early)


def test_an_offset_of_whole_frames_is_noted(write: Callable[..., Path]) -> None:
    pictures = textures(25)
    found = score(write("ref.mkv", pictures), write("out.mkv", pictures, pts=range(1, 26)))
    assert found.num_equal == 0 and len(found.frames) == 24
    assert "It starts 0.040 s after the reference; align='start' pairs from the first frames instead." in found.notes


def test_clips_of_different_rates_pair_at_common_times(write: Callable[..., Path]) -> None:
    pictures = textures(10)
    slow = write("slow.mkv", pictures[::2], pts=range(0, 10, 2))
    found = score(write("ref.mkv", pictures), slow)
    assert [(frame.number, frame.output_number) for frame in found.frames] == [(0, 0), (2, 1), (4, 2), (6, 3), (8, 4)]
    assert found.num_equal == 5
    assert "The frame rates differ; 5 frames show the same moment." in found.notes


PART = Provenance("1.0", "tiny", 1, 4, start=Fraction(12, 25), end=Fraction(22, 25))


def a_part(write: Callable[..., Path], state_origin: Callable[..., Path], name: str, **more: object) -> Path:
    """Write frames 12 to 21 of ``textures(30)``, with times from zero, and say so in the file."""
    return state_origin(write(name, textures(30)[12:22]), replace(PART, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["part.mkv", "part.mp4"])
def test_a_part_is_measured_against_the_same_part_of_its_source(
    write: Callable[..., Path], state_origin: Callable[..., Path], name: str
) -> None:
    codec = {"codec": "libx264rgb", "pix_fmt": "rgb24"} if name.endswith("mp4") else {}
    whole = write("whole.mkv", textures(30))
    part = state_origin(write(name, textures(30)[12:22], **codec), PART)
    seen: list[VideoEvalProgress] = []
    options = VideoEvalOptions(reference=whole, outputs=(part,), vmaf=False, lr=whole)
    found = evaluate_videos(options, seen.append).outputs[0]
    assert [(frame.number, frame.output_number) for frame in found.frames] == [(12 + at, at) for at in range(10)]
    assert found.psnr_y > 40 and found.pairing.reference_unpaired == ()
    assert [frame.number for frame in found.frames if frame.warping_error is None] == [12]
    assert "It shows a part of the source; both are compared from 0.480 to 0.840 s." in found.notes
    comparing = [at for at in seen if at.stage == "comparing"]
    assert [at.frames for at in comparing] == list(range(1, 11)) and comparing[0].num_frames == 10


def test_a_whole_output_is_measured_against_a_part_of_its_original(
    write: Callable[..., Path], state_origin: Callable[..., Path]
) -> None:
    whole, part = write("whole.mkv", textures(30)), a_part(write, state_origin, "part.mkv")
    found = evaluate(part, whole, part)
    assert [output.num_equal for output in found.outputs] == [10, 10]
    assert [(frame.number, frame.output_number) for frame in found.outputs[0].frames][:2] == [(0, 12), (1, 13)]
    assert found.outputs[0].frames[0].seconds == pytest.approx(0.48)
    assert "The reference shows a part of the source" in found.outputs[0].notes[0]


def test_parts_are_measured_where_they_overlap(write: Callable[..., Path], state_origin: Callable[..., Path]) -> None:
    one = a_part(write, state_origin, "one.mkv")
    two = state_origin(write("two.mkv", textures(30)[18:28]), replace(PART, start=Fraction(18, 25), end=None))
    found = score(one, two)
    assert found.num_equal == 4 and [frame.number for frame in found.frames] == [6, 7, 8, 9]
    late = state_origin(write("late.mkv", textures(30)[25:28]), replace(PART, start=Fraction(1), end=None))
    with pytest.raises(InputError, match=r"no frame of .*late.mkv has the time of .*: their times are 1.000 to"):
        evaluate(one, late)
    assert evaluate(one, late, align="start", max_unpaired=1).outputs[0].frames[0].number == 0


def test_a_frame_that_a_part_lacks_is_without_a_partner(
    write: Callable[..., Path], state_origin: Callable[..., Path]
) -> None:
    kept = [number for number in range(10) if number != 4]
    pictures = [textures(30)[12 + number] for number in kept]
    part = state_origin(write("part.mkv", pictures, pts=kept), PART)
    with pytest.raises(InputError, match=r"1 of 10 frames of .*whole.mkv have no partner in .*\(frame 16 at 0.640 s"):
        evaluate(write("whole.mkv", textures(30)), part)


@pytest.mark.parametrize("pts", [range(10), range(0, 20, 2)], ids=["equal rates", "other rates"])
def test_a_short_clip_that_does_not_say_which_part_it_shows_is_refused(
    write: Callable[..., Path], pts: Sequence[int]
) -> None:
    whole = write("whole.mkv", textures(60))
    short = write("short.mkv", textures(60)[30:40], pts=pts)
    with pytest.raises(InputError, match=r"of \d+ frames of .*whole.mkv have no partner in .*short.mkv"):
        evaluate(whole, short)


def test_flicker_shows_in_the_warping_error(write: Callable[..., Path]) -> None:
    pictures = textures(5, height=96, width=128)
    flickering = [
        picture + np.uint8(8) if number % 2 else picture - np.uint8(8) for number, picture in enumerate(pictures)
    ]
    reference = write("ref.mkv", pictures)
    found = evaluate(reference, reference, write("out.mkv", flickering), steadiness=True)
    steady, flicker = (output.warping_error for output in found.outputs)
    assert steady is not None and steady < 0.5
    assert flicker == pytest.approx(16 * CODE, abs=0.3)
    assert found.outputs[1].reference_warping_error == steady
    assert found.cuts == ()


def test_the_change_in_still_regions_is_relative_to_bicubic(write: Callable[..., Path]) -> None:
    still = textures(1)[0]
    turns = [0, 1, 0, 1, 0]
    reference = write("ref.mkv", [still] * 5)
    output = write("out.mkv", [still + np.uint8(6 * turn) for turn in turns])
    small = cv2.resize(still, (16, 12), interpolation=cv2.INTER_AREA)
    lr = write("lr.mkv", [small + np.uint8(2 * turn) for turn in turns])
    found = score(reference, output, steadiness=True, lr=lr)
    assert found.still_change == pytest.approx(6 * CODE, abs=1e-3)
    assert found.still_ratio == pytest.approx(3, abs=1e-3)
    assert [frame.still_pixels for frame in found.frames] == [0, *[48 * 64] * 4]
    without = score(reference, output, steadiness=True)
    assert without.still_change == found.still_change
    assert without.still_ratio is None, "the reference does not change at all"


def test_a_cut_is_listed_and_not_measured(write: Callable[..., Path]) -> None:
    bright, dark = ([picture // 2 + np.uint8(base) for picture in textures(6)] for base in (120, 0))
    clip = write("cut.mkv", [*bright[:3], *(np.ascontiguousarray(picture[::-1]) for picture in dark[3:])])
    found = evaluate(clip, clip, steadiness=True)
    assert found.cuts == (3,)
    assert [frame.number for frame in found.outputs[0].frames if frame.warping_error is None] == [0, 3]
    assert "frame 3 at 0.120 s" in to_text(video_table(found))


def test_vmaf_scores_paired_frames(write: Callable[..., Path]) -> None:
    pictures = textures(22)
    kept = [number for number in range(22) if number != 5]
    blurred = [cv2.GaussianBlur(pictures[number], (0, 0), 1.5) for number in kept]
    reference = write("ref.mkv", pictures, pix_fmt="yuv420p", matrix=5)
    output = write("out.mkv", blurred, pts=kept, pix_fmt="yuv420p", matrix=5)
    found = evaluate(reference, reference, output, vmaf=True)
    itself, other = found.outputs
    assert len([frame for frame in other.frames if frame.vmaf is not None]) == 21
    assert itself.vmaf is not None and 95 < itself.vmaf <= 100
    assert other.vmaf is not None and other.vmaf < itself.vmaf - 5
    assert other.vmaf_harmonic is not None and other.vmaf_harmonic <= other.vmaf
    assert found.vmaf_version


def test_vmaf_is_independent_of_depth_and_matrix(write: Callable[..., Path]) -> None:
    pictures = textures(4)
    reference = write("ref.mkv", pictures, pix_fmt="yuv444p", matrix=5)
    deep = write("deep.mkv", pictures, pix_fmt="yuv444p10le", matrix=1)
    itself, other = evaluate(reference, reference, deep, vmaf=True).outputs
    assert itself.vmaf is not None and other.vmaf == pytest.approx(itself.vmaf, abs=0.5)


def test_a_program_without_libvmaf_is_an_error_before_the_work(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write("a.mkv", textures(2))
    monkeypatch.setattr(vmaf, "find_program", lambda: "/bin/true")
    monkeypatch.setattr(vmaf, "bundled_program", lambda: None)
    vmaf.find_program_with_vmaf.cache_clear()
    try:
        with pytest.raises(FFmpegError, match="/bin/true is built without libvmaf; vmaf=False leaves VMAF out"):
            evaluate(clip, clip, vmaf=True)
    finally:
        vmaf.find_program_with_vmaf.cache_clear()


def test_unsuitable_sizes_are_refused(write: Callable[..., Path]) -> None:
    reference = write("ref.mkv", textures(2))
    with pytest.raises(InputError, match=r"out.mkv is 80x48 and .*ref.mkv is 64x48; clips must have the same size\.$"):
        evaluate(reference, write("out.mkv", textures(2, width=80)))
    with pytest.raises(InputError, match=r"lr.mkv is 80x48, larger than .*ref.mkv with 64x48"):
        evaluate(reference, reference, lr=write("lr.mkv", textures(2, width=80)))
    with pytest.raises(UsageError, match=r"and a border of 20 leaves less than the 11 pixels that SSIM needs"):
        evaluate(reference, reference, border=20)
    small = write("small.mkv", textures(2, height=24))
    with pytest.raises(InputError, match=r"small.mkv is 64x24; VMAF needs 32 pixels each way; vmaf=False"):
        evaluate(small, small, vmaf=True)


def test_files_without_video_are_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    clip = write("a.mkv", textures(2))
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), textures(1)[0])
    empty, noise, sound = tmp_path / "empty.mp4", tmp_path / "noise.mp4", tmp_path / "sound.m4a"
    empty.touch()
    noise.write_bytes(np.random.default_rng(0).bytes(4096))
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        container.mux(stream.encode(None))
    for path, message in (
        (tmp_path / "missing.mp4", r"cannot read .*missing.mp4: No such file"),
        (empty, "empty.mp4 is empty"),
        (noise, "noise.mp4 is not a video that can be read"),
        (picture, r"picture.png is a picture, not a clip"),
    ):
        for pair in ((clip, path), (path, clip)):
            with pytest.raises(InputError, match=message):
                evaluate(*pair)
    with pytest.raises(VsrError):
        evaluate(clip, sound)


def test_damage_is_reported_once(make_clip: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    reference = make_clip("ref.mp4", size=(64, 48), pts=range(0, 60 * 512, 512), options={"g": "5"})
    damaged = reference.with_name("damaged.mp4")
    content = bytearray(reference.read_bytes())
    middle = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2
    content[middle : middle + 400] = b"\xff" * 400
    damaged.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        found = score(reference, damaged, max_unpaired=1.0)
    reported = [record.getMessage() for record in caplog.records if "is damaged" in record.getMessage()]
    assert len(reported) <= 1
    assert found.pairing.output_unpaired == ()
    assert found.num_equal > 30


def test_a_single_frame_is_scored(write: Callable[..., Path]) -> None:
    clip = write("one.mkv", textures(1))
    found = evaluate(clip, clip, steadiness=True, vmaf=True)
    assert found.outputs[0].psnr_y == math.inf
    assert found.outputs[0].warping_error is None and found.outputs[0].still_ratio is None
    assert to_text(video_table(found))


def test_progress_counts_every_frame(write: Callable[..., Path]) -> None:
    clip = write("a.mkv", textures(3))
    seen: list[VideoEvalProgress] = []
    evaluate_videos(VideoEvalOptions(reference=clip, outputs=(clip,), vmaf=False, steadiness=False), seen.append)
    assert [(at.stage, at.frames) for at in seen] == [
        *(("reading", number) for number in range(1, 7)),
        *(("comparing", number) for number in range(1, 4)),
    ]
    assert seen[-1].num_frames == 3


def test_an_exception_closes_everything(write: Callable[..., Path]) -> None:
    clip = write("a.mkv", textures(6))

    def stop(at: VideoEvalProgress) -> None:
        if at.stage == "comparing" and at.frames == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_videos(VideoEvalOptions(reference=clip, outputs=(clip, clip), lr=clip), stop)


def test_the_tables_and_the_plot_hold_the_scores(write: Callable[..., Path], tmp_path: Path) -> None:
    pictures = textures(4)
    reference, output = write("ref.mkv", pictures), write("_out.mkv", [picture + np.uint8(2) for picture in pictures])
    found = evaluate(reference, reference, output, steadiness=True, vmaf=True, lr=reference)
    rows = list(csv.DictReader(line for line in io.StringIO(to_csv(frames_table(found))) if not line.startswith("#")))
    assert [row["output"] for row in rows] == ["ref.mkv"] * 4 + ["_out.mkv"] * 4
    assert float(rows[5]["PSNR-Y"]) == pytest.approx(20 * math.log10(255 / (2 * CODE)), abs=1e-3)
    assert rows[5]["time [s]" if "time [s]" in rows[5] else "time"] == "0.04"
    assert rows[0]["warping error"] == "" and float(rows[1]["warping error"]) >= 0
    assert '"unpaired": 0' in to_json(video_table(found))
    plot = tmp_path / "plot.png"
    plot_frames(found, plot)
    drawn = cv2.imread(str(plot))
    assert drawn is not None and drawn.shape[1] == 1200 and drawn.std() > 5
    with pytest.raises(OutputError, match="cannot write"):
        plot_frames(found, tmp_path / "missing" / "plot.png")
    renamed = replace(found, outputs=tuple(replace(each, path=Path("_$\\x$.mp4")) for each in found.outputs))
    plot_frames(renamed, plot)  # dollar signs are not read as a formula


def test_the_plot_says_which_way_is_better_and_begins_with_what_the_eye_sees(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write("ref.mkv", textures(3, height=64))
    found = evaluate(clip, write("out.mkv", [picture + np.uint8(2) for picture in textures(3, height=64)]), vmaf=True)
    titles: list[str] = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda axes, title, **more: titles.append(title))
    plot_frames(found, tmp_path / "plot.png")
    assert titles == [
        "VMAF, higher is better",
        "SSIM-Y, higher is better",
        "PSNR-Y in dB, higher is better (a gap: equal to the reference)",
    ]
    assert [panel.title.split(" is better")[0].rsplit(", ")[-1] for panel in PANELS[1:3]] == ["lower", "lower"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": ()}, "name a clip to compare with ref.mp4"),
        ({"border": -1}, "the border must not be negative, got -1"),
        ({"max_unpaired": 1.5}, "the share of frames without a partner lies in 0..1, got 1.5"),
        ({"align": "end"}, "align is one of time, start, got 'end'"),
        ({"vmaf_model": "a:b"}, "libvmaf has no model 'a:b'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        VideoEvalOptions(**{"reference": Path("ref.mp4"), "outputs": (Path("out.mp4"),), **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["vfr_irregular.mkv", "iibbibb_editlist_videoonly.mp4", "h264_10bits.mp4"])
def test_real_clips_score_perfectly_against_themselves(shared_data: Path, name: str) -> None:
    clip = shared_data / "clips" / name
    found = score(clip, clip)
    assert found.psnr_y == math.inf and found.pairing.reference_unpaired == ()


def test_the_cut_in_a_real_clip_is_found(shared_data: Path, tmp_path: Path) -> None:
    clip, part = shared_data / "clips/scene_cuts.mp4", tmp_path / "part.mkv"
    with av.open(str(clip)) as source, av.open(str(part), "w") as target:
        stream = target.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 136, "yuv420p"
        for number, frame in enumerate(source.decode(video=0)):
            if 24 <= number < 36:
                small = frame.reformat(640, 136, "yuv420p")
                small.pts, small.time_base = number, Fraction(1, 25)
                target.mux(stream.encode(small))
        target.mux(stream.encode(None))
    found = evaluate(part, part, steadiness=True)
    assert found.cuts == (6,)
