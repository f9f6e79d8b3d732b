"""The recipes: SRGAN as the paper trains it, and as four public systems do; recurrent generators. Imports no torch.

Each is a literal; a new one is one entry. ``vsr train --recipe NAME`` takes one, and every value of it can be given on
the command line. Where a source feeds VGG with pictures of a range that VGG was not trained on, ours are prepared as
VGG wants them; where it takes labels beyond 1, ours end at 1.
"""

from __future__ import annotations

from typing import Any

from vsr.training.recipe import Labels, Recipe, Stage

CLIPS: dict[str, Any] = {
    "aligned": True,
    "frames": 10,
    "long_frames": 15,
    "crop_size": 192,
    "batch_size": 16,
    "gradient_clip": 0.5,
    "discriminator_head": "pooled",
}
"""What recipes of recurrent generators have in common."""

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
