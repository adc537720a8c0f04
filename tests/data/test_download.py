import hashlib
import http.server
import io
import tarfile
import threading

import pytest
import torchvision

from looktwice.config import resolve
from looktwice.data import named, open_source, places
from looktwice.errors import DataError
from looktwice.run import open_data

FILES = {
    "cifar10": ("cifar-10-batches-py", "CIFAR10"),
    "cifar100": ("cifar-100-python", "CIFAR100"),
    "stl10": ("stl10_binary", "STL10"),
    "stl10-unlabelled": ("stl10_binary", "STL10"),
    "stl10-fold7": ("stl10_binary", "STL10"),
}


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """What torchvision was asked to fetch; nothing is there and nothing comes."""
    made = []

    def fetch(url, download_root, filename=None, md5=None):
        made.append((url, download_root, filename, md5))

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fetch)
    monkeypatch.setattr(places, "CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("looktwice.data.fashion_mnist.DEBIAN_FOLDER", str(tmp_path / "debian"))
    monkeypatch.delenv("LOOKTWICE_DATA", raising=False)
    return made


@pytest.mark.parametrize("name", named.DATA_SETS)
def test_nothing_is_fetched_without_the_flag(calls, tmp_path, name):
    if name == "fashion-mnist-10k":
        open_source(name)
    else:
        with pytest.raises(DataError, match="nothing is downloaded silently"):
            open_source(name, root=tmp_path)
    assert calls == []
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", ["root", "environment", "cache"])
def test_what_is_fetched_and_where(calls, tmp_path, monkeypatch, name, where, capfd):
    folder = tmp_path / where
    if where == "root":
        folder.mkdir()
    if where == "environment":
        monkeypatch.setenv("LOOKTWICE_DATA", str(folder))
    with pytest.raises(DataError, match="is not on this machine"):
        open_source(name, root=folder if where == "root" else None, download=True)
    theirs = getattr(torchvision.datasets, FILES[name][1])
    assert calls == [(theirs.url, str(folder), theirs.filename, theirs.tgz_md5)]
    assert str(folder) in capfd.readouterr().err


def test_the_four_files_of_fashion_mnist(calls, tmp_path):
    with pytest.raises(DataError, match="is not on this machine"):
        open_source("fashion-mnist", root=tmp_path, download=True)
    assert [(name, md5) for _, _, name, md5 in calls] == torchvision.datasets.FashionMNIST.resources
    assert {root for _, root, _, _ in calls} == {str(tmp_path / "FashionMNIST" / "raw")}


@pytest.mark.parametrize("name", ["imagenet", "imagenet100"])
def test_what_cannot_be_fetched(calls, tmp_path, name):
    with pytest.raises(DataError, match=r"image-net\.org") as caught:
        open_source(name, root=tmp_path, download=True)
    assert "--download" not in str(caught.value)
    assert calls == []


def test_the_flag_reaches_the_reader(calls, tmp_path):
    for typed in (False, True):
        flags = {"data.source": "cifar10", "data.root": str(tmp_path), "data.download": typed}
        config = resolve(recipe="simclr-tiny", flags=flags, environ={})
        with pytest.raises(DataError):
            open_data(config.data)
        assert bool(calls) == typed


def test_what_is_there_is_not_fetched(calls, tmp_path):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}_X.bin").write_bytes(b"\1" * 27648)
        (folder / f"{split}_y.bin").write_bytes(b"\2")
    assert len(open_source("stl10", root=tmp_path, download=True)) == 1
    assert calls == []


def test_a_failed_download_is_one_line(calls, tmp_path, monkeypatch):
    def fetch(*_, **__):
        raise RuntimeError("File not found or\ncorrupted.")

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fetch)
    with pytest.raises(
        DataError, match="CIFAR10 could not be downloaded .*not found or corr"
    ) as caught:
        open_source("cifar10", root=tmp_path, download=True)
    assert "\n" not in str(caught.value)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """torchvision's STL-10, of one picture a split, at an address on this machine."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for split in ("train", "test"):
            for kind, data in (("X", b"\5" * 27648), ("y", b"\3")):
                entry = tarfile.TarInfo(f"stl10_binary/{split}_{kind}.bin")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "stl10_binary.tar.gz").write_bytes(archive.getvalue())

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "web"))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/stl10_binary.tar.gz"
    monkeypatch.setattr(torchvision.datasets.STL10, "url", address)
    monkeypatch.setattr(
        torchvision.datasets.STL10, "tgz_md5", hashlib.md5(archive.getvalue()).hexdigest()
    )
    monkeypatch.setattr(places, "CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LOOKTWICE_DATA", raising=False)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings(
    "ignore:Python 3.14 will:DeprecationWarning"
)  # torchvision's extractall
def test_torchvisions_downloader_fetches_and_unpacks(served, tmp_path):
    source = open_source("stl10", download=True)
    assert source.labels.tolist() == [2]
    assert (source.image(0) == 5).all()
    assert (tmp_path / "cache" / "stl10_binary").is_dir()
    assert len(open_source("stl10")) == 1  # and is found again


def test_a_wrong_checksum_is_refused(served, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.STL10, "tgz_md5", "0" * 32)
    with pytest.raises(DataError, match="STL10 could not be downloaded"):
        open_source("stl10", download=True)
    assert not (tmp_path / "cache" / "stl10_binary").exists()


def test_a_root_that_is_not_there_is_not_made(calls, tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        open_source("cifar10", root=tmp_path / "mistyped", download=True)
    assert calls == []
