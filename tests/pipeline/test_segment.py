"""Upscaling segments in order: repeated frames are not computed again, finished segments are reported."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vsr.errors import InputError, OutputError
from vsr.imaging.colour import ColourSpec, PixelLayout
from vsr.inference.engine import Engine
from vsr.inference.torch_backend import DeviceTransfer, PendingDownload
from vsr.media.clip import ClipInfo, ColourTags, VideoInfo
from vsr.media.formats import Timing
from vsr.media.reader import Damage, Frame
from vsr.networks.generator import Identity
from vsr.pipeline.journal import RECORD, read_record
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.plan import Conversion
from vsr.pipeline.segment import upscale_segments
from vsr.pipeline.segments import FinishedSegment, Segment

pytestmark = pytest.mark.usefixtures("leaves_nothing")

GREY = PixelLayout("grey")
FULL = ColourSpec("bt709", full_range=True)
VIDEO = VideoInfo(0, "ffv1", 6, 4, "gray", Fraction(1, 1000), None, None, None, ColourTags())


class Writer:
    """Keeps the frames, and the exception at its end."""

    def __init__(self, folder: Path, output: Output) -> None:
        self.folder, self.output = folder, output
        self.packets: list[Timing] = []
        self.frames: list[Frame] = []
        self.left_by: list[type[BaseException] | None] = []

    def write(self, frame: Frame) -> None:
        if frame.pts == self.output.refused:
            raise OutputError("no space left on device.")
        self.frames.append(frame)
        self.packets.append(Timing(frame.pts, frame.duration))

    def __enter__(self) -> Writer:
        (self.folder / "video").write_bytes(b"half")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left_by.append(kind)
        (self.folder / "video").write_bytes(b"whole")


@dataclass
class Output:
    """The output of a job."""

    refused: int | None = None
    writers: list[Writer] = field(default_factory=list)

    def writer(self, folder: Path, threads: int) -> Writer:
        self.writers.append(Writer(folder, self))
        return self.writers[-1]


@dataclass
class Clip:
    """A job whose segments are words: a frame per letter; equal letters are equal frames in memory of their
    own. A word of ``!`` cannot be read, a ``?`` is damaged."""

    words: Sequence[str]
    batch_size: int = 2
    threads: int = 1
    steadied: bool = False
    in_order: bool = False
    output: Output = field(default_factory=Output)
    options: UpscaleOptions = field(default_factory=UpscaleOptions)
    clip: ClipInfo = field(default_factory=lambda: ClipInfo(Path("clip.mp4"), VIDEO, ()))
    conversion: Conversion = field(default_factory=lambda: Conversion(GREY, FULL, GREY, FULL, 6, 4))

    def frames(self, segment: Segment, damage: Damage) -> Generator[Frame, None, None]:
        for place, letter in enumerate(self.words[segment.number]):
            if letter == "!":
                raise InputError("cannot be read.")
            damage.concealed += letter == "?"
            yield Frame((np.full((4, 6), ord(letter), np.uint8),), 100 * segment.number + place, 10)

    @property
    def segments(self) -> list[Segment]:
        return [Segment(number, None, None, None) for number in range(len(self.words))]


class Counting(Identity):
    """Counts the frames, and notes the largest batch."""

    seen = largest = 0

    def forward(self, lr: Tensor) -> Tensor:
        self.seen += len(lr)
        self.largest = max(self.largest, len(lr))
        return lr


class AsynchronousTransfer(DeviceTransfer):
    """As on an asynchronous device: three batches are in flight, and results come only on request."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.depth = 2
        self.asked: list[int] = []

    def download(self, tensors: Sequence[Tensor]) -> PendingDownload:
        number, asked = len(self.asked), self.asked
        asked.append(0)

        class Late(PendingDownload):
            def wait(self) -> list[Any]:
                asked[number] += 1
                assert asked[number] == 1, "once each"
                return super().wait()

        return Late([tensor.clone() for tensor in tensors], None)


@pytest.fixture(params=[0, 2])
def depth(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Number of batches in flight besides the first."""
    if request.param:
        monkeypatch.setattr("vsr.pipeline.segment.DeviceTransfer", AsynchronousTransfer)
    return int(request.param)


@pytest.fixture
def upscale(tmp_path: Path, depth: int) -> Callable[..., tuple[list[FinishedSegment], list[int], Counting]]:
    """Upscale the segments of a clip; return the reported events."""

    def run(clip: Clip) -> tuple[list[FinishedSegment], list[int], Counting]:
        network, finished, counts = Counting(), [], []

        def take(done: FinishedSegment, folder: Path) -> None:
            assert read_record(folder) == done
            assert (folder / "video").read_bytes() == b"whole"
            assert folder.parent == tmp_path and folder.name.startswith(f".{done.number:06}-")
            finished.append(done)

        upscale_segments(
            clip, clip.segments, Engine(network, device="cpu"), tmp_path, on_frames=counts.append, on_finished=take  # type: ignore[arg-type]
        )  # fmt: skip
        return finished, counts, network

    return run


Upscale = Callable[[Any], tuple[list[FinishedSegment], list[int], Counting]]


def written(clip: Clip) -> list[str]:
    return ["".join(chr(frame.planes[0][0, 0]) for frame in writer.frames) for writer in clip.output.writers]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 16])
@pytest.mark.parametrize(
    ("words", "computed"),
    [
        (["abc"], 3),
        (["aaaa"], 1),
        (["aabbbc"], 3),
        (["abab"], 4),
        (["aaabaaa"], 3),
        ([""], 0),
        (["ab", "bc"], 3),
        (["ab", "ab"], 4),
        (["aa", "aaa", "a"], 1),
        (["ab", "", "bbc"], 3),
    ],
)
def test_equal_neighbours_are_computed_once(words: list[str], computed: int, batch_size: int, upscale: Upscale) -> None:
    clip = Clip(words, batch_size)
    finished, counts, network = upscale(clip)
    assert network.seen == computed
    assert network.largest <= batch_size
    assert written(clip) == words
    assert sum(done.repeated for done in finished) == sum(map(len, words)) - computed
    assert [done.frames for done in finished] == list(map(len, words))
    assert [done.number for done in finished] == list(range(len(words)))
    assert sum(counts) == sum(map(len, words))
    times = [[(frame.pts, frame.duration) for frame in writer.frames] for writer in clip.output.writers]
    assert times == [[(100 * number + n, 10) for n in range(len(word))] for number, word in enumerate(words)]
    assert [done.packets for done in finished] == [tuple(writer.packets) for writer in clip.output.writers]


def test_repeats_and_damage_are_counted_in_their_segment(upscale: Upscale) -> None:
    finished, _, _ = upscale(Clip(["aab", "b??", "cd"], 4))
    assert [done.repeated for done in finished] == [1, 2, 0]
    assert [done.damage for done in finished] == [Damage(), Damage(concealed=2), Damage()]


@dataclass
class Mended(Clip):
    """A clip whose segments differ when they are decoded from further back, as given by the other words."""

    others: Sequence[str] = ()

    def frames(self, segment: Segment, damage: Damage) -> Generator[Frame, None, None]:
        again = segment.entry is not None and segment.entry == segment.earlier_entry
        yield from Clip(self.others if again else self.words).frames(segment, damage)

    @property
    def segments(self) -> list[Segment]:
        later = [Segment(number, at, at, None, at, None, at - 50) for number, at in ((1, 100), (2, 200))]
        return [Segment(0, None, None, None), *later]


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("damaged", ["b??c", "?"])
def test_a_damaged_segment_is_decoded_again_from_further_back(
    damaged: str, batch_size: int, upscale: Upscale, tmp_path: Path
) -> None:
    clip = Mended(["a?", damaged, "cd"], batch_size, others=["never", "bxyz?", "never"])
    finished, counts, _ = upscale(clip)
    begun = [damaged.partition("?")[0]] if damaged[0] != "?" else []
    assert written(clip) == ["a?", *begun, "bxyz?", "cd"], "no further than to the damage"
    assert [done.frames for done in finished] == [2, 5, 2] and sum(counts) == 9
    assert [done.damage.concealed for done in finished] == [1, 1, 0], "of what was kept"
    assert len(list(tmp_path.iterdir())) == 3, "nothing is left of what was not"


class Overflowing(Identity):
    """What is brighter than 0.41 is beyond half precision on the way; what is done in float32 can be told by its ten
    codes more."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(400.0))

    def forward(self, lr: Tensor) -> Tensor:
        gain = self.gain
        return lr * gain * gain / gain / gain + (10 / 255 if lr.dtype == torch.float32 else 0)


@pytest.mark.usefixtures("depth")
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_only_overflowed_frames_are_computed_again_and_counted(batch_size: int, tmp_path: Path) -> None:
    clip = Clip(["AzB", "BzyC", "CC"], batch_size)
    engine, finished = Engine(Overflowing(), device="cpu", precision="fp16"), []
    upscale_segments(
        clip, clip.segments, engine, tmp_path,  # type: ignore[arg-type]
        on_frames=lambda count: None, on_finished=lambda done, folder: finished.append(done),
    )  # fmt: skip
    brighter = {"z": chr(ord("z") + 10), "y": chr(ord("y") + 10)}
    assert written(clip) == ["".join(brighter.get(letter, letter) for letter in word) for word in clip.words]
    assert [done.overflowed for done in finished] == [1, 2, 0] and engine.overflowed == 3


def test_a_batch_is_within_one_segment(upscale: Upscale) -> None:
    """So that a segment's result does not depend on which others remain."""
    _, counts, _ = upscale(Clip(["abc", "d", "efgh"], 2))
    assert counts == [2, 1, 1, 2, 2]


def test_frames_that_differ_in_one_pixel_are_computed(upscale: Upscale) -> None:
    class Nearly(Clip):
        def frames(self, segment: Segment, damage: Damage) -> Generator[Frame, None, None]:
            for value in (7, 8):
                plane = np.zeros((4, 6), np.uint8)
                plane[0, 5] = value
                yield Frame((plane,), value, 1)

    clip = Nearly(["ab"])
    _, _, network = upscale(clip)
    assert [frame.planes[0][0, 5] for frame in clip.output.writers[0].frames] == [7, 8]
    assert not any(frame.planes[0][1:].any() for frame in clip.output.writers[0].frames)
    assert network.seen == 2


def test_a_read_error_ends_the_work(upscale: Upscale, tmp_path: Path) -> None:
    clip = Clip(["abc", "de!", "fg"])
    with pytest.raises(InputError, match="cannot be read"):
        upscale(clip)
    complete = {path.parent.name.split("-")[0] for path in tmp_path.rglob(RECORD)}
    assert complete <= {".000000"}
    assert len(clip.output.writers) <= 2
    assert all(len(writer.left_by) == 1 for writer in clip.output.writers), "each is closed once"


def test_a_write_error_ends_the_work(upscale: Upscale, tmp_path: Path) -> None:
    clip = Clip(["abc", "de", "fg"], output=Output(refused=101))
    with pytest.raises(OutputError, match="no space left"):
        upscale(clip)
    assert [writer.left_by for writer in clip.output.writers] == [[None], [OutputError]]
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == [".000000", ".000001"]
    assert not [path for path in tmp_path.glob(".000001-*/*") if path.name == RECORD]


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    clip = Clip(["abc"])
    with pytest.raises(OutputError, match=r"cannot write to .*gone: No such file or directory\.$"):
        upscale_segments(
            clip, clip.segments, Engine(Identity(), device="cpu"), tmp_path / "gone",  # type: ignore[arg-type]
            on_frames=lambda _: None, on_finished=lambda *_: None,
        )  # fmt: skip
