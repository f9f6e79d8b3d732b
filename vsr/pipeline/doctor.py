"""What vsr finds on this machine: versions, the ffmpeg program, devices, codecs; one screen for a report."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata

import av
import torch
from av.codec import codecs_available

import vsr
from vsr.errors import VsrError
from vsr.inference.device import available_memory, choose_device
from vsr.media.codecs import CODECS
from vsr.media.ffmpeg import the_program

PACKAGES = (
    "torch", "torchvision", "openvino", "av", "imageio-ffmpeg", "ffmpeg-python", "opencv-python-headless", "numpy",
    "pillow", "safetensors", "lightning-fabric", "torchmetrics", "click", "tqdm", "ray", "tensorboard",
)  # fmt: skip
"""Whose versions are told: what the plain install brings, then what the extras do."""


@dataclass(frozen=True)
class Diagnosis:
    """What there is.

    Attributes:
        vsr: version.
        python: version and implementation.
        system: name and version, processor, cores, free memory.
        ffmpeg: the program that assembles files, or why there is none.
        libav: versions of the libraries in PyAV that decode and encode.
        devices: what torch sees, in words.
        takes: the device that ``--device auto`` takes.
        precisions: that the CPU computes in, by OpenVINO.
        codecs: of ``vsr upscale --codec``, and whether this build of libav has the encoder.
        packages: versions by name; None of those that are not installed.
    """

    vsr: str
    python: str
    system: str
    ffmpeg: str
    libav: str
    devices: tuple[str, ...]
    takes: str
    precisions: tuple[str, ...]
    codecs: dict[str, bool]
    packages: dict[str, str | None]


def diagnose() -> Diagnosis:
    """Look at everything that a report of a fault should tell; fails at nothing that is missing."""
    return Diagnosis(
        vsr=vsr.__version__,
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        system=f"{platform.platform()}, {os.cpu_count()} cores, {available_memory() / 2**30:.1f} GiB free",
        ffmpeg=_ffmpeg(),
        libav=_libav(),
        devices=tuple(_devices()),
        takes=str(choose_device("auto")),
        precisions=tuple(_precisions()),
        codecs={name: codec.encoder in codecs_available for name, codec in CODECS.items()},
        packages={name: _version(name) for name in PACKAGES},
    )


def _ffmpeg() -> str:
    try:
        return str(the_program())
    except VsrError as exc:
        return str(exc)


def _libav() -> str:
    versions = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    return ", ".join(f"{name} {versions[name]}" for name in ("libavcodec", "libavformat", "libavfilter"))


def _devices() -> list[str]:
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    if not torch.cuda.is_available():
        found = ["mps"] if torch.backends.mps.is_available() else []
        return [*found, f"cpu (this torch is built for {build}, and sees no GPU of that kind)"]
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    gpus = [f"cuda:{number} {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for number, gpu in enumerate(properties)]
    return [*gpus, f"cpu (torch is built for {build})"]


def _precisions() -> list[str]:
    try:
        from vsr.inference.openvino_runtime import HINTS, supports
    except ImportError as exc:
        return [f"fp32 by torch alone, since OpenVINO cannot be used: {exc}"]
    return [precision for precision in HINTS if supports(precision)]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
