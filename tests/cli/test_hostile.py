"""Files made to do harm: each is refused in a sentence or kept as it is, and nothing else is opened, written or run."""

from __future__ import annotations

import ctypes
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from click.testing import CliRunner, Result
from processes import without_plan

from vsr.cli import main
from vsr.media.ffmpeg import bundled_program

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]
Opened = Callable[[], set[str]]

SECRET = "hunter2\n"


def upscale(source: Path, *arguments: object, target: str = "out.mp4") -> Result:
    words = ["upscale", source, "-o", source.parent / target, "--model", "identity", *arguments]
    return CliRunner().invoke(main, list(map(str, words)))


def assert_refused(result: Result, path: Path) -> None:
    """Exit code 1 and one sentence that names the file."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("error: "), result.stderr
    assert str(path) in result.stderr
    assert "a bug" not in result.stderr


@pytest.fixture
def bait(tmp_path: Path, make_clip: MakeClip) -> Path:
    """A folder that no command has to look into: a text, and a short clip in two forms."""
    folder = tmp_path / "bait"
    folder.mkdir()
    (folder / "secret.txt").write_text(SECRET)
    for name, ticks in [("clip.mp4", 12800), ("clip.ts", 90000)]:
        step = ticks // 25
        clip = make_clip(name, pts=range(0, 5 * step, step), time_base=Fraction(1, ticks))
        clip.rename(folder / name)
    return folder


@pytest.fixture
def opened(bait: Path) -> Iterator[Opened]:
    """The names in the folder of the bait that any process has opened since it was last asked."""
    if sys.platform != "linux":
        pytest.skip("watches by inotify")
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert watch >= 0 and libc.inotify_add_watch(watch, os.fsencode(bait), 0x20) >= 0, "IN_OPEN"  # of <sys/inotify.h>

    def look() -> set[str]:
        try:
            events = os.read(watch, 1 << 16)
        except BlockingIOError:
            return set()
        names = set()
        while events:
            (length,) = struct.unpack_from("12xI", events)
            names.add(os.fsdecode(events[16 : 16 + length].rstrip(b"\0")))
            events = events[16 + length :]
        return names

    try:
        yield look
    finally:
        os.close(watch)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Takes connections at 127.0.0.1, which wait until they are asked for."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def connections(server: socket.socket) -> int:
    count = 0
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def playlist(*entries: object) -> str:
    """HLS."""
    head = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-TARGETDURATION:2\n"
    return head + "".join(f"#EXTINF:1,\n{entry}\n" for entry in entries) + "#EXT-X-ENDLIST\n"


def dash(url: str) -> str:
    return f"""<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S" minBufferTime="PT1S"
     profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">
  <Period><AdaptationSet mimeType="video/mp4" contentType="video">
    <Representation id="0" codecs="avc1.42c00a" width="48" height="32" bandwidth="9">
      <BaseURL>{url}</BaseURL><SegmentList duration="1"><SegmentURL media="{url}"/></SegmentList>
    </Representation>
  </AdaptationSet></Period>
</MPD>
"""


def sdp(port: int) -> str:
    head = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    return f"{head}m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"


def index(url: str) -> str:
    """VobSub, whose pictures lie in a file beside it."""
    return (
        "# VobSub index file, v7 (do not modify this line!)\nsize: 48x32\nid: en, index: 0\n"
        f"timestamp: 00:00:00:000, filepos: 000000000\n# {url}\n"
    )


TEXTS: dict[str, Callable[[str, int], str]] = {
    "hls to a text": lambda bait, port: playlist(f"{bait}/secret.txt", f"{bait}/clip.ts"),
    "hls to a clip": lambda bait, port: playlist(f"{bait}/clip.ts"),
    "hls by file:": lambda bait, port: playlist(f"file:{bait}/clip.ts"),
    "hls by concat:": lambda bait, port: playlist(f"concat:{bait}/clip.ts|{bait}/secret.txt"),
    "hls beside it": lambda bait, port: playlist("bait/clip.ts"),
    "hls to a server": lambda bait, port: playlist(f"http://127.0.0.1:{port}/clip.ts"),
    "hls of lists": lambda bait, port: f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9\nhttp://127.0.0.1:{port}/list.m3u8\n",
    "hls with a key": lambda bait, port: playlist(f"{bait}/clip.ts").replace(
        "#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="http://127.0.0.1:{port}/key"\n#EXTINF'
    ),
    "ffconcat": lambda bait, port: f"ffconcat version 1.0\nfile {bait}/clip.mp4\n",
    "ffconcat beside it": lambda bait, port: "ffconcat version 1.0\nfile bait/clip.mp4\n",
    "ffconcat to a server": lambda bait, port: f"ffconcat version 1.0\nfile http://127.0.0.1:{port}/clip.mp4\n",
    "dash": lambda bait, port: dash(f"{bait}/clip.mp4"),
    "dash to a server": lambda bait, port: dash(f"http://127.0.0.1:{port}/clip.mp4"),
    "sdp": lambda bait, port: sdp(port),
    "vobsub": lambda bait, port: index(f"{bait}/clip.ts"),
}
ENDINGS = {"hls": ".m3u8", "ffconcat": ".ffconcat", "dash": ".mpd", "sdp": ".sdp", "vobsub": ".idx"}


@pytest.mark.parametrize("form", ["its own ending", ".mp4"])
@pytest.mark.parametrize("kind", TEXTS)
def test_a_text_that_names_files(
    kind: str, form: str, bait: Path, opened: Opened, listener: socket.socket, tmp_path: Path
) -> None:
    port = listener.getsockname()[1]
    path = tmp_path / f"film{ENDINGS[kind.split()[0]] if form == 'its own ending' else form}"
    path.write_text(TEXTS[kind](str(bait), port))
    assert_refused(upscale(path), path)
    assert opened() == set()
    assert connections(listener) == 0
    assert sorted(tmp_path.iterdir()) == [bait, path]


@pytest.mark.parametrize("kind", ["hls to a clip", "ffconcat"])
def test_the_watch_sees_what_a_trusting_reader_opens(
    kind: str, bait: Path, opened: Opened, listener: socket.socket, tmp_path: Path
) -> None:
    """Or the tests around it would prove nothing."""
    path = tmp_path / f"film{ENDINGS[kind.split()[0]]}"
    path.write_text(TEXTS[kind](str(bait), 0))
    options = ["-safe", "0"] if kind == "ffconcat" else []
    run_program("-protocol_whitelist", "file,crypto,data", *options, "-i", path, "-f", "null", "-")
    assert opened()
    path.write_text(TEXTS["hls to a server"](str(bait), listener.getsockname()[1]))
    path = path.rename(tmp_path / "film.m3u8")
    run_program("-protocol_whitelist", "file,http,tcp", "-rw_timeout", "100000", "-i", path, "-f", "null", "-")
    assert connections(listener) >= 1


def run_program(*arguments: object) -> None:
    """The ffmpeg program, whatever comes of it."""
    command = [bundled_program(), "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20)


@pytest.mark.parametrize("kind", ["hls beside it", "hls to a clip", "ffconcat beside it", "dash"])
def test_a_clip_that_becomes_a_list_before_its_sound_is_fetched(
    kind: str, bait: Path, opened: Opened, make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the ffmpeg program, which opens the clip by its name, take it for what the frames did not come from."""
    path = make_clip("film.mp4", audio=["aac"]).rename(tmp_path / f"film{ENDINGS[kind.split()[0]]}")
    start = subprocess.Popen

    def exchanged(command: list[str], *arguments: Any, **keywords: Any) -> Any:
        if any(str(path) in word for word in command) and "-t" not in command:  # which reads the beginning alone
            path.write_text(TEXTS[kind](str(bait), 0))
        return start(command, *arguments, **keywords)

    monkeypatch.setattr(subprocess, "Popen", exchanged)
    result = upscale(path)
    assert opened() == set()
    assert result.exit_code == 1 and without_plan(result.stderr).startswith("error: "), result.output
    assert path.read_text() == TEXTS[kind](str(bait), 0), "exchanged"
    shutil.rmtree(tmp_path / "out.mp4.vsr-job")  # the frames are kept


@pytest.mark.parametrize("track", ["vide", "soun"])
def test_a_track_whose_data_lie_in_another_file(
    track: str, bait: Path, opened: Opened, make_clip: MakeClip, tmp_path: Path
) -> None:
    path = make_clip("film.mp4", audio=["aac"])
    path.write_bytes(refer(path.read_bytes(), track, bait / "clip.mp4"))
    run_program("-enable_drefs", "1", "-use_absolute_path", "1", "-i", path, "-f", "null", "-")
    assert opened() == {"clip.mp4"}, "a live reference"
    result = upscale(path)
    assert opened() == set()
    if track == "vide":
        assert_refused(result, path)
        assert sorted(tmp_path.iterdir()) == [bait, path]
    else:
        assert result.exit_code in (0, 1) and "Traceback" not in result.stderr
        assert (tmp_path / "out.mp4").exists() or "kept" in result.stderr, result.stderr


def refer(movie: bytes, track: str, other: Path) -> bytes:
    """A QuickTime movie, its header behind its data, one of whose tracks lies in another file by an alias."""
    start = movie.index(b"moov") - 4
    handlers = [place for place in find_all(movie, b"hdlr") if movie[place + 12 : place + 16] == track.encode()]
    place = movie.index(b"dref", handlers[0]) - 4
    size = struct.unpack_from(">I", movie, place)[0]
    entry = alias(other)
    reference = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    changed = bytearray(movie[:place] + reference + movie[place + size :])
    parents = [start]
    for name in (b"trak", b"mdia", b"minf", b"dinf"):
        parents.append(movie.rindex(name, start, place) - 4)
    for parent in parents:
        (length,) = struct.unpack_from(">I", changed, parent)
        struct.pack_into(">I", changed, parent, length + len(reference) - size)
    return bytes(changed)


def find_all(content: bytes, part: bytes) -> Iterator[int]:
    place = content.find(part)
    while place >= 0:
        yield place
        place = content.find(part, place + 1)


def alias(path: Path) -> bytes:
    """A Macintosh alias, version 2: a fixed part of 150 bytes, then the path as a tagged string."""
    name, whole = path.name.encode(), str(path).encode()
    fixed = struct.pack(">4xH4x28x12xB63s16xHH16x", 2, len(name), name, 0, 0)
    tagged = struct.pack(">HH", 2, len(whole)) + whole + bytes(len(whole) % 2)
    record = fixed + tagged + struct.pack(">HH", 0xFFFF, 0)
    return struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv"])
@pytest.mark.parametrize("name", ["../../x", "/tmp/vsr-x", "a\nb", "-y"])
def test_an_attachment_stays_where_it_is(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, name: str
) -> None:
    (tmp_path / "font.ttf").write_text(SECRET)
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    attached = ["-attach", tmp_path / "font.ttf", "-metadata:s:t", "mimetype=font/ttf"]
    run_program("-i", make_clip(), *attached, "-metadata:s:t", f"filename={name}", "-c", "copy", folder / "film.mkv")
    before = set(tmp_path.rglob("*"))
    result = upscale(folder / "film.mkv", target=target)
    assert result.exit_code == 0, result.output
    assert set(tmp_path.rglob("*")) - before == {folder / target}
    assert not Path("/tmp/vsr-x").exists()
    with av.open(str(folder / target)) as container:
        kinds = [stream.type for stream in container.streams]
    assert kinds == (["video", "attachment"] if target == "out.mkv" else ["video"])


def png(width: int, height: int, rows: int = 1) -> bytes:
    """A PNG that says how large it is, and holds a few grey rows."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + width) * rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


MEASURED = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "vsr", *sys.argv[1:]], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""
"""Runs a command and prints its peak memory. From a small process, since a child begins with what its parent holds."""


@pytest.mark.skipif(sys.platform == "win32", reason="needs getrusage")
@pytest.mark.parametrize("ending", [".png", ".mp4"])
def test_a_picture_larger_than_any_memory(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"bomb{ending}"
    path.write_bytes(png(100_000, 100_000))
    assert path.stat().st_size < 1024
    command = [sys.executable, "-c", MEASURED, "upscale", path, "-o", tmp_path / f"out{ending}", "--model", "identity"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1 and str(path) in done.stderr, done.stderr
    assert int(done.stdout) < 1 << 20, "KiB: torch takes a third of it"
    assert list(tmp_path.iterdir()) == [path]


class Call:
    """Something whose unpickling calls a program."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def zip_of_torch(path: Path, harm: object) -> None:
    torch.save({"params": harm}, path)


def old_form_of_torch(path: Path, harm: object) -> None:
    torch.save({"params": harm}, path, _use_new_zipfile_serialization=False)


def bare_pickle(path: Path, harm: object) -> None:
    path.write_bytes(pickle.dumps(harm))


@pytest.mark.parametrize("write", [zip_of_torch, old_form_of_torch, bare_pickle])
@pytest.mark.parametrize("name", ["evil.pth", "evil.pt", "evil.safetensors", "evil"])
def test_weights_that_would_run_a_program(
    name: str, write: Callable[[Path, object], None], make_clip: MakeClip, tmp_path: Path
) -> None:
    clip, weights, marker = make_clip(), tmp_path / name, tmp_path / "marker"
    write(weights, Call(marker))
    for arguments in (["--model", weights], ["--model", weights, "--scale", 4]):
        result = upscale(clip, *arguments)
        assert not marker.exists()
        assert_refused(result, weights)
    assert sorted(tmp_path.iterdir()) == sorted([clip, weights])


def test_the_call_would_work(tmp_path: Path) -> None:
    """Or the test above would prove nothing."""
    zip_of_torch(tmp_path / "evil.pth", Call(tmp_path / "marker"))
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "marker").exists()
