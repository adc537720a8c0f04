"""The walk through a tar against tarfile, and what damage and malice do to it."""

import gzip
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tars import encoded, entry

from looktwice.data.files import MAX_BYTES
from looktwice.data.tar import members


def walked(data):
    return list(members(lambda offset, size: data[offset : offset + size], len(data)))


def made(entries, kind=tarfile.PAX_FORMAT):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


NAMES = ["a.png", "d/b.png", "é.png", "x" * 90 + "/" + "y" * 99, "long" * 90, "new\nline.png"]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_tarfiles(kind):
    names = [n for n in NAMES if len(n) < 250 or kind != tarfile.USTAR_FORMAT]
    entries = [entry(n, bytes([k]) * (k * 300)) for k, n in enumerate(names)]
    if kind == tarfile.PAX_FORMAT:
        entries[0][0].pax_headers = {"mtime": "1.5", "comment": "x" * 2000}
    data = made([*entries, entry("d", type=tarfile.DIRTYPE)], kind)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        oracle = [m for m in tar if m.isfile()]
    assert [(m.name, m.offset, m.size, m.problem) for m in walked(data)] == [
        (m.name, m.offset_data, m.size, "") for m in oracle
    ]


def test_names_that_are_not_utf8():
    data = made([entry("caf\udce9.png", b"x")], tarfile.GNU_FORMAT)
    assert walked(data)[0].name == "caf\udce9.png"


@given(st.integers(0, 1 << 16))
def test_a_cut_leaves_every_earlier_member_and_is_told_once(cut):
    entries = [entry(f"{n}é.png", encoded(n)) for n in range(6)]
    data = made(entries)
    cut %= len(data)
    whole = walked(data)
    found = walked(data[:cut])
    good = [m for m in found if not m.problem]
    assert good == [m for m in whole if m.offset + m.size <= cut]
    ended = cut >= whole[-1].offset + 512 + 512  # one block of zeros is enough
    assert len(found) - len(good) == (not ended)


ODD = {
    "link": entry("x.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": entry("x.png", type=tarfile.LNKTYPE, linkname="a.png"),
    "device": entry("x.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "pipe": entry("x.png", type=tarfile.FIFOTYPE),
    "type": entry("x.png", b"12", type=b"Z"),
    "sparse": (lambda i: (setattr(i[0], "pax_headers", {"GNU.sparse.major": "1"}), i)[1])(
        entry("x.png", b"12")
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_plain_file_is_told_and_passed_over(kind):
    data = made([entry("a.png", b"1"), ODD[kind], entry("b.png", b"2")])
    first, odd, last = walked(data)
    assert (first.name, first.problem, last.name, last.problem) == ("a.png", "", "b.png", "")
    assert odd.name == "x.png"
    assert kind.split()[-1] in odd.problem


def test_old_sparse_files_with_a_long_map_are_passed_over():
    info, _ = entry("x.png")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 600
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[482] = 1
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    more, last = bytearray(512), bytes(512)
    more[504] = 1
    data = bytes(head) + bytes(more) + last + bytes(1024) + made([entry("b.png", b"2")])
    odd, good = walked(data)
    assert (odd.name, odd.problem) == ("x.png", "it is a sparse file")
    assert (good.name, good.problem, data[good.offset : good.offset + 1]) == ("b.png", "", b"2")


def test_sizes_that_no_file_has():
    huge = entry("x.png")
    huge[0].size = MAX_BYTES + 1
    data = made([entry("a.png", b"1")])[:1024] + huge[0].tobuf()
    assert [m.problem != "" for m in walked(data)] == [False, True]
    head = bytearray(entry("x.png", b"1")[0].tobuf(tarfile.GNU_FORMAT))
    for size in (b"\xff" * 12, b"\x80" + b"\xff" * 11):  # -1, and near 2^88
        head[124:136] = size
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        assert len(walked(bytes(head) + bytes(2048))) == 1


def test_a_large_extended_header_is_not_read():
    asked = []
    info, _ = entry("x.png")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    head = info.tobuf()

    def read(offset, size):
        asked.append(size)
        return head[offset : offset + size]

    list(members(read, 1 << 31))
    assert max(asked) == 512


def test_pax_sizes_hold_for_the_next_member_alone():
    data = made([entry("a.png", b"12345"), entry("b.png", b"67")])
    info, _ = entry("x")
    record = b"10 size=5\n"
    info.type, info.size = tarfile.XHDTYPE, len(record)
    pax = info.tobuf() + record.ljust(512, b"\0")
    head = bytearray(data)
    head[124:136] = b"%011o\0" % 0
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head[:512])
    found = walked(pax + bytes(head))
    assert [(m.name, m.size) for m in found] == [("a.png", 5), ("b.png", 2)]


@given(st.binary(max_size=2000), st.integers(0, 4000))
def test_noise_ends(noise, at):
    data = bytearray(made([entry("é" * 200, b"1"), entry("b.png", b"2" * 700)]))
    data[at : at + len(noise)] = noise
    found = walked(bytes(data))
    assert all(m.problem or m.offset + m.size <= len(data) for m in found)


def test_a_compressed_tar_says_so():
    assert "gunzip" in walked(gzip.compress(made([entry("a.png", b"1")])))[0].problem
