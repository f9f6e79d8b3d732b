"""Segments on a Ray cluster: the same output as without one, and files that are sent to nodes that lack them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import vsr
from vsr.errors import UsageError, VsrError
from vsr.networks.recurrent import RecurrentGenerator
from vsr.networks.weights import save_network
from vsr.pipeline import cluster
from vsr.pipeline.cluster import Cluster, NodeInfo, SegmentActor, fingerprint
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.segment import EngineSpec

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]
CHOSEN = {"scale": 2, "model": "bicubic", "device": "cpu", "preset": "ultrafast"}


@pytest.fixture
def two_nodes() -> Iterator[Any]:
    """A head without a CPU, and two nodes of one."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            started.add_node(num_cpus=1)
        yield started
    finally:
        started.shutdown()


def recurrent_weights(path: Path) -> Path:
    network = RecurrentGenerator(scale=2, blocks=1, channels=4, aligned=True)
    torch.nn.init.normal_(network.tail.weight, std=0.05)
    save_network(path, network, {})
    return path


def test_a_cluster_changes_no_byte_and_leaves_nothing(
    two_nodes: Any, make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip(pts=range(0, 250 * 512, 512), options={"g": "100"}, audio=["aac"])
    here = vsr.upscale(clip, tmp_path / "here.mp4", **CHOSEN)
    slow = make_clip("slow.mp4", pts=range(0, 60 * 6400, 6400))
    in_order = CHOSEN | {"model": str(recurrent_weights(tmp_path / "recurrent.safetensors"))}
    in_order_here = vsr.upscale(slow, tmp_path / "in_order_here.mp4", **in_order)

    # Nothing is planned on a machine that may have no GPU; the nodes have another file of that name.
    monkeypatch.setattr(EngineSpec, "load", None)
    monkeypatch.setattr(cluster, "fingerprint", lambda path: "another")
    monkeypatch.setattr(cluster, "CHUNK_BYTES", clip.stat().st_size // 3)
    on_the_cluster = {"cluster": two_nodes.address, **CHOSEN, "device": torch.device("cpu")}
    before = set(Path(tempfile.gettempdir()).glob(f"{cluster.FOLDER_PREFIX}*"))
    there = vsr.upscale(clip, tmp_path / "there.mp4", **on_the_cluster)
    assert there.segments == here.segments > 1
    assert there.target.read_bytes() == here.target.read_bytes()
    in_order_there = vsr.upscale(slow, tmp_path / "in_order_there.mp4", **on_the_cluster | in_order)
    assert in_order_there.segments == in_order_here.segments > 1
    assert in_order_there.target.read_bytes() == in_order_here.target.read_bytes()
    assert not ray.is_initialized()

    # It is left at once, while its nodes are busy.
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vsr.upscale(clip, tmp_path / "again.mp4", progress=interrupt, **on_the_cluster)
    assert not ray.is_initialized()
    assert set(Path(tempfile.gettempdir()).glob(f"{cluster.FOLDER_PREFIX}*")) == before


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:99999"])
def test_an_address_without_a_cluster_is_an_error(make_clip: MakeClip, tmp_path: Path, address: str) -> None:
    with pytest.raises(VsrError, match=f"no Ray cluster at {address}: .* `ray start --head`"):
        vsr.upscale(make_clip(), tmp_path / "out.mp4", cluster=address, **CHOSEN)


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [
        ("auto", 2, (2, {"num_gpus": 1})),
        ("cuda:0", 2, (2, {"num_gpus": 1})),
        ("cpu", 2, (2, {"num_cpus": 4})),
        ("auto", 0, (2, {"num_cpus": 4})),
    ],
)
def test_an_actor_gets_a_gpu_or_the_cpus_of_a_node(
    device: str, gpus: int, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": gpus / 2}}] * 2
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert Cluster(UpscaleOptions(cluster="auto", device=device))._plan_actors() == expected


def test_a_device_that_the_cluster_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    with pytest.raises(UsageError, match="the cluster has no device for device='cuda'; device='auto' uses"):
        Cluster(UpscaleOptions(cluster="auto", device="cuda"))._plan_actors()


@pytest.mark.parametrize("other", [{"torch": "2.0.1"}, {"vsr": "0.1.0 (a different digest)"}, {"PyAV": None}])
def test_a_node_of_another_version_is_refused_by_its_name(other: dict[str, str | None]) -> None:
    ours = cluster.versions_on("cpu")
    theirs = {name: version for name, version in (ours | other).items() if version is not None}
    (name,) = other
    with pytest.raises(VsrError) as caught:
        cluster._check_node(NodeInfo("n7", "a CPU", theirs, "", ()), ours, "")
    said = f"the node n7 has {name} {theirs.get(name, 'none')}, and this machine {name} {ours[name]}: install the same"
    assert str(caught.value) == f"{said} there."
    cluster._check_node(NodeInfo("n7", "a CPU", ours, "", ()), ours, "")


@pytest.mark.parametrize(
    "said",
    [
        "ray::SegmentActor.__init__() (pid=1, ip=192.0.2.2, actor_id=da)\nRuntimeError: The actor with name A "
        "failed to import on the worker. This may be because needed library dependencies are not installed",
        "ray::A.describe_node() (pid=1, ip=192.0.2.2)\nAttributeError: 'A' object has no attribute 'describe_node'",
    ],
)
def test_a_node_without_this_vsr_is_refused_by_its_address(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(result: object) -> None:
        raise ray.exceptions.RayError(said)

    monkeypatch.setattr(ray, "get", fail)
    with pytest.raises(VsrError, match=rf"^the node 192\.0\.2\.2 lacks vsr {vsr.__version__}, which runs here; "):
        Cluster(UpscaleOptions(cluster="auto")).answer(None)


def test_a_node_of_other_weights_is_refused_by_its_name() -> None:
    with pytest.raises(VsrError, match=r"^the node n7 has other weights for that model: install the same vsr there\.$"):
        cluster._check_node(NodeInfo("n7", "a CPU", {}, "theirs", ()), {}, "ours")


def test_builds_of_one_version_count_as_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.14.1+cu130")
    assert cluster.versions_on("cuda")["torch"] == "2.14.1"


def test_devices_of_several_kinds_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    joined = Cluster(UpscaleOptions(cluster="auto"))
    spec = EngineSpec("bicubic", 2, "cpu", "auto", "auto", None, 1)
    for kind in ("a GPU", "a GPU", "another GPU", "a GPU", "a third"):
        joined.accept(NodeInfo("n7", kind, cluster.versions_on("cpu"), "", ()), spec)
    assert caplog.messages == [
        "a GPU and another GPU share the work: where they meet, pixels may differ by a code value."
    ]


class LocalHandle:
    """An actor's handle in this process: each call is executed at once."""

    def __init__(self, actor: SegmentActor) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._actor, name))


@pytest.fixture
def actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SegmentActor]:
    (tmp_path / "node").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
    made = SegmentActor(threads=1, device="cpu")
    yield made
    made.leave()
    assert not list((tmp_path / "node").iterdir())


def test_a_file_that_a_node_lacks_is_sent_in_chunks(
    actor: SegmentActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CHUNK_BYTES", 1000)
    contents = {tmp_path / "seen": b"here", tmp_path / "unseen": bytes(range(250)) * 13, tmp_path / "empty": b""}
    for path, content in contents.items():
        path.write_bytes(content)
    files = {str(path): fingerprint(path) for path in contents}
    for path in contents:
        if path.name != "seen":
            path.rename(path.with_name(f"{path.name}-here"))
    lacking = list(actor.describe_node(files, ()).lacking)
    assert lacking == [str(tmp_path / "unseen"), str(tmp_path / "empty")]
    for path in map(Path, lacking):
        path.with_name(f"{path.name}-here").rename(path)
    assert len([*cluster._send_files(LocalHandle(actor), lacking)]) == 5 + 1 + 2, "none of more than a thousand bytes"
    assert actor.describe_node(files, ()).lacking == ()
    for path, content in contents.items():
        assert actor._local_path(path).read_bytes() == content
        assert (actor._local_path(path) == path) == (path.name == "seen")
        assert actor._local_path(path).name == path.name, "a generator finds its partner by its name"
    assert actor._local_path(Path(lacking[0])).parent == actor._local_path(Path(lacking[1])).parent

    # Another clip: the files that were sent for this one are removed.
    copy = actor._local_path(tmp_path / "unseen")
    actor.describe_node({}, ())
    assert not copy.exists() and actor._local_path(tmp_path / "unseen") == tmp_path / "unseen"


def test_a_different_file_of_the_same_name_and_size_is_sent(actor: SegmentActor, tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    path.write_bytes(b"theirs")
    theirs = fingerprint(path)
    path.write_bytes(b"others")
    assert fingerprint(path) != theirs
    assert actor.describe_node({str(path): theirs}, ()).lacking == (str(path),)


def test_large_files_are_compared_from_end_to_end(tmp_path: Path) -> None:
    path, seen = tmp_path / "large", set()
    with open(path, "wb") as file:
        file.truncate(100 << 20)
    seen.add(fingerprint(path))
    for place in (0, (100 << 20) - 1):
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(b"x")
        seen.add(fingerprint(path))
    assert len(seen) == 3


def test_a_copy_that_differs_from_the_file_is_refused(actor: SegmentActor, tmp_path: Path) -> None:
    actor.describe_node({"/film.mp4": "of the driver"}, ())
    actor.receive("/film.mp4", b"damaged")
    with pytest.raises(VsrError, match=r"^/film\.mp4 was damaged on its way to the node .*; run again\.$"):
        actor.finish_receiving("/film.mp4", "the digest of what was sent")


def test_an_interrupted_copy_starts_over(actor: SegmentActor, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"all of it")
    files = {str(path): "of the driver"}
    actor.describe_node(files, ())
    actor.receive(str(path), b"all")
    actor.describe_node(files, ())
    for _ in cluster._send_files(LocalHandle(actor), [str(path)]):
        pass
    assert actor._local_path(path).read_bytes() == b"all of it"


def test_a_folder_that_a_node_cannot_read_is_an_error(actor: SegmentActor, tmp_path: Path) -> None:
    with pytest.raises(VsrError, match="cannot read .*; put it on a filesystem that all nodes share"):
        next(cluster._send_files(LocalHandle(actor), [str(tmp_path)]))


def test_folders_of_killed_actors_are_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    alive, killed = cluster._NodeFolder(), cluster._NodeFolder()
    (killed.path / "film.mp4").write_bytes(b"large")
    killed._lock.close()
    cluster._NodeFolder().remove()
    assert list(tmp_path.iterdir()) == [alive.path]
    alive.remove()


def test_own_weights_and_their_partner_are_sent_together(tmp_path: Path, tiny_weights: Path) -> None:
    own, partner = tmp_path / "generator.safetensors", tmp_path / "pretrain.safetensors"
    for path in (own, partner):
        shutil.copy(tiny_weights, path)
    spec = cluster._portable_spec(EngineSpec(os.path.relpath(own), None, "auto", "auto", "auto", None, 0.5), "cuda")
    assert (spec.model, spec.device) == (str(own), "cuda")
    assert cluster._own_weights(spec) == [str(own), str(partner)] and cluster._shipped_weights(spec) == ()
    assert cluster._files_to_send(NodeInfo("n7", "a GPU", {}, "", ("/film.mp4", str(partner))), spec) == [
        "/film.mp4", str(own), str(partner),
    ]  # fmt: skip
    assert cluster._shipped_weights(EngineSpec("srgan-x4", None, "auto", "auto", "auto", None, 0.5)) == (
        "srgan-x4.safetensors", "srresnet-x4.safetensors",
    )  # fmt: skip
