"""Many inputs: the output of each, failures of some, and outputs that exist already."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import vsr.media.probe
from vsr.errors import InputError, UnknownModelError, UsageError
from vsr.inference.engine import Engine, load_model
from vsr.pipeline.folder import FolderProgress, Pair, has_many_outputs, pair_inputs, upscale_folder
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.segment import EngineCache, EngineSpec

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]
BICUBIC = UpscaleOptions(model="bicubic", scale=2, preset="ultrafast")


@pytest.fixture
def clips(tmp_path: Path) -> Iterator[Path]:
    """A tree of empty files."""
    root = tmp_path / "clips"
    for name in ("b10.mp4", "b9.MKV", "old.flv", "notes.txt", ".hidden.mp4", "deep/a.mov", "deep/still.png",
                 "x.mp4.vsr-job/000000/video.mp4"):  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    yield root
    shutil.rmtree(root)


def test_a_folder_is_paired_by_name(clips: Path) -> None:
    pairs = pair_inputs([clips], Path("out"))
    assert pairs == [
        Pair(clips / "b9.MKV", Path("out/b9.MKV")),
        Pair(clips / "b10.mp4", Path("out/b10.mp4")),
        Pair(clips / "old.flv", Path("out/old.mkv")),
    ]


def test_a_tree_is_paired_recursively(clips: Path) -> None:
    targets = [pair.target for pair in pair_inputs([clips], Path("out"), recursive=True)]
    assert targets == [Path("out") / name for name in ("b9.MKV", "b10.mp4", "deep/a.mov", "deep/still.png", "old.mkv")]


def test_outputs_within_the_inputs_are_no_inputs(clips: Path) -> None:
    (clips / "out").mkdir()
    (clips / "out" / "b9.MKV").touch()
    sources = [pair.source.name for pair in pair_inputs([clips], clips / "out", recursive=True)]
    assert sources == ["b9.MKV", "b10.mp4", "a.mov", "still.png", "old.flv"]


def test_files_folders_and_patterns_together(clips: Path, tmp_path: Path) -> None:
    pairs = pair_inputs([clips / "b10.mp4", clips / "deep", clips / "*.flv", tmp_path / "missing.mp4"], Path("out"))
    assert [pair.target.name for pair in pairs] == ["b10.mp4", "a.mov", "still.png", "old.mkv", "missing.mp4"]


def test_a_numbered_pattern_selects_its_files(clips: Path) -> None:
    assert [pair.source.name for pair in pair_inputs([clips / "b%d.mp4"], Path("out"))] == ["b10.mp4"]
    with pytest.raises(InputError, match=r"no file matches .*c%d\.mp4"):
        pair_inputs([clips / "c%d.mp4"], Path("out"))


def test_two_inputs_of_one_name_are_refused(clips: Path) -> None:
    (clips / "old.wmv").touch()
    targets = {pair.source.name: pair.target.name for pair in pair_inputs([clips], Path("out"))}
    assert (targets["old.flv"], targets["old.wmv"]) == ("old.mkv", "old.wmv.mkv")
    with pytest.raises(UsageError, match=r"clips/b10.mp4 and .*deep/b10.mp4 would both become out/b10.mp4"):
        (clips / "deep" / "b10.mp4").touch()
        pair_inputs([clips / "b10.mp4", clips / "deep" / "b10.mp4"], Path("out"))
    assert len(pair_inputs([clips / "b10.mp4", clips / "b10.mp4"], Path("out"))) == 1


def test_inputs_without_videos_and_pictures_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no videos and no pictures; recursive=True includes subfolders"):
        pair_inputs([tmp_path / "empty"], Path("out"))
    with pytest.raises(InputError, match="holds no videos and no pictures.$"):
        pair_inputs([tmp_path / "empty"], Path("out"), recursive=True)
    with pytest.raises(InputError, match=r"no file matches .*\*\.mp4"):
        pair_inputs([tmp_path / "*.mp4"], Path("out"))


def test_has_many_outputs(clips: Path, tmp_path: Path) -> None:
    one, out = clips / "b10.mp4", tmp_path / "out"
    assert has_many_outputs([one], tmp_path) and has_many_outputs([clips], out) and has_many_outputs([one, one], out)
    assert has_many_outputs([clips / "*.mp4"], out)
    assert not has_many_outputs([one], out) and not has_many_outputs([one], tmp_path / "out.mp4")
    assert not has_many_outputs([clips / "deep"], tmp_path / "out.mp4"), "pictures are a clip"
    assert not has_many_outputs([clips / "deep"], tmp_path / "%d"), "a pattern"
    assert has_many_outputs([clips / "b%d.mp4"], out) and not has_many_outputs(
        [clips / "b%d.mp4"], tmp_path / "out.mp4"
    )
    (clips / "._cover.png").touch()
    with pytest.raises(UsageError, match="there are 2 inputs, and .*out.mp4 is one file; name a folder"):
        has_many_outputs([one, one], tmp_path / "out.mp4")
    with pytest.raises(UsageError, match="clips holds clips, and .*out.mp4 is one file; name a folder"):
        has_many_outputs([clips], tmp_path / "out.mp4")


def test_one_failure_does_not_stop_the_others(make_clip: MakeClip, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no clip")
    sources = [make_clip("a.mp4"), broken, make_clip("b.mp4", pts=range(0, 5 * 512, 512)), tmp_path / "missing.mkv"]
    cv2.imwrite(str(tmp_path / "c.png"), np.zeros((8, 8, 3), np.uint8))
    pairs = pair_inputs([*sources, tmp_path / "c.png"], tmp_path / "out" / "deep")
    seen: list[FolderProgress] = []
    outcomes = upscale_folder(pairs, BICUBIC, progress=seen.append)
    assert [outcome.state for outcome in outcomes] == ["done", "failed", "done", "failed", "done"]
    assert "broken.mp4 is not a video" in outcomes[1].error and "missing.mkv" in outcomes[3].error
    assert sorted(path.name for path in (tmp_path / "out" / "deep").iterdir()) == ["a.mp4", "b.mp4", "c.png"]
    assert {(at.number, at.count) for at in seen} == {(1, 5), (3, 5), (5, 5)}
    assert seen[-1].num_frames == 14, "what was estimated has come to what there is"
    assert sorted({at.frames for at in seen}) == list(range(15))


def test_a_second_run_does_what_is_missing(make_clip: MakeClip, tmp_path: Path) -> None:
    pairs = pair_inputs([make_clip("a.mp4"), make_clip("b.mp4")], tmp_path / "out")
    upscale_folder(pairs, BICUBIC)
    pairs[1].target.unlink()
    before = pairs[0].target.stat()
    seen: list[FolderProgress] = []
    outcomes = upscale_folder(pairs, BICUBIC, progress=seen.append)
    assert [outcome.state for outcome in outcomes] == ["there", "done"]
    assert pairs[0].target.stat().st_mtime_ns == before.st_mtime_ns
    assert seen[-1].frames == seen[-1].num_frames == 8


def test_an_input_is_never_an_output(make_clip: MakeClip, tmp_path: Path) -> None:
    (outcome,) = upscale_folder(pair_inputs([make_clip("a.mp4")], tmp_path), BICUBIC)
    assert outcome.state == "failed" and "is one of the inputs" in outcome.error


def test_a_damaged_input_is_reported(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("a.mkv", pts=range(0, 100 * 512, 512), options={"crf": "10"})
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    pairs = pair_inputs([clip], tmp_path / "out")
    (outcome,) = upscale_folder(pairs, BICUBIC)
    assert outcome.state == "damaged" and outcome.error.startswith("missing at the end")
    options = UpscaleOptions(model="bicubic", tolerant=True, overwrite=True)
    assert upscale_folder(pairs, options)[0].state == "done"


def test_an_unknown_model_ends_the_whole_command(make_clip: MakeClip, tmp_path: Path) -> None:
    pairs = pair_inputs([make_clip("a.mp4")], tmp_path / "out")
    with pytest.raises(UnknownModelError):
        upscale_folder(pairs, UpscaleOptions(model="nope"))


def test_pictures_are_known_by_their_content(tmp_path: Path) -> None:
    """An animation with a picture's name becomes a clip; a picture with a clip's name becomes one frame."""
    source = tmp_path / "in"
    source.mkdir()
    frames = [Image.new("RGB", (8, 6), (value, 0, 0)) for value in (0, 100, 200)]
    for name in ("moving.png", "moving.webp"):
        frames[0].save(source / name, save_all=True, append_images=frames[1:], duration=40)
    frames[0].save(source / "still.mp4", "JPEG")
    frames[0].save(source / "still.gif", "PNG")
    pairs = pair_inputs([source], tmp_path / "out")
    outcomes = upscale_folder(pairs, UpscaleOptions(model="bicubic", scale=2))
    assert {outcome.pair.target.name: (outcome.state, outcome.summary and outcome.summary.frames)
            for outcome in outcomes} == {
        "moving.mkv": ("done", 3), "moving.webp.mkv": ("done", 3), "still.gif": ("done", 1), "still.mp4": ("done", 1),
    }  # fmt: skip


def test_no_clip_is_read_before_its_turn(make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Watched(vsr.media.probe._File):
        def __init__(self, path: Path, *arguments: Any, **options: Any) -> None:
            super().__init__(path, *arguments, **options)
            events.append(Path(path).name)

    monkeypatch.setattr("vsr.media.probe._File", Watched)
    pairs = pair_inputs([make_clip("a.mp4"), make_clip("b.mp4")], tmp_path / "out")
    upscale_folder(pairs, BICUBIC, progress=lambda at: None, on_outcome=lambda outcome: events.append("done"))
    assert "b.mp4" not in events[: events.index("done")] and "b.mp4" in events


def test_progress_ends_at_the_actual_number_of_frames(make_clip: MakeClip, tmp_path: Path) -> None:
    """Clips of other lengths than their sizes suggest, with pictures between them, and one that exists already."""
    sources = [make_clip(f"{name}.mp4", pts=range(0, 512 * count, 512), options={"crf": crf})
               for name, count, crf in (("a", 3, "1"), ("c", 9, "51"), ("d", 5, "20"))]  # fmt: skip
    for name in ("b.png", "e.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    pairs = sorted(pair_inputs([*sources, tmp_path / "b.png", tmp_path / "e.png"], tmp_path / "out"), key=str)
    upscale_folder([pairs[0]], BICUBIC)
    seen: list[FolderProgress] = []
    upscale_folder(pairs, BICUBIC, progress=seen.append)
    assert sorted({at.frames for at in seen}) == list(range(17))
    assert all(at.frames <= at.num_frames for at in seen)
    assert seen[-1].num_frames == 16 and seen[0].num_frames == 4, "a picture, and four that have not begun"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each engine that is built."""
    calls: list[dict[str, Any]] = []

    def load(model: str, **arguments: Any) -> Engine:
        calls.append({"model": model, **arguments})
        return load_model(model, **arguments)

    monkeypatch.setattr("vsr.pipeline.segment.load_model", load)
    return calls


def test_the_engine_is_reused(
    loaded: list[dict[str, Any]], make_clip: MakeClip, tiny_weights: Path, tmp_path: Path
) -> None:
    """The same engine serves clips of any size, with the results of a new one."""
    rng = np.random.default_rng(0)
    for name, shape in (("b.png", (9, 12, 3)), ("c.png", (20, 7, 3)), ("d.png", (9, 12, 3))):
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 256, shape, np.uint8))
    sources = [make_clip("a.mp4"), *(tmp_path / name for name in ("b.png", "c.png", "d.png"))]
    options = UpscaleOptions(model=str(tiny_weights), preset="ultrafast")
    outcomes = upscale_folder(pair_inputs(sources, tmp_path / "together"), options)
    assert [outcome.state for outcome in outcomes] == ["done"] * 4 and len(loaded) == 1
    for source in sources:
        (outcome,) = upscale_folder(pair_inputs([source], tmp_path / "apart"), options)
        assert outcome.pair.target.read_bytes() == (tmp_path / "together" / source.name).read_bytes()
    assert len(loaded) == 5


def test_another_engine_replaces_the_kept_one(loaded: list[dict[str, Any]]) -> None:
    spec = EngineSpec("bicubic", 2, "cpu", "torch", "fp32", None, 1.0)
    engines = EngineCache()
    first = engines.load(spec)
    assert engines.load(replace(spec)) is first
    gone = weakref.ref(first)
    del first
    second = engines.load(replace(spec, scale=3))
    gc.collect()
    assert second.scale == 3 and gone() is None, "no more than one is kept"
    assert len(loaded) == 2
