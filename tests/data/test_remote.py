"""Shards from a server on this machine, with and without ranges, and fsspec's memory."""

import http.server
import re
import subprocess
import sys
import threading
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.http import HTTPFileSystem
from moto.server import ThreadedMotoServer
from tars import encoded, entry, samples, write_tar

from looktwice.data import open_source, remote
from looktwice.data.files import Files, probe_channels
from looktwice.errors import BadPictureError, DataError


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`; counts bytes; refuses ranges or fails when told to."""

    protocol_version = "HTTP/1.1"
    files: ClassVar = {}
    ranges = True
    failing = 0
    sent: ClassVar = []
    tag = "one"

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        data = self.files.get(self.path)
        if data is None or self.server.failing > 0:
            self.server.failing -= data is not None
            self.send_error(404 if data is None else 503)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        part = data
        if asked and self.ranges:
            part = data[int(asked[1]) : int(asked[2] or len(data)) + 1]
            self.send_response(206)
            first = int(asked[1])
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", self.tag)
        self.end_headers()
        if body:
            self.server.awake.wait(30)
            self.sent.append(len(part))
            self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    handler = type("Own", (Server,), {"files": {}, "sent": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.failing = 0
        running.awake = threading.Event()
        running.awake.set()
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.awake.set()
        running.shutdown()
        thread.join()
    fsspec.filesystem("http").clear_instance_cache()


def filled(server, tmp_path, count=3):
    for k in range(count):
        data = write_tar(tmp_path / f"{k}.tar", samples(10 * k, 6, [0, 1])).read_bytes()
        server.RequestHandlerClass.files[f"/d/s-{k:03}.tar"] = data
    return f"http://127.0.0.1:{server.server_port}/d/s-{{000..{count - 1:03}}}.tar"


def numbers(source):
    return [int(source.image(i)[1, 0, 0]) for i in range(len(source))]


def test_shards_over_http(server, tmp_path):
    address = filled(server, tmp_path)
    source = open_source(address)
    assert numbers(source) == [*range(6), *range(10, 16), *range(20, 26)]
    assert source.labels.tolist() == [0, 1] * 9
    assert source.identifier(7) == "s-001.tar:000011.png"
    sent = server.RequestHandlerClass.sent
    sent.clear()
    assert source.file(8) == encoded(12)
    assert sent == [len(encoded(12))]  # that member, and no more


def test_the_index_of_a_remote_shard_is_kept_until_its_tag_changes(server, tmp_path):
    address = filled(server, tmp_path)
    first = open_source(address)
    sent = server.RequestHandlerClass.sent
    sent.clear()
    again = open_source(address)
    assert sum(sent) < 10_000 + 64 * len(encoded(0))  # no shard was read, 64 pictures were probed
    assert again.fingerprint() == first.fingerprint()
    server.RequestHandlerClass.files["/d/s-000.tar"] = write_tar(
        tmp_path / "new.tar", samples(90, 6, [0, 1])
    ).read_bytes()
    server.RequestHandlerClass.tag = "two"
    assert numbers(open_source(address))[0] == 90


def test_a_server_without_ranges_is_told(server, tmp_path):
    address = filled(server, tmp_path)
    server.RequestHandlerClass.ranges = False
    with pytest.raises(DataError, match="gives no parts of files.*download the shards"):
        open_source(address)


def test_a_short_failure_is_tried_again_and_a_long_one_ends(server, tmp_path):
    source = open_source(filled(server, tmp_path))
    server.failing = 2
    assert source.image(3)[1, 0, 0] == 3
    server.failing = 1000
    with pytest.raises(DataError, match=r"s-000\.tar.* cannot be read .*check the connection") as e:
        source.image(3)
    assert type(e.value) is DataError  # no bad picture: the run ends, and can be resumed


def test_a_server_that_falls_silent_is_not_waited_for_for_ever(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE", 0.2)
    source = open_source(filled(server, tmp_path))
    server.awake.clear()
    with pytest.raises(DataError, match="cannot be read .no answer in time.: check the connection"):
        source.image(3)
    fsspec.filesystem("http").clear_instance_cache()
    with pytest.raises(DataError, match="no answer in time"):
        open_source(filled(server, tmp_path))


def test_what_is_not_there(server, tmp_path):
    address = filled(server, tmp_path)
    with pytest.raises(DataError, match=r"there is no 'http.*s-000\.tar'|no .*s-003"):
        open_source(address.replace("002", "003"))
    with pytest.raises(DataError, match="cannot be searched"):
        open_source(address.replace("{000..002}", "*"))


def test_shards_in_memory_with_wild_cards(tmp_path):
    system = fsspec.filesystem("memory")
    for k in range(2):
        data = write_tar(tmp_path / f"{k}.tar", samples(10 * k, 3)).read_bytes()
        system.pipe(f"/lt/s-{k}.tar", data)
    assert numbers(open_source("memory://lt/s-*.tar")) == [0, 1, 2, 10, 11, 12]
    assert numbers(open_source("memory://lt/s-{1,0}.tar")) == [10, 11, 12, 0, 1, 2]
    with pytest.raises(DataError, match="0 shards match"):
        open_source("memory://lt/z*.tar")


@pytest.mark.parametrize("ahead", [512, 1300, 1 << 20])
def test_a_cut_shard_gives_what_it_gives_on_this_machine(tmp_path, monkeypatch, ahead):
    monkeypatch.setattr(remote, "READ_AHEAD", ahead)
    system = fsspec.filesystem("memory")
    names = [f"{'deep/' * 40}{n}" for n in range(4)]  # in extended headers of their own
    whole = write_tar(
        tmp_path / "whole.tar", [entry(f"{n}.png", encoded(i)) for i, n in enumerate(names)]
    ).read_bytes()
    for cut in range(2048, len(whole), 300):
        name = f"{ahead}-{cut}.tar"
        (tmp_path / name).write_bytes(whole[:cut])
        system.pipe(f"/cut/{name}", whole[:cut])
        here, there = open_source(tmp_path / name), open_source(f"memory://cut/{name}")
        assert numbers(there) == numbers(here)
        assert [*there.skipped.values()] == [*here.skipped.values()]


@pytest.mark.parametrize(
    "address", ["ftp://x/y.tar", "file:///x.tar", "zip://a.tar::http://x/y.zip", "s3://", "a b://c"]
)
def test_addresses_that_are_not_read(address):
    with pytest.raises(DataError, match="is no address that is read"):
        open_source(address)


def test_fsspec_is_imported_for_addresses_alone(tmp_path):
    write_tar(tmp_path / "x.tar", samples(0, 2))
    script = (
        "import sys, looktwice; looktwice.open_source(sys.argv[1]);"
        "assert 'fsspec' not in sys.modules and 'pyarrow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "x.tar"], check=True, timeout=120)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(DataError, match=r"needs fsspec.*pip install 'looktwice\[remote\]'"):
        open_source("memory://x/y.tar")


def test_a_short_answer_is_a_bad_picture(server, tmp_path):
    source = open_source(filled(server, tmp_path))
    files = server.RequestHandlerClass.files
    at = files["/d/s-000.tar"].index(encoded(5)) + 40
    files["/d/s-000.tar"] = files["/d/s-000.tar"][:at]  # cut since it was indexed
    with pytest.raises(BadPictureError, match=f"the server gave 40 of {len(encoded(5))} bytes"):
        source.image(5)


@pytest.mark.parametrize("failures", [1, 2])
def test_each_step_of_opening_is_tried_again(server, tmp_path, monkeypatch, failures):
    address = filled(server, tmp_path, 1)
    first = HTTPFileSystem.open
    left = [failures]

    def opened(self, *arguments, **options):
        if left[0]:
            left[0] -= 1
            raise ConnectionResetError("reset by peer")
        return first(self, *arguments, **options)

    monkeypatch.setattr(HTTPFileSystem, "open", opened)
    assert numbers(open_source(address)) == list(range(6))


def test_pictures_that_cannot_be_reached_are_not_taken_for_colour():
    class Unreachable(Files):
        def __len__(self):
            return 9

        def read(self, i):
            raise DataError("check the connection")

        def identifier(self, i):
            return str(i)

        def digest(self):
            return b""

    with pytest.raises(DataError, match="check the connection"):
        probe_channels(Unreachable())


@pytest.fixture
def bucket(monkeypatch):
    """S3 as moto serves it on this machine, found as users' own endpoints are."""
    served = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    system = fsspec.filesystem("s3")
    system.mkdir("pictures")
    yield system
    served.stop()
    type(system).clear_instance_cache()


def test_shards_in_s3(bucket, tmp_path):
    for k in range(2):
        data = write_tar(tmp_path / f"{k}.tar", samples(10 * k, 6, [0, 1])).read_bytes()
        bucket.pipe(f"pictures/d/s-{k}.tar", data)
    source = open_source("s3://pictures/d/s-*.tar")
    assert numbers(source) == [*range(6), *range(10, 16)]
    assert numbers(open_source("s3://pictures/d/s-{1..1}.tar")) == [*range(10, 16)]
    first = source.fingerprint()
    other = write_tar(tmp_path / "other.tar", samples(90, 6, [0, 1]))
    bucket.pipe("pictures/d/s-1.tar", other.read_bytes())
    bucket.invalidate_cache()
    assert open_source("s3://pictures/d/s-*.tar").fingerprint() != first
    with pytest.raises(DataError, match="there is no 'pictures/d/other.tar'"):
        open_source("s3://pictures/d/other.tar")
