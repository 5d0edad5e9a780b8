"""Harmful zips are refused, with the member and the limit, at little cost."""

import os
import stat
import tracemalloc
import zipfile

import pytest
from support.import_sources import SIZE, run
from support.pictures import encode, noise

from rsmatch_jax.data.images import image_source, safe_zip

MIB = 2**20
PNG = encode(noise(SIZE, SIZE, 3))


@pytest.fixture
def archive(tmp_path):
    """Returns archive(): opens a zip with one good picture of class c."""

    def open_zip():
        file = zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED)
        file.writestr("c/good.png", PNG)
        return file

    return open_zip


def refused(tmp_path, capsys, *words, flags=()):
    """The import ends with 2 and a message of these words, and leaves only the zip."""
    before = (tmp_path / "s.zip").stat().st_mtime_ns
    code = run(tmp_path / "s.zip", tmp_path / "out", "--generator=g", *flags)
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.startswith("error: ")
    assert "Traceback" not in error
    for word in words:
        assert word in error
    assert os.listdir(tmp_path) == ["s.zip"]
    assert (tmp_path / "s.zip").stat().st_mtime_ns == before


def change_last_entry(path, offset, data):
    """Changes bytes of the last entry in a zip's directory."""
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02") + offset
    content[at : at + len(data)] = data
    path.write_bytes(content)


OUTSIDE = ["../c/1.png", "/c/1.png", "c/../../1.png", "..\\c\\1.png", "C:/c/1.png"]


@pytest.mark.parametrize("name", [*OUTSIDE, "../x/", "../notes.txt"])
def test_paths_out_of_the_archive(tmp_path, archive, capsys, name):
    with archive() as file:
        file.writestr(name, b"")
    refused(tmp_path, capsys, repr(name), "a path out of the archive")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
@pytest.mark.parametrize("name", ["c/1.png", "notes"])
def test_members_that_are_no_files(tmp_path, archive, capsys, kind, name):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    with archive() as file:
        file.writestr(info, "/etc/passwd")
    word = "a symbolic link" if kind == stat.S_IFLNK else "no plain file"
    refused(tmp_path, capsys, repr(name), word)


def test_a_plain_zip_of_any_system_is_read(tmp_path, archive):
    for number, (system, mode) in enumerate(((0, 0), (3, 0o644), (3, 0o100600))):
        info = zipfile.ZipInfo(f"./d{number}/1.png")
        info.create_system, info.external_attr = system, mode << 16
        with archive() as file:
            file.writestr(info, PNG)
        with image_source.open_source(str(tmp_path / "s.zip")) as (files, others):
            assert [f.path for f in files] == ["c/good.png", f"d{number}/1.png"]
            assert [f.read() for f in files] == [PNG] * 2
            assert not others


def test_an_encrypted_member(tmp_path, archive, capsys):
    with archive() as file:
        file.writestr("c/1.png", b"secret")
    change_last_entry(tmp_path / "s.zip", 8, b"\1")  # the flags
    refused(tmp_path, capsys, "'c/1.png' is encrypted")


def test_a_bomb_of_a_few_kilobytes(tmp_path, archive, capsys):
    """A ratio of 1000 is the most that deflate reaches."""
    with archive() as file:
        file.writestr("c/bomb.bmp", bytes(100 * MIB), compresslevel=9)
    assert (tmp_path / "s.zip").stat().st_size < 110_000
    refused(tmp_path, capsys, "'c/bomb.bmp'", "100 MiB", "more than 200 times")
    refused(tmp_path, capsys, "'c/bomb.bmp'", flags=["--skip_unreadable"])


def test_members_that_are_not_read_have_no_limit(tmp_path, archive):
    with archive() as file:
        file.writestr("notes.txt", bytes(2 * MIB), compresslevel=9)
        file.writestr("c/white.bmp", bytes(MIB), compresslevel=9)  # as small as most
    with image_source.open_source(str(tmp_path / "s.zip")) as (files, others):
        assert [f.path for f in files] == ["c/good.png", "c/white.bmp"]
        with pytest.raises(image_source.Unreadable, match="more than 200 times"):
            others[0].read()  # unless it is read after all


def test_a_member_that_is_larger_than_it_says(tmp_path, archive, capsys):
    """No more is unpacked than the entry declares, so memory stays bounded."""
    with archive() as file:
        file.writestr("c/liar.png", bytes(100 * MIB), compresslevel=9)
    change_last_entry(tmp_path / "s.zip", 24, (5000).to_bytes(4, "little"))
    with zipfile.ZipFile(tmp_path / "s.zip") as file, pytest.raises(zipfile.BadZipFile):
        tracemalloc.start()
        try:
            safe_zip.read(file, file.getinfo("c/liar.png"))
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert peak < MIB
    refused(tmp_path, capsys, "c/liar.png")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_methods(tmp_path, archive, capsys, method):
    with archive() as file:
        file.writestr("c/1.png", PNG, compress_type=method)
    refused(tmp_path, capsys, "'c/1.png'", f"method {method}", "deflate")


def test_a_member_that_is_there_twice(tmp_path, archive, capsys):
    with archive() as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("c/good.png", b"")
    refused(tmp_path, capsys, "'c/good.png' is there twice")


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("MAX_MEMBERS", 2, ("3 members", "more than 2")),
        ("MAX_UNPACKED_GIB", 1e-9, ("unpack to 0 GiB", "more than 1e-09 GiB")),
        ("MAX_FILE_MIB", 1e-9, ("'c/good.png'", "more than 1e-09 MiB")),
    ],
)
def test_limits(tmp_path, archive, capsys, monkeypatch, limit, value, words):
    with archive() as file:
        file.writestr("c/1.png", PNG)
        file.writestr("c/2.png", PNG)
    monkeypatch.setattr(safe_zip, limit, value)
    refused(tmp_path, capsys, *words)


def test_a_file_too_large_in_a_folder(tmp_path, capsys, monkeypatch):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "1.png").write_bytes(bytes(2000))
    monkeypatch.setattr(safe_zip, "MAX_FILE_MIB", 0.001)
    assert run(tmp_path, tmp_path / "out") == 2
    assert "c/1.png (larger than 0.001 MiB)" in capsys.readouterr().err


def test_formats_that_start_other_programs_are_not_opened(monkeypatch):
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    started = []
    monkeypatch.setattr("subprocess.check_call", lambda *a, **_: started.append(a))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    with pytest.raises(image_source.Unreadable, match="cannot identify"):
        image_source.fit(eps, SIZE)
    assert not started
