from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vsr.imaging.resize import resize_bicubic
from vsr.networks.recurrent import RecurrentGenerator
from vsr.networks.weights import load_generator, read_info, save_network


@torch.no_grad()
def small(**options: object) -> RecurrentGenerator:
    """A network whose detail is not nothing, as it is in a new one."""
    torch.manual_seed(0)
    network = RecurrentGenerator(**{"scale": 4, "blocks": 1, "channels": 4} | options).eval()  # type: ignore[arg-type]
    torch.nn.init.normal_(network.tail.weight, std=0.05)
    return network.requires_grad_(False)


@pytest.mark.parametrize("scale", [2, 4])
def test_a_new_network_is_bicubic_interpolation(scale: int) -> None:
    network = RecurrentGenerator(scale=scale, blocks=1, channels=4)
    lr = torch.rand(2, 3, 9, 12)
    sr, _ = network(lr, network.initial_state(lr))
    assert sr.shape == (2, 3, 9 * scale, 12 * scale)
    inner = slice(2 * scale, -2 * scale)  # at the border MATLAB mirrors, and this repeats
    wanted = resize_bicubic(lr, 9 * scale, 12 * scale)
    torch.testing.assert_close(sr[..., inner, inner], wanted[..., inner, inner], rtol=0, atol=1e-6)


def test_a_new_network_keeps_flat_colours_to_the_border() -> None:
    network = RecurrentGenerator(scale=4, blocks=1, channels=4)
    lr = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1).expand(1, 3, 6, 5)
    sr, _ = network(lr, network.initial_state(lr))
    torch.testing.assert_close(sr, lr[..., :1, :1].expand(1, 3, 24, 20), rtol=0, atol=1e-6)


def test_the_state_holds_frame_and_features() -> None:
    network = small()
    lr = torch.rand(1, 3, 7, 8)
    _, state = network(lr, network.initial_state(lr))
    assert state.shape == (1, network.state_channels, 7, 8)
    frame, hidden = state.split([3, 4], 1)
    assert torch.equal(frame, lr)
    assert 0 < float(hidden.abs().max()) <= 1


def test_a_result_depends_on_the_frames_before() -> None:
    network = small()
    lr, other = torch.rand(2, 1, 3, 6, 6)
    _, state = network(other, network.initial_state(other))
    alone, _ = network(lr, network.initial_state(lr))
    after, _ = network(lr, state)
    assert float((alone - after).abs().max()) > 1e-4


@pytest.mark.parametrize("aligned", [False, True])
def test_config_and_weights_survive_saving(aligned: bool, tmp_path: Path) -> None:
    network = small(scale=2, aligned=aligned)
    save_network(tmp_path / "r.safetensors", network, {})
    loaded = load_generator(tmp_path / "r.safetensors").eval()
    assert isinstance(loaded, RecurrentGenerator) and loaded.config == network.config
    assert read_info(tmp_path / "r.safetensors").architecture == "recurrent"
    lr = torch.rand(1, 3, 5, 7)
    for expected, found in zip(
        network.half().float()(lr, network.initial_state(lr)), loaded(lr, loaded.initial_state(lr)), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": 3}, "the recurrent generator's scale is 2 or 4, got 3"),
        ({"blocks": 0}, "1 to 1000 blocks and a channel are needed, got 0 and 4"),
        ({"channels": 0}, "got 1 and 0"),
    ],
)
def test_invalid_arguments_are_refused(options: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small(**options)
