"""Run ``vsr upscale`` on every clip and compare output and source: the tables of docs/fidelity.md.

    python benchmarks/fidelity [CLIPS] [--only NAME...] [--write] [--keep FOLDER]

CLIPS is a folder of clips, by default ``clips`` in the folder VSR_TEST_DATA. Each is upscaled by the model ``identity``
into lossless FFV1, where everything should be preserved, and by ``bicubic`` x2 into the default codec. Source and
output are read by ``independent.py``, which does not use vsr. Each difference is matched against REASONS; one without a
reason is called UNEXPLAINED and makes the script exit with 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from code_values import LARGEST_SHIFT, MIN_PSNR, compare_pixels, matrix_in_effect, pixel_deviations
from differences import (
    CUT_ABOVE_PIXELS,
    CUT_ABOVE_SECONDS,
    CUT_SECONDS,
    Deviation,
    Way,
    deviations,
    is_large,
    sound_offsets,
    tags_of,
)
from independent import Clip, read_clip, version
from reasons import DOUBLED, IDENTITY, WITH_FIELDS, Case, explain

LONGEST_RUN_SECONDS = 900
REPOSITORY = Path(__file__).resolve().parents[2]
REPORT = REPOSITORY / "docs" / "fidelity.md"


def upscale(path: Path, source: Clip | None, way: Way, folder: Path) -> Case:
    """Upscale a clip one way, and read the output."""
    target = folder / f"{path.name}.{way.name.replace(' ', '-')}{way.suffix}"
    cut = not way.lossless and source is not None and is_large(source)
    command = [sys.executable, "-m", "vsr", "upscale", str(path), "-o", str(target), "--overwrite", *way.options]
    command += ["--start", "0", "--end", str(CUT_SECONDS)] if cut else []
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, cwd=REPOSITORY, text=True,
                              errors="replace", timeout=LONGEST_RUN_SECONDS)  # fmt: skip
        code, messages = done.returncode, [line.strip() for line in done.stderr.splitlines() if line.strip()]
    except subprocess.TimeoutExpired:
        code, messages = -1, [f"no end after {LONGEST_RUN_SECONDS} s"]
    plain = (line.replace(f"{path.parent}{os.sep}", "").replace(f"{folder}{os.sep}", "") for line in messages)
    output = read_clip(target) if target.exists() else None
    return measure(Case(path.name, way, source, output, cut, code, tuple(plain)))


def measure(case: Case) -> Case:
    """Return the case with its pixels and all differences."""
    found, pixels = [], None
    if case.code:
        what = f"exit {case.code}: {case.messages[-1] if case.messages else 'it prints nothing'}"
        found.append(Deviation("exit", what, case.code))
    if (case.output is None) != (case.source is None) or not (case.source or case.code):
        found.append(Deviation("output", "nothing came out" if case.output is None else "a video came out of none"))
    if case.complaints and not case.cut and not case.says("damaged"):
        found.append(Deviation("damage", f"ffmpeg complains {case.complaints} times of damage, vsr does not"))
    if pair := case.pair:
        pixels = compare_pixels(pair)
        found += [*deviations(pair), *pixel_deviations(pair.way, pixels)]
    return Case(**(vars(case) | {"pixels": pixels, "found": tuple(found)}))


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


def time_rows(cases: Sequence[Case]) -> Iterator[Sequence[str]]:
    """Yield the frames and times of each case."""
    for case in cases:
        frames = [str(len(clip.track.frames)) if clip else "none" for clip in (case.source, case.output)]
        error = case.pair.time_error if case.pair else None
        ticks = f"{float(error / case.source.track.time_base):.4g}" if error is not None and case.source else ""
        lengths = [f"{clip.header.duration_seconds:.2f}" if clip and clip.header.duration_seconds else "" for clip in
                   (case.source, case.output)]  # fmt: skip
        if case.cut and case.pair:
            frames[0] = f"{len(case.pair.wanted)} of {frames[0]}"
        base = str(case.source.track.time_base) if case.source else ""
        milliseconds = f"{float(1000 * error):.3f}" if error is not None else ""
        yield case.title, *frames, base, ticks, milliseconds, *lengths, str(case.code)


def pixel_rows(cases: Sequence[Case]) -> Iterator[Sequence[str]]:
    """Yield the differences of code values of each case, in the columns of its way."""
    for case in cases:
        if case.pixels is None or case.source is None or case.output is None:
            continue
        mean, largest, signed = case.pixels.mean, case.pixels.largest, case.pixels.signed
        if case.way.lossless:
            chroma = (f"{max(mean[1:]):.4f}", str(max(largest[1:]))) if mean[1:] else ("", "")
            yield case.title, tags_of(case.source)["pixel format"], f"{mean[0]:.4f}", str(largest[0]), *chroma
        else:
            size = "x".join(map(str, case.output.track.frames[0].size))
            matrices = " to ".join(dict.fromkeys(matrix_in_effect(clip) for clip in (case.source, case.output)))
            shifts = [f"{shift:+.3f}" for shift in signed] + [""] * (3 - len(signed))
            yield case.title, size, matrices, f"{case.pixels.psnr:.1f}", *shifts


def tag_rows(cases: Sequence[Case]) -> Iterator[Sequence[str]]:
    """Yield the stated tags of each case, and their changes."""
    for case in cases:
        if case.source and case.output:
            before, after = tags_of(case.source), tags_of(case.output)
            usual = {"-", "progressive", "as stored", "1/1"}
            stated = (value if name != "mastering display" else "mastering display" for name, value in before.items()
                      if value not in usual)  # fmt: skip
            changed = (f"{name}: {before[name]} -> {after[name]}" for name in before if before[name] != after[name])
            yield case.title, ", ".join(stated), "; ".join(changed) or "the same"


def stream_rows(cases: Sequence[Case]) -> Iterator[Sequence[str]]:
    """Yield the streams of each case, and the offset of the first sound from the first frame."""
    for case in cases:
        if case.source and case.output:
            streams = ["; ".join(str(stream) for stream in clip.header.streams) for clip in (case.source, case.output)]
            for place, clip in enumerate((case.source, case.output)):
                streams[place] += f"; {len(clip.header.chapters)} chapters" if clip.header.chapters else ""
            offsets = [", ".join(f"{offset:.3f}" for _, offset in sorted(sound_offsets(clip).items()))
                       for clip in (case.source, case.output)]  # fmt: skip
            yield case.title, streams[0], "the same" if streams[0] == streams[1] else streams[1], *offsets


TIME_HEAD = ("clip", "frames in", "out", "time base, s", "error, ticks", "ms", "length in, s", "out", "exit")
PIXEL_HEAD = {"A": ("clip", "format", "luma, mean", "max", "chroma, mean", "max"),
              "B": ("clip", "output", "matrix", "luma, dB", "Y", "Cb", "Cr")}  # fmt: skip
STREAM_HEAD = ("clip", "streams in", "out", "sound after picture, ms, in", "out")

INTRODUCTION = """# What comes through `vsr upscale`

Made by `benchmarks/fidelity` with vsr {vsr} on the {count} clips of the test data. Source and output were read
with the ffmpeg program ({ffmpeg}) alone, without vsr's code or PyAV: decoded frames with the
times and tags that its filter `showinfo` prints, checksums of packets, and code values as raw planes.

- **A**: `vsr upscale CLIP -o X.mkv {a}`. Everything should be preserved. Pixel differences are in code
  values of the stored depth; timestamps are compared as exact fractions. Interlaced clips, which are deinterlaced by
  default, are also tested without deinterlacing.
- **B**: `vsr upscale CLIP -o Y.mp4 {b}`, H.264 by default. Of a clip above {pixels} pixels or {long} s
  only the first {cut} s (`--start 0 --end {cut}`). Luma is averaged down to the size of the source and compared with
  the source after bicubic x2 and averaging ({psnr:g} dB are expected). The means of Y, Cb and Cr over all frames are
  compared in 8-bit codes, by the matrix of each file (at most {shift} apart).

`exact` means that nothing differs: frames, times, pixels (in B within those bounds), tags, streams, packets, languages,
dispositions, chapters, metadata. Otherwise each difference is listed with its reason, which the script derived from
its measurements. The clips include damaged clips and files that are not videos on purpose.
"""


def report(cases: Sequence[Case], versions: tuple[str, str]) -> str:
    """Return the whole page."""
    groups = {name: [case for case in cases if case.way.name[0] == name] for name in "AB"}
    words = {"vsr": versions[0], "ffmpeg": versions[1], "count": len(groups["B"]), "pixels": CUT_ABOVE_PIXELS,
             "a": " ".join(IDENTITY.options), "b": " ".join(DOUBLED.options), "long": CUT_ABOVE_SECONDS,
             "cut": CUT_SECONDS, "psnr": MIN_PSNR, "shift": LARGEST_SHIFT}  # fmt: skip
    parts = [INTRODUCTION.format(**words)]
    for name, group in groups.items():
        parts.append(f"## {name}\n")
        parts.append(table(("clip", "verdict"), ((case.title, "; ".join(explain(case)) or "exact") for case in group)))
        parts += ["Frames and time\n", table(TIME_HEAD, time_rows(group))]
        parts += ["Pixels\n", table(PIXEL_HEAD[name], pixel_rows(group))]
        parts += ["Tags\n", table(("clip", "in", "out"), tag_rows(group))]
        parts += ["Streams\n", table(STREAM_HEAD, stream_rows(group))]
    parts.append("## What the command printed\n")
    lines = (f"- {case.name}, {case.way.name}: `{line}`" for case in cases for line in case.messages)
    parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def ways(source: Clip | None) -> list[Way]:
    """Return both ways, and a third one without deinterlacing for interlaced clips."""
    fields = {frame.field_order for frame in source.track.frames} if source else {"P"}
    return [IDENTITY, DOUBLED] if fields == {"P"} else [IDENTITY, WITH_FIELDS, DOUBLED]


def main() -> None:
    """Run all clips, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("VSR_TEST_DATA", ".")) / "clips"
    parser.add_argument("clips", type=Path, nargs="?", default=default)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these clips")
    parser.add_argument("--write", action="store_true", help=f"write to {REPORT.relative_to(REPOSITORY)}, not stdout")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the outputs in this folder")
    options = parser.parse_args()
    paths = sorted(path for path in options.clips.resolve().iterdir() if path.name in (options.only or [path.name]))
    if not paths or (options.only and len(paths) < len(options.only)):
        parser.error(f"{options.clips} does not contain all of: {', '.join(options.only or [])}")
    shown = subprocess.run([sys.executable, "-m", "vsr", "--version"], cwd=REPOSITORY, capture_output=True, text=True)
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
        for path in paths:
            source = read_clip(path)
            for way in ways(source):
                case = upscale(path, source, way, options.keep or Path(folder))
                print(f"{case.name} {way.name}: {'; '.join(explain(case)) or 'exact'}", file=sys.stderr, flush=True)
                cases.append(case)
    page = report(cases, (shown.stdout.split()[-1], version()))
    if options.write:
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(page)
    else:
        print(page)
    sys.exit(any("UNEXPLAINED" in sentence for case in cases for sentence in explain(case)))


if __name__ == "__main__":
    main()
