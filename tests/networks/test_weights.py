from __future__ import annotations

import copy
import errno
import json
import pickle
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import vsr
from vsr.errors import OutputError, UnknownModelError, UsageError, WeightsError
from vsr.networks.discriminator import Discriminator
from vsr.networks.generator import Bicubic, Generator, Identity
from vsr.networks.weights import (
    FORMAT,
    Calibration,
    blend,
    find_weights,
    load_discriminator,
    load_network,
    load_shared,
    model_covering,
    models_folder,
    read_info,
    save_calibration,
    save_discriminator,
    save_network,
    scale_of,
    shipped_models,
)

TinyGenerator = Callable[..., Generator]
LR = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_generator: TinyGenerator) -> Path:
    """A source tree of vsr whose models are a tiny x2 and a tiny x4."""
    (tmp_path / "tree/vsr").mkdir(parents=True)
    folder = tmp_path / "tree/models"
    folder.mkdir()
    for scale in (2, 4):
        save_network(folder / f"tiny-x{scale}.safetensors", tiny_generator(scale), {})
    monkeypatch.setattr(vsr, "__file__", str(tmp_path / "tree/vsr/__init__.py"))
    return folder


def rewrite(source: Path, target: Path, *, metadata: dict[str, str | None] | None = None, **tensors: Tensor) -> Path:
    """A copy of a weights file with other metadata (None: left out) and other tensors."""
    with safe_open(source, framework="pt") as file:
        texts = {**file.metadata(), **(metadata or {})}
    save_file({**load_file(source), **tensors}, target, {key: text for key, text in texts.items() if text is not None})
    return target


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_saved_weights_are_loaded(tmp_path: Path, tiny_generator: TinyGenerator, scale: int) -> None:
    generator = tiny_generator(scale)
    save_network(tmp_path / "net.safetensors", generator, {})
    loaded = load_network(str(tmp_path / "net.safetensors"))

    rounded = copy.deepcopy(generator)
    for tensor in rounded.state_dict().values():
        if tensor.dim() > 1:
            tensor.copy_(tensor.half())
    assert isinstance(loaded, Generator) and loaded.config == generator.config and not loaded.training
    assert all(value.dtype == torch.float32 for value in loaded.parameters())
    with torch.no_grad():
        sr = loaded(LR)
        assert torch.equal(sr, rounded(LR))
        # Half precision keeps eleven bits of each weight.
        assert 0 < (sr - generator(LR)).abs().max() < 2**-11 * 4 * generator(LR).abs().max()


@pytest.mark.parametrize("size", [(9, 7), (1, 1)], ids=str)
@pytest.mark.parametrize("scale", [2, 8])
@pytest.mark.parametrize(
    "variant",
    [
        {"upsampling": "nearest", "tanh": True, "norm_momentum": 0.5},
        {"normalisation": "imagenet"},
        {"upsampling": "nearest", "normalisation": "imagenet"},
    ],
    ids=str,
)
def test_variants_are_loaded_as_saved(
    tmp_path: Path, variant: dict[str, Any], scale: int, size: tuple[int, int]
) -> None:
    generator = Generator(scale=scale, blocks=1, channels=4, **variant).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.copy_((torch.randn_like(parameter) * 0.1).half())  # so that storing loses nothing
    save_network(tmp_path / "net.safetensors", generator, {})
    loaded = load_network(tmp_path / "net.safetensors")
    lr = torch.rand(2, 3, *size)
    assert isinstance(loaded, Generator) and loaded.config == generator.config
    with torch.no_grad():
        assert torch.equal(loaded(lr), generator(lr))


def test_files_without_the_variants_keywords_are_loaded(
    tmp_path: Path, tiny_weights: Path, tiny_generator: TinyGenerator
) -> None:
    old = '{"blocks": 1, "channels": 4, "scale": 4}'
    loaded = load_network(rewrite(tiny_weights, tmp_path / "old.safetensors", metadata={"config": old}))
    assert isinstance(loaded, Generator) and loaded.config == tiny_generator().config
    with torch.no_grad():
        assert torch.equal(loaded(LR), load_network(tiny_weights)(LR))


@pytest.mark.parametrize("path", sorted(models_folder().glob("*.safetensors")), ids=lambda path: path.stem)
def test_grey_stays_grey_in_the_shipped_models(path: Path) -> None:
    with torch.no_grad():
        sr = load_network(path)(torch.full((1, 3, 24, 24), 0.5))
    apart = (sr - 0.5)[..., 16:-16, 16:-16]
    assert apart.abs().max() < 0.02 and apart.mean((0, 2, 3)).abs().max() < 0.01


def discriminator(**config: Any) -> Discriminator:
    """Tiny, every parameter random and held in half precision exactly."""
    network = Discriminator(**{"channels": 4, "dense_size": 8, "crop_size": 32, **config})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_((torch.randn_like(parameter) * 0.1).half())
    return network


@pytest.mark.parametrize(
    ("config", "size"),
    [({}, (32, 32)), ({"crop_size": 40}, (40, 40)), ({"head": "pooled", "crop_size": None}, (33, 21))],
)
def test_discriminators_are_loaded_as_saved(tmp_path: Path, config: dict[str, Any], size: tuple[int, int]) -> None:
    first = discriminator(**config)
    crops = torch.rand(3, 3, *size)
    first(crops)  # in training mode: moves the statistics
    path = tmp_path / "discriminator.safetensors"
    save_discriminator(path, first, {"recipe": "srgan"})
    info = read_info(path)
    assert (info.architecture, info.config, info.about) == ("discriminator", first.config, {"recipe": "srgan"})
    built = load_discriminator(path)
    filled = load_discriminator(path, discriminator(**config))
    with torch.no_grad():
        expected = first.eval()(crops)
        assert torch.equal(built.eval()(crops), expected) and torch.equal(filled.eval()(crops), expected)


def test_a_discriminator_for_other_crops_keeps_its_body(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "discriminator.safetensors"
    save_discriminator(path, discriminator(), {})
    other = discriminator(crop_size=64)
    head = other.head[1].weight.clone()
    assert load_discriminator(path, other) is other
    assert "head.1.weight, head.1.bias keep their initial weights" in caplog.text
    assert torch.equal(other.head[1].weight, head)
    assert torch.equal(other.features[0].weight, load_discriminator(path).features[0].weight)
    with pytest.raises(WeightsError, match=r"of another network: \d+ tensors differ, features\.0\."):
        load_discriminator(path, discriminator(channels=5))


def test_each_kind_of_network_has_its_own_functions(tmp_path: Path, tiny_weights: Path) -> None:
    path = tmp_path / "discriminator.safetensors"
    save_discriminator(path, discriminator(), {})
    with pytest.raises(WeightsError) as caught:
        load_network(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is a discriminator, which judges pictures")
    assert message.endswith(f"beside it: {tmp_path / 'generator.safetensors'}.")
    with pytest.raises(WeightsError, match=r"tiny-x4\.safetensors is a generator \(srgan\); a discriminator is needed"):
        load_discriminator(tiny_weights)
    with pytest.raises(ValueError, match="of srgan, recurrent, not of a Discriminator"):
        save_network(tmp_path / "no.safetensors", discriminator(), {})
    with pytest.raises(ValueError, match="of discriminator, not of a Generator"):
        save_discriminator(tmp_path / "no.safetensors", load_network(tiny_weights), {})
    with pytest.raises(WeightsError, match=r"gone\.safetensors is not a weights file"):
        load_discriminator(tmp_path / "gone.safetensors")
    assert not (tmp_path / "no.safetensors").exists()


def test_a_discriminator_among_the_shipped_is_no_model(models: Path) -> None:
    save_discriminator(models / "judge.safetensors", discriminator(), {})
    assert [info.name for info in shipped_models()] == ["tiny-x2", "tiny-x4"]
    with pytest.raises(WeightsError, match="judge.safetensors is a discriminator"):
        load_network("judge")


SECOND_DOUBLING = ["upsample.1.0.weight", "upsample.1.0.bias", "upsample.1.2.weight"]


@pytest.mark.parametrize(("source", "target"), [(4, 2), (2, 4), (4, 4)])
def test_sharing_between_scales(tiny_generator: TinyGenerator, source: int, target: int) -> None:
    giver, taker = tiny_generator(source, seed=0), tiny_generator(target, seed=1)
    before = copy.deepcopy(taker.state_dict())
    assert load_shared(taker, giver.state_dict()) == ([] if source == target else SECOND_DOUBLING)
    given, after = giver.state_dict(), taker.state_dict()
    for name in after:
        assert torch.equal(after[name], before[name] if name in SECOND_DOUBLING and source < target else given[name])
    given["tail.bias"] += 1
    assert not torch.equal(after["tail.bias"], given["tail.bias"]), "a copy"


def test_sharing_between_upsamplings_copies_whole_layers(tiny_generator: TinyGenerator) -> None:
    """The tail's bias has the same shape in both, and is of no use without the weights."""
    giver, taker = tiny_generator(2), Generator(scale=2, blocks=1, channels=4, upsampling="nearest", tanh=True)
    bias = taker.tail.bias.clone()
    left = load_shared(taker, giver.state_dict())
    ours, theirs = ["upsample.0.1.weight", "upsample.0.1.bias", "tail.weight", "tail.bias"], SECOND_DOUBLING
    assert left == [*ours, *(name.replace(".1.", ".0.") for name in theirs)]
    assert torch.equal(taker.tail.bias, bias)
    assert torch.equal(taker.body_conv.weight, giver.body_conv.weight)
    assert torch.equal(taker.state_dict()["body_norm.running_var"], giver.state_dict()["body_norm.running_var"])


@pytest.mark.parametrize("config", [{"blocks": 2}, {"channels": 5}, {"blocks": 3, "channels": 8}])
@pytest.mark.parametrize("swap", [False, True])
def test_different_bodies_are_refused(tiny_generator: TinyGenerator, config: dict[str, int], swap: bool) -> None:
    pair = [tiny_generator(), Generator(**{"blocks": 1, "channels": 4, **config})]
    giver, taker = reversed(pair) if swap else pair
    before = copy.deepcopy(taker.state_dict())
    with pytest.raises(WeightsError, match=r"of another network: \d+ tensors differ, (head|body)\."):
        load_shared(taker, giver.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in taker.state_dict().items())


@pytest.mark.parametrize("state", [{}, {"conv1_1.weight": torch.zeros(64, 3, 3, 3)}])
def test_weights_without_a_body_are_refused(tiny_generator: TinyGenerator, state: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match="of another network"):
        load_shared(tiny_generator(), state)
    with pytest.raises(WeightsError, match="of another network"):
        load_shared(Identity(), {"weight": torch.zeros(1)})


def test_matrices_are_stored_in_half_and_vectors_in_single_precision(tiny_weights: Path) -> None:
    for name, tensor in load_file(tiny_weights).items():
        if name.endswith("num_batches_tracked"):
            assert tensor.dtype == torch.int64
        else:
            assert tensor.dtype == (torch.float16 if tensor.dim() > 1 else torch.float32), name


def test_saving_does_not_change_the_network(tmp_path: Path, tiny_generator: TinyGenerator) -> None:
    generator = tiny_generator().train()
    before = copy.deepcopy(generator.state_dict())
    save_network(tmp_path / "net.safetensors", generator, {})
    after = generator.state_dict()
    assert generator.training
    assert all(torch.equal(after[name], before[name]) and after[name].dtype == before[name].dtype for name in before)


def test_metadata_is_saved_and_read(tmp_path: Path, tiny_generator: TinyGenerator) -> None:
    path = tmp_path / "my net.safetensors"
    about = {"purpose": "tests", "licence": "MIT", "training": '{"steps": 2}'}
    save_network(path, tiny_generator(8), about)
    info = read_info(path)
    assert (info.path, info.name, info.architecture, info.scale) == (path, "my net", "srgan", 8)
    assert info.config == {
        "scale": 8,
        "blocks": 1,
        "channels": 4,
        "upsampling": "shuffle",
        "tanh": False,
        "normalisation": "none",
        "norm_momentum": 0.1,
    }
    assert info.about == about
    with safe_open(path, framework="pt") as file:
        stored = file.metadata()
    assert stored["format"] == FORMAT and json.loads(stored["config"]) == info.config


def test_built_in_models() -> None:
    assert isinstance(load_network("identity"), Identity)
    assert isinstance(load_network("identity", scale=1), Identity)
    bicubic = load_network("bicubic")
    assert isinstance(bicubic, Bicubic) and bicubic.scale == 4
    assert load_network("bicubic", scale=2.5).scale == 2.5


def test_models_folder_of_a_source_tree_and_of_an_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vsr, "__file__", str(tmp_path / "vsr/__init__.py"))
    assert models_folder() == tmp_path / "models"
    (tmp_path / "vsr/models").mkdir(parents=True)
    assert models_folder() == tmp_path / "vsr/models"


def test_shipped_models_by_name(models: Path) -> None:
    assert [(info.name, info.scale) for info in shipped_models()] == [("tiny-x2", 2), ("tiny-x4", 4)]
    assert find_weights("tiny-x2") == models / "tiny-x2.safetensors"
    assert load_network("tiny-x2").config["scale"] == 2
    assert load_network("tiny-x4", scale=4.0).config["scale"] == 4


def test_a_path_names_its_file(models: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_weights(str(tiny_weights)) == tiny_weights
    monkeypatch.chdir(tiny_weights.parent)
    assert find_weights(tiny_weights.name) == Path(tiny_weights.name)
    # A path, and no name of a shipped model, even where that would be found.
    with pytest.raises(UnknownModelError):
        find_weights("../models/tiny-x2")


@pytest.mark.parametrize("name", ["nonsense", "", "tiny-x4.pth", "/no/such/file.safetensors"])
def test_unknown_models_are_an_error(models: Path, name: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        load_network(name)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert repr(name) in message and re.search("one of bicubic, identity, tiny[.;] ", message)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("tinny", "tiny"), ("tiny-4x", "tiny-x4"), ("bicubc", "bicubic"), ("idenity", "identity")],
)
def test_a_typo_gets_a_suggestion(models: Path, name: str, meant: str) -> None:
    with pytest.raises(UnknownModelError, match=rf"; did you mean {meant}\? `vsr models` lists them\.$"):
        load_network(name)


def test_a_family_is_its_largest_scale_or_the_one_that_is_asked_for(models: Path) -> None:
    assert find_weights("tiny").name == "tiny-x4.safetensors"
    assert load_network("tiny").scale == 4 and load_network("tiny", scale=2).scale == 2
    assert (scale_of("tiny"), scale_of("tiny", 1.5), scale_of("identity"), scale_of("bicubic", 3)) == (4, 2, 1, 3)


def test_a_run_folder_is_a_model(models: Path, tiny_weights: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(UnknownModelError, match="run holds no generator.safetensors"):
        find_weights(str(run))
    shutil.copy(tiny_weights, run / "generator.safetensors")
    assert find_weights(str(run)) == run / "generator.safetensors"
    assert load_network(run).scale == load_network(tiny_weights).scale


def test_a_scale_that_the_model_lacks_is_an_error(models: Path) -> None:
    with pytest.raises(UsageError, match=r"'tiny-x4' upscales by 4, not by 2\. Models for x2: tiny-x2, bicubic\."):
        load_network("tiny-x4", scale=2)
    with pytest.raises(UsageError, match=r"by 1, not by 2\.5\. Models for x2\.5: bicubic\."):
        load_network("identity", scale=2.5)


def flip_a_bit_of_the_header(content: bytes) -> bytes:
    return content[:12] + bytes([content[12] ^ 0x80]) + content[13:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:5],
        lambda content: content[:200],
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: b"\xff" * 8 + content[8:],
        flip_a_bit_of_the_header,
        lambda content: b"not a weights file at all",
        lambda content: content + b"more",
    ],
    ids=["empty", "5 bytes", "no header", "a byte less", "half", "endless header", "bit flip", "text", "longer"],
)
def test_damaged_files_are_an_error(tmp_path: Path, tiny_weights: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damage(tiny_weights.read_bytes()))
    with pytest.raises(WeightsError, match=r"damaged\.safetensors is not a weights file"):
        load_network(str(path))
    with pytest.raises(WeightsError, match=r"damaged\.safetensors"):
        read_info(path)


def test_paths_that_are_no_files_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is not a weights file"):
        read_info(tmp_path)
    with pytest.raises(WeightsError, match=r"gone\.safetensors is not a weights file"):
        read_info(tmp_path / "gone.safetensors")


class Bomb:
    """Unpickling one creates a file."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.crater), "w")


@pytest.mark.parametrize("writer", ["pickle", "torch", "torch, the old format"])
def test_a_hostile_pickle_is_refused_without_running_it(tmp_path: Path, writer: str) -> None:
    path, crater = tmp_path / "hostile.safetensors", tmp_path / "crater"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Bomb(crater)))
        pickle.loads(path.read_bytes()).close()
        assert crater.exists(), "the bomb has to work for this to prove a thing"
        crater.unlink()
    else:
        torch.save(Bomb(crater), path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(WeightsError, match=r"hostile\.safetensors"):
        load_network(str(path))
    assert not crater.exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "vsr-weights-99"}])
def test_foreign_safetensors_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path, metadata)
    with pytest.raises(WeightsError, match=r"foreign\.safetensors holds no weights of vsr"):
        load_network(str(path))


def test_an_unknown_architecture_is_refused(tmp_path: Path, tiny_weights: Path) -> None:
    path = rewrite(tiny_weights, tmp_path / "other.safetensors", metadata={"architecture": "esrgan"})
    said = r"other\.safetensors is for an architecture 'esrgan' .* it has srgan, recurrent\."
    with pytest.raises(WeightsError, match=said):
        load_network(str(path))


@pytest.mark.parametrize("metadata", [{"config": None}, {"architecture": None}, {"config": "{scale: 4"}])
def test_damaged_metadata_is_an_error(tmp_path: Path, tiny_weights: Path, metadata: dict[str, str | None]) -> None:
    path = rewrite(tiny_weights, tmp_path / "odd.safetensors", metadata=metadata)
    with pytest.raises(WeightsError, match=r"odd\.safetensors does not say how"):
        read_info(path)


@pytest.mark.parametrize(
    "config",
    [
        '{"scale": 4, "blocks": 2, "channels": 4}',
        '{"scale": 4, "blocks": 1, "channels": 6}',
        '{"scale": 2, "blocks": 1, "channels": 4}',
        '{"scale": 5, "blocks": 1, "channels": 4}',
        '{"scale": 4, "blocks": 0, "channels": 4}',
        '{"scale": 4, "blocks": "1", "channels": 4}',
        '{"scale": 4, "width": 4}',
        '{"scale": 4, "blocks": 1, "channels": 4, "upsampling": "nearest"}',
        '{"scale": 4, "blocks": 1, "channels": 4, "upsampling": "cubic"}',
        '{"scale": 4, "blocks": 1, "channels": 4, "normalisation": "cubic"}',
        '{"scale": 4, "blocks": 1, "channels": 4, "norm_momentum": "0.1"}',
        "[4, 1, 4]",
        "4",
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_an_error(tmp_path: Path, tiny_weights: Path, config: str) -> None:
    path = rewrite(tiny_weights, tmp_path / "misfit.safetensors", metadata={"config": config})
    with pytest.raises(WeightsError, match=r"misfit\.safetensors does not fit"):
        load_network(str(path))


ABSURD = [
    '{"scale": 4, "blocks": 1000000000000, "channels": 4}',
    '{"scale": 4, "blocks": 1000, "channels": 1000000}',
    '{"scale": 4, "blocks": 1, "channels": 1000000}',
    '{"scale": 4, "blocks": 1, "channels": 1000000000000000000000000}',
    '{"scale": 4.0, "blocks": 1, "channels": 4}',
    '{"scale": [4], "blocks": 1, "channels": 4}',
    '{"scale": 4, "blocks": true, "channels": 4}',
    '{"scale": 4, "blocks": 1, "channels": 4, "tanh": "no"}',
    '{"scale": 4, "blocks": 1, "channels": 4, "norm_momentum": NaN}',
    '{"scale": 4, "blocks": 1, "channels": 4, "norm_momentum": 1e999}',
    '{"scale": 4, "blocks": 1, "channels": 4, "self": 1}',
    '{"scale": 4, "blocks": 1, "channels": 4, "upsampling": {}}',
]


@pytest.mark.parametrize("config", ABSURD)
def test_absurd_numbers_are_refused_before_memory_is_allocated(tmp_path: Path, tiny_weights: Path, config: str) -> None:
    path = rewrite(tiny_weights, tmp_path / "absurd.safetensors", metadata={"config": config})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match=r"absurd\.safetensors does not fit") as caught:
        load_network(str(path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 + len(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


@pytest.mark.parametrize("number", ["1e18", "1000000000000", "-5"])
@pytest.mark.parametrize("name", ["channels", "crop_size", "dense_size"])
def test_absurd_discriminators_are_refused(tmp_path: Path, name: str, number: str) -> None:
    whole = tmp_path / "whole.safetensors"
    save_discriminator(whole, Discriminator(channels=4, crop_size=16), {})
    config = {**Discriminator(channels=4, crop_size=16).config, name: "@"}
    text = json.dumps(config).replace('"@"', number)
    path = rewrite(whole, tmp_path / "absurd.safetensors", metadata={"config": text})
    with pytest.raises(WeightsError, match=r"absurd\.safetensors does not fit"):
        load_discriminator(path)


@pytest.mark.parametrize("key", ["config", "calibration"])
def test_deeply_nested_metadata_is_reported(
    tmp_path: Path, tiny_weights: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nested deeper than Python follows."""
    path = rewrite(tiny_weights, tmp_path / "deep.safetensors", metadata={key: "[" * 200_000})
    if key == "calibration":
        assert read_info(path).calibration is None and "deep.safetensors: its calibration cannot be read" in caplog.text
        return
    with pytest.raises(WeightsError, match=r"deep\.safetensors does not say how"):
        read_info(path)


def test_tensors_of_another_type_are_refused(tmp_path: Path, tiny_weights: Path) -> None:
    bias = load_file(tiny_weights)["tail.bias"]
    for strange in (bias.to(torch.int8), bias.to(torch.complex64)):
        path = rewrite(tiny_weights, tmp_path / "strange.safetensors", **{"tail.bias": strange})
        with pytest.raises(WeightsError, match=r"strange\.safetensors does not fit .* tail\.bias holds numbers of"):
            load_network(str(path))


def test_any_change_of_the_header_is_harmless_or_an_error(tmp_path: Path, tiny_weights: Path) -> None:
    """Bytes of the header changed at random: names, shapes, types, offsets, metadata."""
    whole, path = tiny_weights.read_bytes(), tmp_path / "changed.safetensors"
    header = int.from_bytes(whole[:8], "little")
    random = Random(0)
    refused = 0
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(random.choice([1, 1, 3])):
            content[8 + random.randrange(header)] = random.choice(b'0123456789eE-.,:[]{}"\\naf')
        path.write_bytes(content)
        try:
            load_network(str(path))
        except WeightsError as exc:
            refused += str(path) in str(exc) and "\n" not in str(exc)
            assert str(path) in str(exc) and "\n" not in str(exc)
    assert refused > 200


def test_tensors_of_another_shape_or_name_are_refused(tmp_path: Path, tiny_weights: Path) -> None:
    path = rewrite(tiny_weights, tmp_path / "misfit.safetensors", **{"tail.bias": torch.zeros(4)})
    with pytest.raises(WeightsError, match=r"misfit\.safetensors does not fit .*"):
        load_network(str(path))
    rewrite(tiny_weights, path, **{"one.more": torch.zeros(4)})
    with pytest.raises(WeightsError, match=r"misfit\.safetensors does not fit"):
        load_network(str(path))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["tail.bias", "body_norm.running_var"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, tiny_weights: Path, name: str, value: float) -> None:
    tensor = load_file(tiny_weights)[name].clone()
    tensor[-1] = value
    path = rewrite(tiny_weights, tmp_path / "diverged.safetensors", **{name: tensor})
    with pytest.raises(WeightsError, match=r"diverged\.safetensors holds weights that are not finite"):
        load_network(str(path))


def test_saving_below_a_file_is_an_error(tmp_path: Path, tiny_generator: TinyGenerator) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match=r"cannot write .*net\.safetensors"):
        save_network(tmp_path / "file/net.safetensors", tiny_generator(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


def test_saving_into_a_missing_folder_or_over_a_folder_is_an_error(
    tmp_path: Path, tiny_generator: TinyGenerator
) -> None:
    (tmp_path / "net.safetensors").mkdir()
    for path in (tmp_path / "net.safetensors", tmp_path / "missing/net.safetensors"):
        with pytest.raises(OutputError, match=r"net\.safetensors"):
            save_network(path, tiny_generator(), {})
    assert [path.name for path in tmp_path.rglob("*")] == ["net.safetensors"]


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_replaces_nothing(
    tmp_path: Path,
    tiny_weights: Path,
    tiny_generator: TinyGenerator,
    monkeypatch: pytest.MonkeyPatch,
    stop: BaseException,
) -> None:
    def write_half(path: Path, content: bytes) -> None:
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
        raise stop

    path = tmp_path / "net.safetensors"
    shutil.copy(tiny_weights, path)
    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OutputError if isinstance(stop, OSError) else KeyboardInterrupt):
        save_network(path, tiny_generator(seed=1), {})
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]
    assert path.read_bytes() == tiny_weights.read_bytes()


def test_saving_replaces_an_older_file(tmp_path: Path, tiny_generator: TinyGenerator) -> None:
    path = tmp_path / "net.safetensors"
    for seed in (0, 1):
        save_network(path, tiny_generator(seed=seed), {})
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]
    stored = load_file(path)["tail.bias"]
    assert torch.equal(stored, tiny_generator(seed=1).tail.bias)
    assert not torch.equal(stored, tiny_generator(seed=0).tail.bias)


def test_networks_without_weights_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not of a Bicubic"):
        save_network(tmp_path / "net.safetensors", Bicubic(), {})
    assert not list(tmp_path.iterdir())


def test_detail_goes_from_the_partner_to_the_model(tmp_path: Path, tiny_generator: Callable[..., Generator]) -> None:
    soft, sharp, lr = tiny_generator(seed=1), tiny_generator(seed=2), torch.rand(1, 3, 8, 8)
    save_network(tmp_path / "generator.safetensors", sharp, {})
    save_network(tmp_path / "pretrain.safetensors", soft, {})  # where a run keeps it
    model = str(tmp_path / "generator.safetensors")
    results = [load_network(model, detail=detail)(lr) for detail in (0, 1)]
    assert torch.allclose(results[0], load_network(str(tmp_path / "pretrain.safetensors"))(lr))
    assert torch.allclose(results[1], load_network(model)(lr))
    states = [load_network(model, detail=detail).state_dict() for detail in (0, 0.25, 1)]
    for name, tensor in states[1].items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, 0.75 * states[0][name] + 0.25 * states[2][name], atol=1e-6)


def test_shipped_models_have_their_partners(shared_data: Path) -> None:
    pairs = {info.name: info.about["pair"] for info in shipped_models() if "pair" in info.about}
    assert pairs["srgan-x4"] == "srresnet-x4" and pairs["video-x4"] == "video-smooth-x4"
    for model in pairs:
        load_network(model, detail=0.5)


@pytest.mark.parametrize("model", ["bicubic", "identity", "srresnet-x4"])
def test_models_without_detail_refuse_it(model: str) -> None:
    with pytest.raises(UsageError, match="detail"):
        load_network(model, detail=0.5)


def test_different_generators_cannot_be_blended(tiny_generator: Callable[..., Generator]) -> None:
    with pytest.raises(WeightsError, match="of different architectures"):
        blend(tiny_generator(), tiny_generator(scale=2), 0.5)


@pytest.mark.parametrize(
    ("model", "factor", "name"),
    [("srgan", None, "srgan-x4"), ("srgan", 3, "srgan-x4"), ("srgan", 9, "srgan-x4"), ("srgan-x4", 2, "srgan-x4"),
     ("bicubic", 3, "bicubic"), ("a/file.safetensors", 2, "a/file.safetensors")],
)  # fmt: skip
def test_model_covering(model: str, factor: float | None, name: str) -> None:
    assert model_covering(model, factor) == name


@pytest.mark.parametrize(
    "text",
    ["{", "null", "[]", '{"head.0": [0, 1]}', '{"ranges": {}, "shift": [0, 0]}', '{"ranges": {}, "shift": [0, 0, NaN]}']
    + ['{"ranges": {"head.0": [0, 1' + "0" * 400 + ']}, "shift": [0, 0, 0]}'],
)  # fmt: skip
def test_an_unreadable_calibration_only_disables_int8(
    text: str, tiny_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoilt = rewrite(tiny_weights, tmp_path / "spoilt.safetensors", metadata={"calibration": text})
    assert read_info(spoilt).calibration is None
    assert f"{spoilt}: its calibration cannot be read; `vsr models calibrate` writes another." in caplog.messages
    load_network(spoilt)
    save_calibration(spoilt, Calibration({"head.0": (-0.25, 1.0)}, (0.5, 0.0, -0.001)))
    assert read_info(spoilt).calibration == Calibration({"head.0": (-0.25, 1.0)}, (0.5, 0.0, -0.001))
