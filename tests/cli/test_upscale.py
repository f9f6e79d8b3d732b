"""The first commands that a person types: where the output goes, how sizes are written, what is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from processes import without_plan

from vsr.cli import main
from vsr.cli.options import parse_height, parse_scale, parse_size, parse_time
from vsr.errors import UsageError
from vsr.media.probe import probe
from vsr.media.provenance import Provenance, read_provenance
from vsr.pipeline.folder import outputs_beside, split_output
from vsr.pipeline.options import UpscaleOptions

MakeClip = Callable[..., Path]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def clip(make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clip ``in.mp4`` in the current folder."""
    monkeypatch.chdir(tmp_path)
    make_clip("in.mp4")
    return Path("in.mp4")


def made(result: Result) -> set[str]:
    assert result.exit_code == 0, result.output
    return {path.as_posix() for path in Path().rglob("*") if path.is_file()} - {"in.mp4"}


@pytest.mark.parametrize(
    ("words", "target"),
    [
        ("in.mp4 --model bicubic", "in_x4.mp4"),
        ("upscale in.mp4 --model bicubic", "in_x4.mp4"),
        ("--model bicubic in.mp4", "in_x4.mp4"),
        ("-y in.mp4 --model bicubic", "in_x4.mp4"),
        ("in.mp4 --model identity", "in_x1.mp4"),
        ("in.mp4 --model bicubic --scale 1.5", "in_x1.5.mp4"),
        ("in.mp4 --model bicubic --height 128p", "in_128p.mp4"),
        ("in.mp4 --model bicubic --size 64x48", "in_64x48.mp4"),
        ("in.mp4 --model bicubic -ss 0.08", "in_x4_0.08s-.mp4"),
        ("in.mp4 --model bicubic -ss .08 -to 0.2", "in_x4_0.08s-0.2s.mp4"),
        ("upscale in.mp4 out.mkv --model bicubic", "out.mkv"),
        ("in.mp4 new/deep/out.mp4 --model bicubic", "new/deep/out.mp4"),
        ("upscale in.mp4 -o new/ --model bicubic", "new/in.mp4"),
        ("upscale in.mp4 new/ --model bicubic", "new/in.mp4"),
    ],
)
def test_where_the_output_goes(clip: Path, words: str, target: str) -> None:
    result = invoke(*words.split())
    assert made(result) == {target}
    assert result.stdout.startswith(f"{target}: ")


def test_a_folder_gets_its_outputs_beside_it_and_outputs_are_no_inputs(clip: Path) -> None:
    Path("clips").mkdir()
    shutil.copy(clip, "clips/a.mp4")
    assert made(invoke("clips", "--model", "bicubic")) == {"clips/a.mp4", "clips_x4/a.mp4"}
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(clip, name)
    assert invoke("a.mp4", "b.mp4", "in.mp4", "--model", "bicubic", "--scale", 2).exit_code == 0
    again = invoke("a.mp4", "a_x2.mp4", "b.mp4", "b_x2.mp4", "--model", "bicubic", "--scale", 2)
    assert again.exit_code == 0 and not Path("a_x2_x2.mp4").exists()


def test_a_second_name_that_exists_could_be_either(clip: Path) -> None:
    shutil.copy(clip, "other.mp4")
    result = invoke("in.mp4", "other.mp4", "--model", "bicubic")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: other.mp4 exists: is it the output, or an input too? For the output write")
    assert "-o other.mp4" in result.stderr and not Path("in_x4.mp4").exists()


@pytest.mark.parametrize("target", ["out/", "out", "frames/%03d.png", "out.mkv"])
def test_the_same_command_again_means_the_same(clip: Path, target: str) -> None:
    words = [clip, target, "--model", "bicubic", "--scale", 2]
    if target == "out":
        Path("out").mkdir()
    first = made(invoke(*words))
    again = invoke(*words)
    assert again.exit_code in (0, 1) and "exists already; --overwrite replaces it" in again.output, again.output
    assert made(invoke(*words, "-y")) == first


@pytest.mark.parametrize("target", ["out/", "out"])
def test_the_same_command_resumes_into_its_folder(clip: Path, target: str) -> None:
    shutil.copy(clip, "other.mp4")
    Path("out/in.mp4.vsr-job").mkdir(parents=True)  # as an interrupt leaves it
    assert split_output(["in.mp4", "other.mp4", target]) == (("in.mp4", "other.mp4"), target)


def test_folders_that_may_be_inputs_are_not_taken_for_the_output(clip: Path) -> None:
    for name in ("clips", "more"):
        Path(name).mkdir()
        shutil.copy(clip, f"{name}/{name}.mp4")
    for names in (["clips/", "more/"], ["in.mp4", "more"], ["clips", "more"]):
        with pytest.raises(UsageError, match="more/? is a folder: is it the output, or an input too?"):
            split_output(names)


def test_two_inputs_never_share_an_output(clip: Path, make_clip: MakeClip) -> None:
    for ending in (".mpg", ".wmv", ".mkv"):
        shutil.copy(clip, f"a{ending}")
    pairs = outputs_beside([Path("a.mkv"), Path("a.mpg"), Path("a.wmv")], UpscaleOptions(model="bicubic"))
    assert [pair.target.name for pair in pairs] == ["a_x4.mkv", "a.mpg_x4.mkv", "a.wmv_x4.mkv"]


def test_an_input_is_never_the_output_of_another(clip: Path) -> None:
    shutil.copy(clip, "in_x4.mp4")  # the user's own
    for more in ([], ["-y"]):
        result = invoke("in.mp4", "in_x4.mp4", "in.mp4", "--model", "bicubic", *more)
        assert result.exit_code == 2 and "in_x4.mp4 is an input, and in.mp4 would become it too" in result.stderr
    assert Path("in_x4.mp4").read_bytes() == clip.read_bytes()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a" * 300 + ".mp4", "is too long for this system"),
        ("/", "there is no place beside /: name the output with -o."),
        ("50%discount.png", "50%discount_x4.png would stand for many pictures: name the output with -o."),
    ],
)
def test_names_beside_which_there_is_no_place(clip: Path, name: str, sentence: str) -> None:
    if name.startswith("50"):
        cv2.imwrite(name, np.zeros((8, 8, 3), np.uint8))
    result = invoke("upscale", name, "--model", "bicubic")
    assert result.exit_code == 2 and sentence in result.stderr and "a bug" not in result.stderr


def test_a_clip_named_like_a_pattern_is_a_clip(clip: Path) -> None:
    shutil.copy(clip, "100%done.mp4")
    assert made(invoke("100%done.mp4", "--model", "bicubic")) == {"100%done.mp4", "100%done_x4.mp4"}


def test_a_part_of_a_part_is_a_part_of_the_whole(clip: Path) -> None:
    assert invoke(clip, "part.mp4", "--model", "identity", "-ss", "0.08").exit_code == 0
    assert invoke("part.mp4", "whole.mp4", "--model", "identity").exit_code == 0
    assert invoke("part.mp4", "less.mp4", "--model", "identity", "-ss", "0.04", "-to", "0.12").exit_code == 0
    found = [read_provenance(Path(name)) for name in ("part.mp4", "whole.mp4", "less.mp4")]
    assert [(made.start, made.end) for made in found if made] == [
        (Fraction("0.08"), None), (Fraction("0.08"), None), (Fraction("0.12"), Fraction("0.2")),
    ]  # fmt: skip


def test_options_without_effect_are_named(clip: Path) -> None:
    result = invoke(clip, "out.gif", "--model", "identity", "--crf", 20)
    assert result.exit_code == 2 and "a GIF has no --crf and no --preset: leave them out." in result.stderr
    result = invoke(clip, "f%02d.png", "--model", "identity", "--crf", 20, "--codec", "hevc")
    assert result.exit_code == 0
    assert "warning: f%02d.png: pictures have no --codec, --crf: without effect." in result.stderr


def test_a_command_after_its_options_is_no_input(clip: Path) -> None:
    result = invoke("-v", "compare", clip, "x.mp4", "-o", "s.png")
    assert result.exit_code == 2 and "no such option '-v'" in result.stderr.replace(": -v", " '-v'")


def test_a_pattern_is_no_output(clip: Path) -> None:
    Path("clips").mkdir()
    shutil.copy(clip, "clips/a.mp4")
    assert made(invoke("in.mp4", "clips/*.mp4", "--model", "bicubic")) == {
        "clips/a.mp4", "clips/a_x4.mp4", "in_x4.mp4",
    }  # fmt: skip


def test_an_existing_output_is_kept_without_y(clip: Path) -> None:
    Path("in_x4.mp4").write_bytes(b"precious")
    refused = invoke(clip, "--model", "bicubic")
    assert refused.exit_code == 1 and "in_x4.mp4 exists already; --overwrite replaces it." in refused.stderr
    assert Path("in_x4.mp4").read_bytes() == b"precious"
    assert invoke(clip, "--model", "bicubic", "-y").exit_code == 0
    assert probe(Path("in_x4.mp4")).video.width == 192


def test_a_refused_job_leaves_no_folder(clip: Path) -> None:
    assert invoke(clip, "-o", "new/deep/out.mp4", "--model", "nope").exit_code == 2
    assert invoke(clip, "-o", "new/deep/out.mp4", "--model", "bicubic", "--dry-run").exit_code == 0
    assert list(Path().iterdir()) == [clip]


def test_what_will_be_done_is_said_once_before_the_work(clip: Path, tiny_weights: Path) -> None:
    result = invoke(clip, "--model", tiny_weights, "--device", "cpu")
    first, *others = result.stderr.splitlines()
    assert first.startswith("vsr: in.mp4: 48x32 to 192x128, 8 frames; tiny-x4 on cpu in fp32, openvino ")
    assert "; ffmpeg " in first and others == [], "it is not calibrated for int8"
    assert invoke(clip, "--model", tiny_weights, "-y", "-q").output == ""


def test_the_fast_precision_of_a_cpu_is_named(clip: Path) -> None:
    said = invoke(clip, "--model", "srgan-x2", "--device", "cpu", "--end", 0.04).stderr.splitlines()
    assert said[1:] == ["vsr: --precision int8 is two to three times as fast here."]
    chosen = invoke(clip, "--model", "srgan-x2", "--device", "cpu", "--end", 0.04, "-y", "--precision", "int8")
    assert chosen.exit_code == 0 and len(chosen.stderr.splitlines()) == 1


def test_a_dry_run_says_that_it_measures(clip: Path) -> None:
    result = invoke(clip, "--model", "bicubic", "--dry-run")
    assert result.exit_code == 0
    assert without_plan(result.stderr) == "vsr: upscaling a few frames, to measure time and size ...\n"
    assert result.stdout.startswith("in_x4.mp4: 8 frames of 192x128 in 1 segment; about ")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("https://example.org/a.mp4", None, "https://example.org/a.mp4 is an address, and vsr reads files only"),
        ("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "photo.heic is an HEIC picture, which vsr cannot decode"),
        ("missing.mp4", None, "cannot read missing.mp4: No such file or directory."),
    ],
)
def test_an_input_that_cannot_be(clip: Path, name: str, content: bytes | None, sentence: str) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    result = invoke(name, "--model", "bicubic")
    assert result.exit_code == 1 and result.stderr.startswith(f"error: {sentence}")
    assert len(result.stderr.splitlines()) == 1


def test_scale_1_restores_at_the_same_size(clip: Path, tiny_weights: Path) -> None:
    result = invoke(clip, "out.mp4", "--model", tiny_weights, "--scale", 1)
    assert result.exit_code == 0, result.output
    video = probe(Path("out.mp4")).video
    assert (video.width, video.height) == (48, 32)
    assert "48x32 to 48x32, 8 frames; tiny-x4 on" in result.stderr


@pytest.mark.parametrize("target", ["out.mp4", "out.mov", "out.mkv", "out.webm", "out.avi"])
def test_the_output_says_how_it_was_made(clip: Path, target: str) -> None:
    result = invoke(clip, target, "--model", "bicubic", "--scale", "1.5x", "-ss", "0.08", "-to", "0:0.24")
    assert result.exit_code == 0, result.output
    from vsr import __version__

    assert read_provenance(Path(target)) == Provenance(
        __version__, "bicubic", 1, 1.5, Fraction(2, 25), Fraction(6, 25)
    )
    assert read_provenance(clip) is None


def test_an_output_of_an_output_names_the_last_step(clip: Path) -> None:
    assert invoke(clip, "once.mp4", "--model", "bicubic", "--scale", 2).exit_code == 0
    assert invoke("once.mp4", "twice.mp4", "--model", "identity").exit_code == 0
    found = read_provenance(Path("twice.mp4"))
    assert found is not None and (found.model, found.scale) == ("identity", 1)


def test_the_comment_of_the_source_is_kept_beside_it(clip: Path, ffmpeg: Callable[..., str]) -> None:
    ffmpeg("-i", clip, "-c", "copy", "-metadata", "comment=grandma in 1998", "said.mp4")
    assert invoke("said.mp4", "out.mp4", "--model", "bicubic").exit_code == 0
    import av

    with av.open("out.mp4") as container:
        assert container.metadata["comment"] == "grandma in 1998"
    found = read_provenance(Path("out.mp4"))
    assert found is not None and found.model == "bicubic"


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_scale, "4x", 4), (parse_scale, "x2", 2), (parse_scale, "1.5", 1.5), (parse_scale, ".5X", 0.5),
        (parse_height, "1080p", 1080), (parse_height, "720", 720), (parse_height, "4K", 2160),
        (parse_size, "1920x1080", (1920, 1080)), (parse_size, "1920X1080", (1920, 1080)),
        (parse_size, "1920:1080", (1920, 1080)), (parse_size, "1920×1080", (1920, 1080)),
        (parse_time, ".5", Fraction(1, 2)), (parse_time, "1:30.5", Fraction(181, 2)),
    ],
)  # fmt: skip
def test_figures_as_people_write_them(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [(parse_scale, "four"), (parse_scale, ""), (parse_height, "p"), (parse_height, "1080i"), (parse_size, "1080p")],
)
def test_figures_that_are_none(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match="is not a (scale|height|size): write "):
        parse(text)


def test_the_options_of_the_help_stand_under_headings_the_common_ones_first() -> None:
    text = invoke("upscale", "--help").stdout
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == [
        "Common options:", "Picture:", "Part of the clip:", "Output:", "Machine:", "Job:", "Options:",
    ]  # fmt: skip
    common = text[text.index("Common options:") : text.index("Picture:")]
    assert sum(line.startswith("  -") for line in common.splitlines()) == 10


@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg", ".webp"])
@pytest.mark.parametrize("deep", [False, True])
def test_a_picture_says_how_it_was_made(clip: Path, ending: str, deep: bool) -> None:
    source = Path("deep.png")
    cv2.imwrite(str(source), np.full((8, 8, 3), 300 if deep else 30, np.uint16 if deep else np.uint8))
    assert invoke(source, f"out{ending}", "--model", "bicubic", "--scale", 3).exit_code == 0
    found = read_provenance(Path(f"out{ending}"))
    assert found is not None and (found.model, found.scale, found.start) == ("bicubic", 3, None)
    assert read_provenance(source) is None
