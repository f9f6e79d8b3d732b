"""The values that decide the weights of a run: networks, losses, stages, data; and the recipes. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from vsr.errors import UsageError, setting
from vsr.networks import Head, Normalisation, Upsampling
from vsr.options import contradictions, convert, described, documented, option

if TYPE_CHECKING:
    from typing_extensions import Unpack

StageName = Literal["pretrain", "discriminator", "adversarial"]
STAGES: tuple[StageName, ...] = get_args(StageName)
"""In the order in which they run."""

MAX_FRAMES = 64
"""Greatest number of frames of a clip."""

KERNELS = ("bicubic", "area", "bilinear")
"""Kernels of the reduction to LR."""

CHROMA = ("yuv420p", "yuv422p", "yuv444p")
"""Pixel formats that codecs encode."""


def share(default: float, help: str) -> float:
    """Make a field that holds a share of crops or clips."""
    return option(default, help, at_least=0, at_most=1, rule="is a share in [0, 1]")


@dataclass(frozen=True)
class Labels:
    """Targets of the discriminator instead of 1 for real and 0 for fake: label smoothing (Salimans et al. 2016)."""

    kind: Literal["fixed", "uniform", "normal"] = "fixed"
    """``fixed``: ``low`` for all. ``uniform``: between ``low`` and ``high``. ``normal``: around ``low`` with the
    standard deviation ``high``, clipped to [0, 1]."""
    low: float = 1.0
    """See ``kind``."""
    high: float = 0.0
    """See ``kind``; no effect if fixed."""

    def __post_init__(self) -> None:
        if self.kind not in ("fixed", "uniform", "normal"):
            raise ValueError(f"labels are fixed, uniform or normal, got {self.kind!r}")
        if not 0 <= self.low <= 1 or (self.kind == "uniform" and not self.low <= self.high <= 1):
            raise ValueError(f"labels lie in [0, 1], got {self}")
        if self.kind == "normal" and not 0 <= self.high < math.inf:
            raise ValueError(f"a standard deviation is not negative, got {self}")

    def __str__(self) -> str:
        return f"{self.low:g}" if self.kind == "fixed" else f"{self.kind}:{self.low:g}:{self.high:g}"


def parse_labels(text: str) -> Labels:
    """Parse ``0.9``, ``uniform:0.7:1`` or ``normal:0.1:0.05`` to labels; the inverse of ``str``.

    Raises:
        ValueError: the text has none of these forms, or a value is out of range.
    """
    kind, *values = text.split(":") if ":" in text else ("fixed", text, "0")
    try:
        low, high = map(float, values)
    except ValueError as exc:
        raise ValueError(f"labels are written 0.9, uniform:0.7:1 or normal:0.1:0.05, got {text!r}") from exc
    return Labels(kind, low, high)  # type: ignore[arg-type]  # an unknown kind is refused there


def loss_weight(help: str, *, of_clips: bool = False) -> float:
    """Declare the weight of a term of the generator's loss: a field of ``Stage``, named as the term.

    Args:
        help: text of the command's help.
        of_clips: whether only a recurrent generator has it.
    """
    return field(default=0.0, metadata={**described(help), "loss": "clips" if of_clips else "pictures"})


@documented
@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: how long, how fast, and the weights whose sum of losses the generator minimises.

    A weight of 0 leaves its term out. In the ``discriminator`` stage the weights have no effect.
    """

    length: int = option(
        0, "Updates, or epochs where that is the unit; 0 leaves the stage out.", at_least=0, subject="the length"
    )
    learning_rate: float = option(1e-4, "Learning rate of Adam, for both networks; the peak of a schedule.", above=0)
    schedule: Literal["constant", "multi-step", "cosine", "one-cycle"] = option(
        "constant",
        "multi-step: divided by ten at each milestone. cosine: falls to zero. one-cycle: rises linearly over the first "
        "4 %, then falls to zero along a cosine.",
    )
    milestones: tuple[float, ...] = option(
        (0.5,), "Of multi-step: shares of the stage's length.", at_least=0, at_most=1,
        rule="are shares of the stage in [0, 1]",
    )  # fmt: skip
    mse: float = loss_weight("Weight of the mean squared error of pixels in [0, 1].")
    l1: float = loss_weight("Weight of the mean absolute error of pixels in [0, 1].")
    charbonnier: float = loss_weight("Weight of the Charbonnier loss of pixels in [0, 1]: L1 that is smooth at zero.")
    content: float = loss_weight("Weight of the mean squared error of VGG features.")
    content_layer: str = option(
        "conv5_4",
        "VGG layer of the features, named as in the paper: conv5_4 is the fourth convolution after the fourth pooling.",
    )
    total_variation: float = loss_weight("Weight of the total variation of the upscaled crop.")
    ping_pong: float = loss_weight(
        "Weight of the mean squared difference between the outputs of a frame in a clip played forwards and backwards.",
        of_clips=True,
    )
    teacher: float = loss_weight(
        "Weight of the mean absolute difference from the output of --teacher.", of_clips=True
    )
    artefacts: float = loss_weight(
        "Weight of the mean absolute error where the generator makes artefacts that its moving average does not (LDL).",
        of_clips=True,
    )
    adversarial: float = loss_weight("Weight of the adversarial loss; in the adversarial stage only.")

    def __post_init__(self) -> None:
        if wrong := convert(self):  # the recipe checks the values, and names the stage
            raise UsageError("; ".join(wrong) + ".")


LOSSES = tuple(each.name for each in fields(Stage) if "loss" in each.metadata)
"""The terms of the generator's loss; each is a weight in :class:`Stage`."""

LOSSES_OF_CLIPS = tuple(each.name for each in fields(Stage) if each.metadata.get("loss") == "clips")
"""Terms that only a recurrent generator has."""


@documented
@dataclass(frozen=True, kw_only=True)
class VideoDegradation:
    """The degradation of a short clip to LR, each step at a strength drawn for each crop.

    The defaults cover real clips, from a camera's own file to a stream of a tenth of its bit rate.
    """

    clean: float = share(
        0.1, "Share of crops that are only reduced by bicubic, so that clean input is trained on too."
    )
    blur: tuple[float, float] = option(
        (0.2, 2.8),
        "Standard deviation of a Gaussian before the reduction, in HR pixels at x4 (it grows with the scale); up to a "
        "quarter more or less along each axis. Lenses and scalers rarely resolve a pixel: by the share of the finest "
        "octave in their detail, ten clips of 320x180 to 1280x720 lay where 1.4 to 2.6 put a photograph, four others "
        "at 0.2.", within=(0, math.inf),
    )  # fmt: skip
    reductions: tuple[str, ...] = option(
        KERNELS, "Kernels of the reduction, one drawn for each crop, as the scaler of a clip is unknown.",
        choices=KERNELS,
    )  # fmt: skip
    noise: tuple[float, float] = option(
        (0.0, 6.0),
        "Standard deviation of sensor noise on LR, in 8-bit codes, new in each frame. Small values are drawn more "
        "often (a square of a uniform number): little noise survives the scaling down of a clip. 6 is a camera in the "
        "dark.", within=(0, math.inf),
    )  # fmt: skip
    motion: float = option(
        8.0,
        "Greatest speed of the moving crop in HR pixels a frame: two LR pixels at x4, more of which codecs follow as "
        "well. They treat still and moving blocks differently.",
    )
    still: float = share(
        0.3, "Share of the degraded crops that do not move at all: cameras stand, and so does most of what they see."
    )
    frames: int = option(
        4,
        "Frames of the clip that is compressed; one after the first is used, so that predicted frames are seen. "
        "Four are the fewest that hold a run of two bidirectional frames with a predicted one after.",
    )
    context: int = option(
        8,
        "LR pixels that are encoded beyond each side of the crop, where the picture has them; the crop lies at random "
        "in them, and so does the codec's grid of blocks in the crop: H.264's has 16 pixels.",
    )
    chroma: tuple[str, ...] = option(
        ("yuv420p", "yuv420p", "yuv420p", "yuv422p", "yuv444p"),
        "Pixel formats, one drawn for each crop: nearly all clips are 4:2:0.", choices=CHROMA,
    )  # fmt: skip
    codecs: tuple[str, ...] = option(
        ("h264", "h264", "h265", "mpeg2", "none"),
        "Codecs, one drawn for each crop; one that is named twice is drawn twice as often, none compresses nothing. "
        "H.264 makes most of the clips there are, MPEG-2 those of DVDs and broadcasts.",
        choices=("h264", "h265", "mpeg2", "none"),
    )
    h264_crf: tuple[int, int] = option(
        (17, 33),
        "Constant rate factors of H.264: 17 is as good as the source, 23 x264's default, 33 has lost grass and hair; "
        "beyond it nothing is left to learn from.", within=(0, 51),
    )  # fmt: skip
    h265_crf: tuple[int, int] = option(
        (19, 35), "Constant rate factors of H.265; 28 is x265's default, and looks like 23 of H.264.", within=(0, 51)
    )
    mpeg2_quantiser: tuple[int, int] = option(
        (2, 12), "Quantisers of MPEG-2: 2 is the best, DVDs lie at 3 to 8, at 12 the blocks stand out.", within=(1, 31)
    )

    def __post_init__(self) -> None:
        wrong = convert(self) + contradictions(self)
        if self.motion < 0 or self.context < 0 or self.frames < 1:
            wrong.append("motion and context must not be negative, and at least one frame is needed")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")


@documented
@dataclass(frozen=True, kw_only=True)
class ClipDegradation:
    """The degradation of a clip of several frames to LR, each step at a strength drawn for each clip.

    Wider than :class:`VideoDegradation`: sharpened and interlaced sources, older codecs, a second compression.
    """

    clean: float = share(0.2, "Share of clips that are only reduced, without compression.")
    gaussian: float = share(
        0.25,
        "Share of the clean clips that are reduced by a Gaussian of 1.5 HR pixels at x4 and a pick of pixels, known "
        "as BD; plain bicubic reduces the others.",
    )
    blur: tuple[float, float] = option(
        (0.2, 2.8),
        "Standard deviation of a Gaussian before the reduction, in HR pixels at x4 (it grows with the scale); up to a "
        "quarter more or less along each axis.", within=(0, math.inf),
    )  # fmt: skip
    reductions: tuple[str, ...] = option(KERNELS, "Kernels of the reduction, one drawn for each clip.", choices=KERNELS)
    sharpened: float = share(
        0.15, "Share of the degraded clips whose source is sharpened, with halos along its edges, before the reduction."
    )
    sharpening: tuple[float, float] = option(
        (0.5, 2.0), "Strength of the sharpening: the share of the detail that is added once more.", within=(0, math.inf)
    )
    sharpening_radius: tuple[float, float] = option(
        (1.0, 3.0),
        "Standard deviation of the Gaussian that sharpening takes as the picture without detail, in HR pixels at x4.",
        within=(0, math.inf),
    )
    noise: tuple[float, float] = option(
        (0.0, 6.0), "Standard deviation of sensor noise on LR, in 8-bit codes, new in each frame; mostly a small one.",
        within=(0, math.inf),
    )  # fmt: skip
    interlaced: float = share(
        0.06,
        "Share of the degraded clips with artefacts of a bad deinterlacer: combing, or doubled lines.",
    )
    context: int = option(8, "LR pixels that are encoded beyond each side of the crop, where the source has them.")
    lead: int = option(
        4,
        "Greatest number of frames that are encoded before the first one of the clip and dropped, so that a clip "
        "rarely begins with a keyframe.",
    )
    chroma: tuple[str, ...] = option(
        ("yuv420p", "yuv420p", "yuv420p", "yuv420p", "yuv422p", "yuv444p"),
        "Pixel formats, one drawn for each compression.", choices=CHROMA,
    )  # fmt: skip
    codecs: tuple[str, ...] = option(
        ("h264",) * 5 + ("h265", "h265", "mpeg2", "mpeg4", "flv", "none"),
        "Codecs, one drawn for each compression; one that is named twice is drawn twice as often, none compresses "
        "nothing.", choices=("h264", "h265", "mpeg2", "mpeg4", "flv", "none"),
    )  # fmt: skip
    h264_crf: tuple[int, int] = option((17, 33), "Constant rate factors of H.264.", within=(0, 51))
    h265_crf: tuple[int, int] = option((19, 35), "Constant rate factors of H.265.", within=(0, 51))
    mpeg2_quantiser: tuple[int, int] = option((2, 12), "Quantisers of MPEG-2.", within=(1, 31))
    mpeg4_quantiser: tuple[int, int] = option(
        (2, 18), "Quantisers of MPEG-4 part 2, and of Sorenson's H.263 in Flash video.", within=(1, 31)
    )
    worst: float = share(
        0.08, "Share of the compressions by H.264 and H.265 that are worse than the ranges above, up to worst_crf."
    )
    worst_crf: int = option(40, "Greatest constant rate factor of these compressions.")
    keyframes: tuple[int, int] = option(
        (12, 250),
        "Greatest number of frames from one keyframe to the next; as likely between 12 and 24 as between 120 and 240.",
        within=(1, 600),
    )
    again: float = share(
        0.2,
        "Share of the degraded clips that were resized and compressed once before, as a clip that was posted again.",
    )
    again_size: tuple[float, float] = option((0.6, 1.4), "Size of that earlier clip over that of LR.", within=(0.25, 4))

    def __post_init__(self) -> None:
        wrong = convert(self) + contradictions(self)
        if not max(self.h264_crf[1], self.h265_crf[1]) <= self.worst_crf <= 51:
            wrong.append(f"worst_crf lies between the ranges of h264_crf and h265_crf and 51, got {self.worst_crf}")
        if self.context < 0 or self.lead < 0:
            wrong.append("context and lead must not be negative")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")


@documented
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights but the pictures and the seed.

    Raises:
        UsageError: values that contradict each other; all of them are reported at once.
    """

    follows: str = field(metadata=described("Publication or system that the recipe follows."))

    pretrain: Stage = field(metadata=described("Stage that trains the generator alone."))
    discriminator: Stage = option(Stage(), "Stage that trains the discriminator alone, against the fixed generator.")
    adversarial: Stage = field(metadata=described("Stage that trains both networks."))
    unit: Literal["steps", "epochs"] = option(
        "steps", "Unit of the lengths of stages: updates, or passes over the pictures."
    )

    scale: int = option(4, "Output size over input size: 2, 4 or 8; for a recurrent generator 2 or 4.")
    generator: Literal["srgan", "recurrent"] = option(
        "srgan", "srgan: upscales each picture by itself. recurrent: a clip, frame by frame; it is trained on clips."
    )
    aligned: bool = option(False, "Move the recurrent generator's state along the motion between two frames.")
    blocks: int = option(16, "Residual blocks of the generator.", at_least=1)
    channels: int = option(64, "Channels of the generator.", at_least=3)
    upsampling: Upsampling = option(
        "shuffle",
        "shuffle: convolution, PixelShuffle, PReLU. nearest: repeated pixels, convolution to 256 channels, LeakyReLU.",
    )
    tanh: bool = option(False, "The generator's output passes through tanh, from [-1, 1] to [0, 1].")
    normalisation: Normalisation = option(
        "none", "imagenet: the generator works on pixels less ImageNet's mean over its standard deviation."
    )
    norm_momentum: float = option(
        0.1, "Share of the newest batch in the running statistics of the generator's normalisations.", above=0,
        at_most=1,
    )  # fmt: skip
    discriminator_head: Head = option(
        "dense", "dense: a layer of 1024 for crops of one size. pooled: fully convolutional, average pooling."
    )
    discriminator_channels: int = option(64, "Channels of the discriminator's first convolution.", at_least=1)

    content_network: Literal["vgg19", "vgg16"] = option("vgg19", "Network whose features the content loss compares.")
    content_activation: Literal["after", "before"] = option("after", "Features after or before the ReLU of the layer.")
    adversarial_form: Literal["bce", "relativistic", "hinge"] = option(
        "bce", "Form of the adversarial loss: binary cross-entropy, relativistic average, or hinge."
    )
    real_labels: Labels = option(Labels("fixed", 1.0), "Labels of real crops for the discriminator.")
    fake_labels: Labels = option(Labels("fixed", 0.0), "Labels of upscaled crops for the discriminator.")

    betas: tuple[float, float] = option((0.9, 0.999), "Decay rates of Adam.", at_least=0, below=1)
    gradient_clip: float = option(0.0, "Greatest norm of a network's gradient; 0 does not clip.", at_least=0)
    ema_decay: float = option(
        0.999, "Decay of the exponential moving average of the generator, which is what is measured and kept.",
        at_least=0, below=1,
    )  # fmt: skip

    batch_size: int = option(16, "Crops in a batch, of all processes together.", at_least=1)
    accumulate: int = option(
        1,
        "Batches in each update, whose gradients are summed up: an update of a batch so many times as large, in the "
        "memory of one. Only batch normalisation, and the relativistic form, see each batch alone.", at_least=1,
    )  # fmt: skip
    crop_size: int = option(
        96, "Edge of a crop in HR pixels; a multiple of the scale, at least four times it, and at least 16."
    )
    crop: Literal["random", "centre"] = option("random", "Position of a crop in its picture.")
    crops_per_picture: int = option(1, "Crops per drawn picture.", at_least=1)
    sampling: Literal["by-area", "by-picture"] = option(
        "by-area", "by-area: each HR pixel is about as likely as any other. by-picture: each picture once an epoch."
    )
    flips: bool = option(True, "Mirror half of the crops, each way.")
    rotations: bool = option(True, "Turn crops by quarters.")
    transposes: bool = option(False, "Swap rows and columns of half of the crops.")
    degradation: Literal["bicubic", "video"] = option("bicubic", "How LR is made of HR.")
    video: VideoDegradation = option(VideoDegradation(), "Degradation video, of single crops.")
    frames: int = option(
        1,
        "Frames of a clip, for a recurrent generator; 1 trains on single crops. Clips lie at random, by area, in all "
        "orientations, whatever the crops of pictures do.", at_least=1, at_most=MAX_FRAMES,
        rule=f"must lie in 1 to {MAX_FRAMES}",
    )  # fmt: skip
    long_frames: int = option(0, "Frames of a clip in the last part of each stage; 0: as many as before.")
    long_share: float = option(
        0.2, "Share of the updates of a stage, its last, that see clips of long_frames.", at_least=0, at_most=1
    )
    backprop_frames: int = option(
        0, "Frames through which gradients flow back along the state; 0: through the whole clip.", at_least=0
    )
    rising_frames: int = option(
        4,
        "First frames of a clip that count less in losses of pixels, the n-th n / rising_frames: they have few before.",
        at_least=1,
    )
    content_frames: int = option(
        2, "Frames of each clip that the content loss compares in an update, drawn at random.", at_least=1
    )
    judged_frames: int = option(
        1,
        "Frames of each clip that the discriminator sees in an update, drawn anew: alone, and between their "
        "neighbours.", at_least=1,
    )  # fmt: skip
    real_motion: float = share(
        0.3,
        "Share of the clips that are cut out of video files, where the data hold any; the others move over pictures.",
    )
    clip: ClipDegradation = option(ClipDegradation(), "Degradation of clips of several frames.")

    def __post_init__(self) -> None:
        wrong = convert(self) + contradictions(self) + self._contradictions()
        wrong += self._recurrent_contradictions() if self.generator == "recurrent" else self._single_contradictions()
        for name in STAGES:
            stage = self.stage(name)
            wrong += [f"{name}: {sentence}" for sentence in contradictions(stage)]
            weights = [getattr(stage, loss) for loss in LOSSES]
            if not all(0 <= weight < math.inf for weight in weights):
                wrong.append(f"{name}: weights of losses must be finite and not negative")
            elif stage.length and name != "discriminator" and not any(weights):
                wrong.append(f"{name}: a loss is needed, one of {', '.join(LOSSES)} with a weight above 0")
            if self.generator != "recurrent":
                wrong += [
                    f"{name}: the loss {loss} is for the recurrent generator"
                    for loss in LOSSES_OF_CLIPS
                    if getattr(stage, loss)
                ]
        if self.pretrain.adversarial:
            wrong.append("pretrain: the adversarial loss belongs to the adversarial stage")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")

    def _contradictions(self) -> list[str]:
        wrong = []
        if self.blocks > 1000:
            wrong.append(f"blocks must be at most 1000, got {self.blocks}")
        least = 20 if self.generator == "recurrent" else max(16, 4 * self.scale)  # SSIM is measured on whole clips
        if self.scale not in (2, 4, 8):
            wrong.append(f"scale must be 2, 4 or 8, got {self.scale}")
        elif self.crop_size < least or self.crop_size % self.scale:
            wrong.append(f"crop_size must be a multiple of {self.scale}, at least {least}, got {self.crop_size}")
        if self.batch_size % max(1, self.crops_per_picture):
            wrong.append(f"batch_size {self.batch_size} is no multiple of crops_per_picture {self.crops_per_picture}")
        return wrong

    def _single_contradictions(self) -> list[str]:
        wrong, recurrent = [], setting("generator", "recurrent")
        if self.frames != 1 or self.long_frames:
            wrong.append(f"clips of several frames are for the recurrent generator: {recurrent}")
        if self.aligned:
            wrong.append(f"aligned is for the recurrent generator, which has a state: {recurrent}")
        return wrong

    def _recurrent_contradictions(self) -> list[str]:
        wrong = []
        least = 3 if self.discriminator.length or self.adversarial.length else 2
        if self.frames < least:
            why = "the discriminator sees three frames" if least == 3 else "a recurrent generator is trained on clips"
            wrong.append(f"{why}: frames must be at least {least}, got {self.frames}")
        if self.long_frames and self.long_frames < self.frames:
            wrong.append(f"long_frames must be 0, or not less than frames ({self.frames}), got {self.long_frames}")
        if self.long_frames > MAX_FRAMES:
            wrong.append(f"long_frames must be at most {MAX_FRAMES}, got {self.long_frames}")
        if self.scale == 8:
            wrong.append("a recurrent generator's scale is 2 or 4, got 8")
        for name, only in (("upsampling", "shuffle"), ("tanh", False), ("normalisation", "none")):
            if getattr(self, name) != only:
                wrong.append(f"{name} is for the generator srgan: a recurrent one has none to choose")
        if self.unit == "epochs":
            wrong.append("epochs are passes over pictures: the stages of a recurrent generator are given in steps")
        if self.crops_per_picture != 1:
            wrong.append(f"clips are drawn one by one: crops_per_picture must be 1, got {self.crops_per_picture}")
        return wrong

    @property
    def crops_per_update(self) -> int:
        """Crops in each update, of all processes and batches together."""
        return self.batch_size * self.accumulate

    def stage(self, name: StageName) -> Stage:
        """Return a stage by name."""
        stage: Stage = getattr(self, name)
        return stage


def with_total_steps(recipe: Recipe, steps: int, only: StageName | None = None) -> Recipe:
    """Return a recipe scaled to ``steps`` updates: its stages in proportion, or ``only`` one of them.

    Raises:
        UsageError: fewer steps than stages, or the stages have no length to be in proportion to.
    """
    if only is not None:
        lengths = {only: steps}
    else:
        lengths = {name: recipe.stage(name).length for name in STAGES if recipe.stage(name).length}
    if not lengths:
        raise UsageError("no stage has a length, so the steps cannot be divided among them; give the stages lengths.")
    if steps < len(lengths):
        raise UsageError(f"steps must be at least {len(lengths)}, one for each stage, got {steps}.")
    whole = sum(lengths.values())
    shares = {name: max(1, round(steps * length / whole)) for name, length in lengths.items()}
    shares[max(shares, key=lambda name: shares[name])] += steps - sum(shares.values())
    changed: dict[str, Any] = {name: replace(recipe.stage(name), length=length) for name, length in shares.items()}
    return replace(recipe, unit="steps", **changed)


class RecipeValues(TypedDict, total=False):
    """The keywords of ``override``, for editors and type checkers; a test compares them with the fields."""

    follows: str
    pretrain: Stage
    discriminator: Stage
    adversarial: Stage
    unit: Literal["steps", "epochs"]
    scale: int
    generator: Literal["srgan", "recurrent"]
    aligned: bool
    blocks: int
    channels: int
    upsampling: Upsampling
    tanh: bool
    normalisation: Normalisation
    norm_momentum: float
    discriminator_head: Head
    discriminator_channels: int
    content_network: Literal["vgg19", "vgg16"]
    content_activation: Literal["after", "before"]
    adversarial_form: Literal["bce", "relativistic", "hinge"]
    real_labels: Labels
    fake_labels: Labels
    betas: tuple[float, float]
    gradient_clip: float
    ema_decay: float
    batch_size: int
    accumulate: int
    crop_size: int
    crop: Literal["random", "centre"]
    crops_per_picture: int
    sampling: Literal["by-area", "by-picture"]
    flips: bool
    rotations: bool
    transposes: bool
    degradation: Literal["bicubic", "video"]
    video: VideoDegradation
    frames: int
    long_frames: int
    long_share: float
    backprop_frames: int
    rising_frames: int
    content_frames: int
    judged_frames: int
    real_motion: float
    clip: ClipDegradation
    pretrain_length: int
    pretrain_learning_rate: float
    pretrain_schedule: Literal["constant", "multi-step", "cosine", "one-cycle"]
    pretrain_milestones: tuple[float, ...]
    pretrain_mse: float
    pretrain_l1: float
    pretrain_charbonnier: float
    pretrain_content: float
    pretrain_content_layer: str
    pretrain_total_variation: float
    pretrain_ping_pong: float
    pretrain_teacher: float
    pretrain_artefacts: float
    pretrain_adversarial: float
    discriminator_length: int
    discriminator_learning_rate: float
    discriminator_schedule: Literal["constant", "multi-step", "cosine", "one-cycle"]
    discriminator_milestones: tuple[float, ...]
    discriminator_mse: float
    discriminator_l1: float
    discriminator_charbonnier: float
    discriminator_content: float
    discriminator_content_layer: str
    discriminator_total_variation: float
    discriminator_ping_pong: float
    discriminator_teacher: float
    discriminator_artefacts: float
    discriminator_adversarial: float
    adversarial_length: int
    adversarial_learning_rate: float
    adversarial_schedule: Literal["constant", "multi-step", "cosine", "one-cycle"]
    adversarial_milestones: tuple[float, ...]
    adversarial_mse: float
    adversarial_l1: float
    adversarial_charbonnier: float
    adversarial_content: float
    adversarial_content_layer: str
    adversarial_total_variation: float
    adversarial_ping_pong: float
    adversarial_teacher: float
    adversarial_artefacts: float
    adversarial_adversarial: float
    video_clean: float
    video_blur: tuple[float, float]
    video_reductions: tuple[str, ...]
    video_noise: tuple[float, float]
    video_motion: float
    video_still: float
    video_frames: int
    video_context: int
    video_chroma: tuple[str, ...]
    video_codecs: tuple[str, ...]
    video_h264_crf: tuple[int, int]
    video_h265_crf: tuple[int, int]
    video_mpeg2_quantiser: tuple[int, int]
    clip_clean: float
    clip_gaussian: float
    clip_blur: tuple[float, float]
    clip_reductions: tuple[str, ...]
    clip_sharpened: float
    clip_sharpening: tuple[float, float]
    clip_sharpening_radius: tuple[float, float]
    clip_noise: tuple[float, float]
    clip_interlaced: float
    clip_context: int
    clip_lead: int
    clip_chroma: tuple[str, ...]
    clip_codecs: tuple[str, ...]
    clip_h264_crf: tuple[int, int]
    clip_h265_crf: tuple[int, int]
    clip_mpeg2_quantiser: tuple[int, int]
    clip_mpeg4_quantiser: tuple[int, int]
    clip_worst: float
    clip_worst_crf: int
    clip_keyframes: tuple[int, int]
    clip_again: float
    clip_again_size: tuple[float, float]


def override(recipe: Recipe, **values: Unpack[RecipeValues]) -> Recipe:
    """Return a recipe with other values: fields by name, those of its parts prefixed by the part's name.

    ``override(recipe, batch_size=8, pretrain_length=1000, video_noise=(0, 3))``

    Raises:
        TypeError: no such field.
        UsageError: the values contradict each other.
    """
    parts: dict[str, dict[str, Any]] = {name: {} for name in (*STAGES, "video", "clip")}
    own: dict[str, Any] = {}
    names = {field.name for field in fields(recipe)}
    for name, value in values.items():
        part, _, inner = name.partition("_")
        if name in names:
            own[name] = value
        elif part in parts:
            parts[part][inner] = value
        else:
            raise TypeError(f"a recipe has no field {name!r}")
    changed = {part: replace(getattr(recipe, part), **inner) for part, inner in parts.items() if inner}
    return replace(recipe, **own, **changed)


CLIPS: dict[str, Any] = {
    "aligned": True,
    "frames": 10,
    "long_frames": 15,
    "crop_size": 192,
    "batch_size": 16,
    "gradient_clip": 0.5,
    "discriminator_head": "pooled",
}
"""Common values of the recipes of recurrent generators."""

RECIPES: dict[str, Recipe] = {
    "srgan": Recipe(
        follows="Ledig et al. 2017, https://arxiv.org/abs/1609.04802",
        pretrain=Stage(length=1_000_000, learning_rate=1e-4, mse=1.0),
        adversarial=Stage(
            length=200_000, learning_rate=1e-4, schedule="multi-step", milestones=(0.5,), content=1.0, adversarial=1e-3
        ),
        crop_size=96,
        batch_size=16,
    ),
    "coco-200": Recipe(
        follows="O. Nanka's SRGAN for video; batch and labels as in deepak112/Keras-SRGAN, where its networks are from",
        pretrain=Stage(),
        adversarial=Stage(length=1000, learning_rate=1e-4, content=1.0, adversarial=1e-3),
        unit="epochs",
        upsampling="nearest",
        tanh=True,
        norm_momentum=0.5,
        real_labels=Labels("uniform", 0.8, 1.0),
        fake_labels=Labels("uniform", 0.0, 0.2),
        crop_size=200,
        crop="centre",
        batch_size=64,
        sampling="by-picture",
        flips=False,
        rotations=False,
    ),
    "coco-176": Recipe(
        follows="https://github.com/Jacklu0831/Super-Resolution-GAN",
        pretrain=Stage(),
        adversarial=Stage(length=2500, learning_rate=1e-4, content=1.0, adversarial=1e-3),
        unit="epochs",
        upsampling="nearest",
        tanh=True,
        norm_momentum=0.5,
        real_labels=Labels("normal", 0.9, 0.05),
        fake_labels=Labels("normal", 0.1, 0.05),
        crop_size=176,
        crop="centre",
        batch_size=32,
        sampling="by-picture",
        flips=False,
        rotations=False,
    ),
    "vgg16-tv": Recipe(
        follows="T. Gore's super-resolution GAN; labels as in titu1994/Super-Resolution-using-Generative-Adversarial-"
        "Networks, which has the same three stages",
        pretrain=Stage(length=1, learning_rate=1e-4, content=1.0, content_layer="conv2_2", total_variation=0.1),
        discriminator=Stage(length=1, learning_rate=1e-4),
        adversarial=Stage(
            length=5,
            learning_rate=1e-4,
            content=1.0,
            content_layer="conv5_3",
            total_variation=0.1,
            adversarial=1e-3,
        ),
        unit="epochs",
        content_network="vgg16",
        real_labels=Labels("uniform", 0.7, 1.0),
        fake_labels=Labels("uniform", 0.0, 0.3),
        crop_size=128,
        batch_size=16,
        sampling="by-picture",
        flips=False,
        rotations=False,
        transposes=True,
    ),
    "div2k-256": Recipe(
        follows="H. Shen's SRGAN",
        pretrain=Stage(length=3, learning_rate=1e-4, mse=1.0),
        adversarial=Stage(
            length=240,
            learning_rate=1e-4,
            schedule="multi-step",
            milestones=(200 / 240,),
            content=0.006,
            content_layer="conv3_4",
            adversarial=1e-3,
        ),
        unit="epochs",
        normalisation="imagenet",
        discriminator_head="pooled",
        real_labels=Labels("uniform", 0.7, 1.0),
        fake_labels=Labels("uniform", 0.0, 0.3),
        crop_size=256,
        batch_size=4,
        crops_per_picture=4,
        sampling="by-picture",
        flips=False,
        rotations=False,
    ),
    "video-recurrent": Recipe(
        follows="RLSP (Fuoli et al. 2019, https://arxiv.org/abs/1909.08080), adversarial as TecoGAN (Chu et al. 2020, "
        "https://arxiv.org/abs/1811.09393)",
        generator="recurrent",
        blocks=10,
        channels=64,
        pretrain=Stage(length=300_000, learning_rate=4e-4, schedule="one-cycle", charbonnier=1.0),
        adversarial=Stage(
            length=100_000,
            learning_rate=1e-4,
            schedule="multi-step",
            milestones=(0.5, 0.8),
            charbonnier=0.05,
            content=2.5e-5,
            content_layer="conv3_4",
            ping_pong=0.1,
            adversarial=0.006,
        ),
        **CLIPS,
    ),
    "fast-recurrent": Recipe(
        follows="RLSP (Fuoli et al. 2019, https://arxiv.org/abs/1909.08080)",
        generator="recurrent",
        blocks=2,
        channels=64,
        pretrain=Stage(length=400_000, learning_rate=4e-4, schedule="one-cycle", charbonnier=1.0),
        adversarial=Stage(),
        **CLIPS,
    ),
}
