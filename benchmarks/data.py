"""Compare the crops per second that a folder of pictures yields with those that training consumes.

    python benchmarks/data.py FOLDER_OR_ZIP [--quick] [--rounds 3] [--seconds 5] [--workers 2] [--clips]

Each round measures in turn: crops from pictures that are decoded each time, from pictures kept in main
memory, from all of them packed into one tensor (on the CPU, and on the GPU where there is one), and updates of the
default generator by a plain forward, backward and Adam. Figures are medians over the rounds; the ratio (crops yielded
over crops consumed) is taken within a round: above 1 the network limits training. On a GPU the share of time that it
waits for data is the additional time of a loop with data over one that repeats the same batch.

With --clips it measures clips of 10 frames with HR crops of 192 instead: from pictures, from video files if there are
any, and in the recipe's mixture; per second of wall time, and per second of CPU time of this process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count, islice, repeat
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from vsr.imaging.resize import resize_bicubic
from vsr.inference.device import available_memory, choose_device, free_memory
from vsr.networks.generator import Generator
from vsr.training.batches import load_clips
from vsr.training.clips import clip_batch
from vsr.training.options import TrainOptions
from vsr.training.pictures import Draws, PackedPictures, PictureSet, find_pictures, prefetch
from vsr.training.recipes import RECIPES

BATCH_SIZE, CROP_SIZE = 16, 96
CLIP_BATCH, CLIP_FRAMES, CLIP_CROP = 4, 10, 192
STEPS = 1 << 30
"""More than are ever used."""


def batches(pictures: PictureSet, cut: Callable[[Draws, int], Tensor], first: int, workers: int) -> Iterator[Tensor]:
    """Yield endless batches (N, 3, H, W) uint8 as in training."""

    def make(step: int) -> Tensor:
        draws = pictures.draws(batch_size=BATCH_SIZE, crop_size=CROP_SIZE, seed=0, step=step, rotations=True)
        return cut(draws, CROP_SIZE)

    with closing(prefetch(make, range(first, STEPS), workers=workers)) as made:
        yield from made


def rate(steps: Iterable[object], seconds: float, device: torch.device) -> float:
    """Return the crops per second of an iterator of batches or updates, without the first two."""
    iterator = iter(steps)
    list(islice(iterator, 2))
    synchronise(device)
    started, done = time.monotonic(), 0
    while done == 0 or time.monotonic() < started + seconds:
        next(iterator)
        done += BATCH_SIZE
    synchronise(device)
    return done / (time.monotonic() - started)


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def updates(data: Iterable[Tensor], device: torch.device) -> Iterator[None]:
    """Train the default generator on batches of HR, (N, 3, H, W) uint8."""
    generator = Generator().to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(generator.parameters(), 1e-4)
    for batch in data:
        hr = (batch.to(device).float() / 255).contiguous(memory_format=torch.channels_last)
        lr = resize_bicubic(hr, hr.shape[-2] // 4, hr.shape[-1] // 4)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            sr = generator(lr.contiguous(memory_format=torch.channels_last))
        loss = mse_loss(sr.float(), hr)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


def ways(pictures: PictureSet, device: torch.device, workers: int) -> dict[str, Callable[[Draws, int], Tensor]]:
    """The ways to cut crops that memory allows, by name."""
    needed = PackedPictures.bytes_needed(pictures)
    uncached = PictureSet(pictures.files, min_size=CROP_SIZE, cache_bytes=0, workers=workers)
    found = {"decoded each time": uncached.crops}
    if needed < available_memory() // 3:
        for _ in prefetch(pictures.__getitem__, range(len(pictures)), workers=workers):
            pass
        found["kept in memory"] = pictures.crops
        found["packed, on the CPU"] = PackedPictures(pictures, torch.device("cpu"), workers=workers).crops
    if device.type == "cuda" and needed < free_memory(device) // 2:
        found["packed, on the GPU"] = PackedPictures(pictures, device, workers=workers).crops
    return found


def measure(pictures: PictureSet, device: torch.device, options: argparse.Namespace) -> None:
    """Print a table with a row for each way to load pictures."""
    cuts = ways(pictures, device, options.workers)
    yielded: dict[str, list[float]] = {name: [] for name in cuts}
    with_data: dict[str, list[float]] = {name: [] for name in cuts}
    consumed = []
    first = count(step=STEPS // 1000)  # no round repeats the draws of another
    for _ in range(options.rounds):
        same = torch.randint(0, 256, (BATCH_SIZE, 3, CROP_SIZE, CROP_SIZE), dtype=torch.uint8, device=device)
        with closing(updates(repeat(same), device)) as steps:
            consumed.append(rate(steps, options.seconds, device))
        for name, cut in cuts.items():
            with closing(batches(pictures, cut, next(first), options.workers)) as data:
                yielded[name].append(rate(data, options.seconds, device))
            if device.type == "cuda":
                with closing(batches(pictures, cut, next(first), options.workers)) as data:
                    with_data[name].append(rate(updates(data, device), options.seconds, device))
    print(f"\ntraining on {device.type}, {BATCH_SIZE} crops of {CROP_SIZE} a step: {median(consumed):.0f} crops/s\n")
    print("| pictures | crops/s | ratio |" + " waits for data |" * bool(with_data and device.type == "cuda"))
    print("|---|---|---|" + "---|" * (device.type == "cuda"))
    for name, rates in yielded.items():
        row = f"| {name} | {median(rates):.0f} | {median(a / b for a, b in zip(rates, consumed, strict=True)):.1f} |"
        if with_data[name]:
            row += f" {100 * median(1 - a / b for a, b in zip(with_data[name], consumed, strict=True)):.0f} % |"
        print(row)


def measure_clips(options: argparse.Namespace) -> None:
    """Print a table with a row for each kind of clip."""
    recipe = replace(RECIPES["video-recurrent"], frames=CLIP_FRAMES, crop_size=CLIP_CROP, batch_size=CLIP_BATCH)
    run = TrainOptions(data=tuple(options.data), output=Path(), recipe=recipe, workers=options.workers, hold_out=0)
    clips, _, layout = load_clips(run)
    shares = {"as the recipe mixes them": recipe.real_motion}
    if clips.pictures is not None and clips.videos is not None:
        shares |= {"of pictures": 0.0, "of videos": 1.0}
    print(f"clips of {CLIP_FRAMES} frames, HR crops of {CLIP_CROP}, from {layout}, {options.workers} threads\n")
    print("| clips | clips/s | clips/s and core | LR pixels/s and core |")
    print("|---|---|---|---|")
    first = count()
    for name, share in shares.items():
        make = partial(clip_batch, clips, replace(recipe, real_motion=share), 0)
        steps = range(next(first) * 10_000, STEPS)[: 1 if options.quick else 20]
        list(prefetch(make, steps, workers=options.workers))  # decodes most pictures and all of a few videos
        rates = [clip_rate(make, first, options) for _ in range(options.rounds)]
        by_clock, by_core = (median(column) for column in zip(*rates, strict=True))
        pixels = by_core * CLIP_FRAMES * (CLIP_CROP // recipe.scale) ** 2
        print(f"| {name} | {by_clock:.1f} | {by_core:.1f} | {pixels / 1e3:.0f} k |", flush=True)


def clip_rate(make: Callable[[int], object], first: Iterator[int], options: argparse.Namespace) -> tuple[float, float]:
    """Return the clips per second of wall time, and per second of CPU time of this process."""
    done, clock, core = 0, time.monotonic(), time.process_time()
    while not done or time.monotonic() < clock + options.seconds:
        steps = range(next(first) * 10_000, next(first) * 10_000)
        done += CLIP_BATCH * len(list(prefetch(make, steps[: 2 * options.workers], workers=options.workers)))
    return done / (time.monotonic() - clock), done / (time.process_time() - core)


def main() -> None:
    """Measure a folder or zip archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each measurement")
    parser.add_argument("--workers", type=int, default=2, help="threads that prepare crops")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="64 pictures, one short round, to check that it runs")
    parser.add_argument("--clips", action="store_true", help="measure clips instead of crops")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.5
    if options.clips:
        measure_clips(options)
        return
    found = find_pictures(options.data)
    files = found.training[:64] if options.quick else found.training
    started = time.monotonic()
    pictures = PictureSet(files, min_size=CROP_SIZE, workers=options.workers, cache_bytes=1 << 60)
    elapsed = time.monotonic() - started
    pixels = int(pictures.sizes.prod(axis=1).mean())
    print(f"{len(pictures)} pictures ({found.layout}) of {pixels / 1e6:.2f} megapixels on average; ", end="")
    print(f"headers read at {len(files) / elapsed:.0f} pictures/s")
    measure(pictures, choose_device(options.device), options)


if __name__ == "__main__":
    main()
