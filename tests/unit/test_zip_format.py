"""ZIP archives that are made front to back: other programs read them, and ZIP64 is there where it must be."""

import io
import shutil
import struct
import subprocess
import tracemalloc
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.results.zip_format import ZipEntry, ZipFormat

AT = 1_795_000_000.0
names = st.text(st.characters(codec="utf-8", exclude_characters="\0/\\"), min_size=1, max_size=40)


def entry(name: str, data: bytes, *, at: float = AT) -> ZipEntry:
    return ZipEntry(name=name, size=len(data), crc32=zlib.crc32(data), at=at)


def archive(files: Sequence[tuple[str, bytes]], *, at: float = AT) -> bytes:
    form = ZipFormat(io.BytesIO())
    made = b"".join(form.header(entry(name, data, at=at)) + data for name, data in files)
    return made + b"".join(form.end())


@given(st.lists(st.tuples(names, st.binary(max_size=200)), unique_by=lambda file: file[0]))
def test_whatever_is_put_in_comes_out_under_its_name(files: list[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(io.BytesIO(archive(files))) as read:
        assert read.testzip() is None
        assert [(info.filename, read.read(info)) for info in read.infolist()] == files
        assert {info.compress_type for info in read.infolist()} <= {zipfile.ZIP_STORED}
        assert {info.external_attr >> 16 for info in read.infolist()} <= {0o100644}


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (AT, (2026, 11, 18, 11, 6, 40)),
        (0.0, (1980, 1, 1, 0, 0, 0)),
        (4_354_819_199.0, (2107, 12, 31, 23, 59, 58)),
        (5_000_000_000.0, (1980, 1, 1, 0, 0, 0)),
    ],
)
def test_a_file_has_its_time_or_the_first_there_is(at: float, told: tuple[int, ...]) -> None:
    with zipfile.ZipFile(io.BytesIO(archive([("a", b"a")], at=at))) as read:
        assert read.infolist()[0].date_time == told


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
def test_info_zip_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "made.zip"
    path.write_bytes(archive([("000000-7.png", b"a"), ("ünïcode ☆.txt", b"b" * 1000)]))
    told = subprocess.run(["unzip", "-t", path], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "No errors detected" in told.stdout


@pytest.mark.slow
@pytest.mark.parametrize("n", [0xFFFE, 0xFFFF, 0x10000])
def test_more_files_than_two_bytes_count_are_read(n: int, tmp_path: Path) -> None:
    form = ZipFormat(io.BytesIO())
    of_nothing = (form.header(entry(f"{number}", b"")) for number in range(n))
    made = b"".join(of_nothing) + b"".join(form.end())

    with zipfile.ZipFile(io.BytesIO(made)) as read:
        assert len(read.infolist()) == n
        assert read.infolist()[-1].filename == f"{n - 1}"
    assert (b"PK\x06\x06" in made) == (n >= 0xFFFF)
    if shutil.which("unzip") is not None:
        path = tmp_path / "made.zip"
        path.write_bytes(made)
        told = subprocess.run(["unzip", "-Z1", path], capture_output=True, text=True, check=False)
        assert (told.returncode, len(told.stdout.splitlines())) == (0, n)


def test_what_lies_beyond_four_gigabytes_is_found() -> None:
    beyond = 2**32 + 5
    form = ZipFormat(io.BytesIO(), offset=beyond)
    made = form.header(entry("a", b"far away")) + b"far away" + b"".join(form.end())

    with TemporaryFile() as file:  # with a hole
        file.seek(beyond)
        file.write(made)
        with zipfile.ZipFile(file) as read:
            assert read.infolist()[0].header_offset == beyond
            assert read.read("a") == b"far away"


def test_a_file_of_more_than_four_gigabytes_says_so_in_both_places() -> None:
    form = ZipFormat(io.BytesIO())
    header = form.header(ZipEntry(name="large", size=2**32 + 7, crc32=1, at=AT))
    directory = b"".join(form.end())

    assert struct.unpack("<HHQQ", header[-20:]) == (1, 16, 2**32 + 7, 2**32 + 7)
    with TemporaryFile() as file:
        file.write(header)
        file.seek(2**32 + 7, io.SEEK_CUR)
        file.write(directory)
        with zipfile.ZipFile(file) as read:
            [info] = read.infolist()
    assert (info.file_size, info.compress_size, info.CRC) == (2**32 + 7, 2**32 + 7, 1)


@pytest.mark.slow
def test_memory_stays_flat_however_many_files_there_are() -> None:
    with TemporaryFile() as directory:
        form = ZipFormat(directory)
        tracemalloc.start()
        try:
            for number in range(50_000):
                form.header(ZipEntry(name=f"{number:06d}.png", size=1, crc32=number, at=AT))
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert most < 100_000
