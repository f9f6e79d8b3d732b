"""Segments on a Ray cluster: the same output as without one, and files that travel to nodes that do not see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vsr
from vsr.errors import VsrError
from vsr.pipeline.cluster import SegmentActor

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]
CHOSEN = {"scale": 2, "model": "bicubic", "device": "cpu", "preset": "ultrafast"}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without a CPU, and two nodes of one."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            started.add_node(num_cpus=1)
        yield started
    finally:
        started.shutdown()


def test_a_cluster_changes_no_byte(cluster: Any, make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(pts=range(0, 250 * 512, 512), options={"g": "100"}, audio=["aac"])
    here = vsr.upscale(clip, tmp_path / "here.mp4", **CHOSEN)
    there = vsr.upscale(clip, tmp_path / "there.mp4", cluster=cluster.address, **CHOSEN)
    assert there.segments == here.segments > 1
    assert there.target.read_bytes() == here.target.read_bytes()
    assert not ray.is_initialized()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:99999"])
def test_an_address_without_a_cluster(make_clip: MakeClip, tmp_path: Path, address: str) -> None:
    with pytest.raises(VsrError, match=f"no Ray cluster at {address}: .* `ray start --head`"):
        vsr.upscale(make_clip(), tmp_path / "out.mp4", cluster=address, **CHOSEN)


def test_what_a_node_does_not_see_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, unseen, other = (tmp_path / name for name in ("seen.mp4", "unseen.mp4", "other.mp4"))
    seen.write_bytes(b"here")
    other.write_bytes(b"another of this name")
    monkeypatch.setattr(ray, "get", lambda content: content)
    actor = SegmentActor(threads=1)
    files = {str(seen): 4, str(unseen): 5, str(other): 4}
    assert actor.sees(files) == [str(unseen), str(other)]
    assert actor.bring({str(unseen): b"there", str(other): b"that"}) == []
    assert actor.sees(files) == []
    assert Path(actor._here(str(unseen))).read_bytes() == b"there"
    assert Path(actor._here(str(other))).read_bytes() == b"that"
    assert actor._here(str(seen)) == str(seen)
    folder = actor._folder
    actor.leave()
    assert not folder.exists()
