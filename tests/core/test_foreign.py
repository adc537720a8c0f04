import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from looktwice import foreign
from looktwice.errors import DataError
from looktwice.foreign import load_npy, load_npz, load_pickle, load_weights

HOSTILE = Path(__file__).parent / "hostile_pickles.py"

# What Python 2 and numpy 1 write for {'data': array([[0, 1], [2, 255]], uint8), 'labels': [3, 300],
# 'label_names': ['a'], 'x': None}, opcode by opcode.
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
    b"q\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02K\x02\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87R"
    b"q\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04\x00\x01\x02\xfftb"
    b"U\x06labelsq\x08]q\x09(K\x03M\x2c\x01eU\x0blabel_namesq\x0a]q\x0bU\x01aaU\x01xNu."
)


def _run(mode, folder):
    command = [sys.executable, str(HOSTILE), mode, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_hostile_pickles_execute_nothing(tmp_path):
    result = _run("safe", tmp_path)
    assert len(result["cases"]) >= 40
    for case, found in result["cases"].items():
        assert found["events"] == [], case
        assert found["known"], (case, found["error"])
        assert repr(found["path"]) in found["error"], case
        assert "\n" not in found["error"], case
    assert result["grown_kib"] < 400_000
    assert not result["victim"]


def test_the_plain_unpickler_would_have_run_them(tmp_path):
    cases = _run("plain", tmp_path)["cases"]
    assert len(cases) >= 30
    for case, found in cases.items():
        assert found["events"], (case, found["error"])


def test_pickles_of_python_2(tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(PYTHON_2)
    found = load_pickle(path)
    assert list(found) == [b"data", b"labels", b"label_names", b"x"]
    assert found[b"data"].dtype == np.uint8
    assert found[b"data"].tolist() == [[0, 1], [2, 255]]
    assert (found[b"labels"], found[b"label_names"], found[b"x"]) == ([3, 300], [b"a"], None)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "<f4", ">f8", "?", "<u2"])
def test_arrays_of_python_3(tmp_path, protocol, order, dtype):
    array = np.asarray(np.arange(12).reshape(3, 4) % 5, dtype, order=order)
    path = tmp_path / "x"
    path.write_bytes(pickle.dumps([array, {"again": array}], protocol))
    first, second = load_pickle(path)
    assert first.dtype == array.dtype
    assert np.array_equal(first, array)
    assert np.array_equal(second["again"], array)


@pytest.mark.parametrize("protocol", range(5))
def test_plain_data(tmp_path, protocol):
    data = {"a": [1, -2, 1 << 40, 1 << 3000, 0.5, True, False, None, "é", ("x", (), (1, 2))], 3: {}}
    path = tmp_path / "x"
    path.write_bytes(pickle.dumps(data, protocol))
    assert load_pickle(path) == data


def test_pickles_too_large_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(pickle.dumps([1] * 100))
    monkeypatch.setattr(foreign, "MAX_PICKLE_BYTES", 50)
    with pytest.raises(DataError, match="over the limit of 50"):
        load_pickle(path)
    with pytest.raises(DataError, match="nowhere.* cannot be read"):
        load_pickle(tmp_path / "nowhere")


def test_weights_are_told_apart_by_content(tmp_path):
    weights = {"conv.weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(weights, tmp_path / "b.pth")
    found = load_weights(tmp_path / "a.safetensors")
    assert found["epoch"] == 3
    for read in (
        found["state_dict"],
        load_weights(tmp_path / "old.pt"),
        load_weights(tmp_path / "b.pth"),
    ):
        assert {name: value.tolist() for name, value in read.items()} == {
            name: value.tolist() for name, value in weights.items()
        }


class Touch:
    """Unpickled plainly, it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def _bad_weights(tmp_path):
    whole = io.BytesIO()
    torch.save({"a": torch.ones(100)}, whole)
    tensor = io.BytesIO()
    torch.save(torch.ones(3), tensor)
    hostile = io.BytesIO()
    torch.save({"a": torch.ones(1), "b": Touch(tmp_path / "touched")}, hostile)
    tensors = safetensors.torch.save({"a": torch.ones(100)})
    return {
        "hostile": (hostile.getvalue(), "it names '[a-z_]*.open'"),
        "hostile pickle": (pickle.dumps(Touch(tmp_path / "touched"), 2), "it names"),
        "truncated": (whole.getvalue()[:-100], "no whole file"),
        "truncated safetensors": (tensors[:-10], "no whole file"),
        "text": (b"hello, world", "no whole file"),
        "empty": (b"", "no whole file"),
        "a tensor": (tensor.getvalue(), "holds Tensor, not weights by name"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "hostile",
        "hostile pickle",
        "truncated",
        "truncated safetensors",
        "text",
        "empty",
        "a tensor",
    ],
)
def test_bad_weights_are_one_line(tmp_path, case):
    data, message = _bad_weights(tmp_path)[case]
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        load_weights(path)
    assert repr(str(path)) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "touched").exists()


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        load_weights(tmp_path / "nowhere.pth")


def test_npy_files_are_mapped(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.save(tmp_path / "a.npy", array)
    found = load_npy(tmp_path / "a.npy")
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    assert np.array_equal(found, array)


def test_npz_files_are_read(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(3), b=np.array(["x", "y"]))
    found = load_npz(tmp_path / "a.npz")
    assert {name: value.tolist() for name, value in found.items()} == {
        "a": [0, 1, 2],
        "b": ["x", "y"],
    }


def _bad_arrays(tmp_path):
    objects, plain, member = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(objects, np.array([Touch(tmp_path / "touched")], object), allow_pickle=True)
    np.save(plain, np.arange(1000))
    header = plain.getvalue().replace(b"(1000,)", b"(9999,)")
    with zipfile.ZipFile(member, "w") as archive:
        archive.writestr("a.npy", objects.getvalue())
    return {
        "objects.npy": objects.getvalue(),
        "pickle.npy": pickle.dumps(Touch(tmp_path / "touched"), 2),
        "short.npy": plain.getvalue()[:-1],
        "false.npy": header,
        "text.npy": b"hello",
        "empty.npy": b"",
        "objects.npz": member.getvalue(),
        "pickle.npz": pickle.dumps(Touch(tmp_path / "touched"), 2),
        "npy.npz": plain.getvalue(),
        "short.npz": member.getvalue()[:-30],
        "empty.npz": b"",
    }


@pytest.mark.parametrize(
    "case",
    ["objects.npy", "pickle.npy", "short.npy", "false.npy", "text.npy", "empty.npy",
     "objects.npz", "pickle.npz", "npy.npz", "short.npz", "empty.npz"],
)  # fmt: skip
def test_bad_arrays_are_one_line(tmp_path, case):
    path = tmp_path / case
    path.write_bytes(_bad_arrays(tmp_path)[case])
    with pytest.raises(DataError, match="no whole") as caught:
        (load_npy if case.endswith("npy") else load_npz)(path)
    assert repr(str(path)) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "touched").exists()


def test_archives_larger_than_the_memory(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", a=np.zeros(1 << 16))
    monkeypatch.setattr(foreign.os, "sysconf", lambda name: 500)
    with pytest.raises(DataError, match="more than this machine's memory"):
        load_npz(tmp_path / "a.npz")
