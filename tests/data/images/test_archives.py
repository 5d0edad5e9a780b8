"""Harmful zips and tars are refused, with member and limit, at little cost."""

import functools
import gzip
import io
import os
import random
import re
import stat
import tarfile
import tracemalloc
import zipfile

import pytest
from support.import_sources import SIZE, run
from support.pictures import encode, noise

from rsmatch_jax.data.images import archives, image_source, limits, tars

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
    assert re.search("^error: ", error, re.M)
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


class Tar:
    """Writes a tar or tar.gz with a zip's method."""

    def __init__(self, path, mode):
        self._file = tarfile.open(path, mode)  # noqa: SIM115
        self.writestr("c/good.png", PNG)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def writestr(self, name, data, **fields):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for key, value in fields.items():
            setattr(info, key, value)
        self._file.addfile(info, io.BytesIO(data))


@pytest.fixture(params=["w:", "w:gz"], ids=["tar", "tar.gz"])
def tar(tmp_path, request):
    """Returns tar(): opens a tar with one good picture of class c, called s.zip."""
    return lambda: Tar(tmp_path / "s.zip", request.param)


@pytest.fixture(params=["zip", "w:", "w:gz"], ids=["zip", "tar", "tar.gz"])
def packed(tmp_path, archive, request):
    """Returns packed(name, data, kind): writes a good picture and a member, s.zip."""

    def pack(name, data=b"", kind=None):
        of_zip, of_tar, _ = KINDS.get(kind, (0, tarfile.REGTYPE, ""))
        if request.param != "zip":
            with Tar(tmp_path / "s.zip", request.param) as file:
                file.writestr(name, data, type=of_tar, linkname="/etc/passwd")
            return
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, (of_zip | 0o777) << 16
        with archive() as file:
            file.writestr(info, data)

    return pack


# {kind of a member: in a zip, in a tar, words of the refusal}
KINDS = {
    "symbolic link": (stat.S_IFLNK, tarfile.SYMTYPE, "link; such an archive is not"),
    "pipe": (stat.S_IFIFO, tarfile.FIFOTYPE, "no plain file"),
    "device": (stat.S_IFCHR, tarfile.CHRTYPE, "no plain file"),
    "block device": (stat.S_IFBLK, tarfile.BLKTYPE, "no plain file"),
}
OUTSIDE = ["../c/1.png", "/c/1.png", "c/../../1.png", "..\\c\\1.png", "C:/c/1.png"]


@pytest.mark.parametrize("name", [*OUTSIDE, "../x/", "../notes.txt"])
def test_paths_out_of_the_archive(tmp_path, packed, capsys, name):
    packed(name)
    refused(tmp_path, capsys, repr(name.rstrip("/"))[:-1], "a path out of the archive")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["c/1.png", "notes"])
def test_members_that_are_no_files(tmp_path, packed, capsys, kind, name):
    packed(name, kind=kind)
    refused(tmp_path, capsys, repr(name), KINDS[kind][2])


def test_a_hard_link_in_a_tar(tmp_path, tar, capsys):
    with tar() as file:
        file.writestr("notes", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd")
    refused(tmp_path, capsys, "'notes', a link")


def test_a_member_that_is_there_twice(tmp_path, packed, capsys):
    packed("./c/good.png")
    refused(tmp_path, capsys, "'./c/good.png' is there twice")


def test_a_tar_is_read_in_any_order(tmp_path, tar):
    with tar() as file:
        for i in (10, 9):
            file.writestr(f"./c/{i}.png", PNG + bytes([i]))
        file.writestr("./empty", b"", type=tarfile.DIRTYPE)
        file.writestr("./d", b"", type=tarfile.DIRTYPE)
        file.writestr("./d/x.txt", b"text")
    notes = []
    with image_source.open_source(str(tmp_path / "s.zip"), note=notes.append) as (
        files,
        others,
    ):
        assert [f.path for f in files] == ["c/9.png", "c/10.png", "c/good.png"]
        content = [PNG + b"\x09", PNG + b"\x0a", PNG]
        assert [f.read() for f in files] == content
        assert [f.read() for f in reversed(files)] == content[::-1]
        assert [(f.path, f.read()) for f in others] == [("d/x.txt", b"text")]
    assert notes == [f"--source={tmp_path}/s.zip: empty folders: empty"]


def test_a_bomb_in_a_tar(tmp_path, capsys, monkeypatch):
    """It is not unpacked beyond the limit of its packed size."""
    written, write = [], tars._write

    def count(file, chunk, label):
        written.append((file, len(chunk)))
        write(file, chunk, label)

    monkeypatch.setattr(tars, "_write", count)
    with Tar(tmp_path / "s.zip", "w:gz") as file:
        file.writestr("c/bomb.bmp", bytes(30 * MIB))
    packed = (tmp_path / "s.zip").stat().st_size
    refused(tmp_path, capsys, "unpacks to more than", "which is 200 times its size")
    assert sum(size for _, size in written) <= 200 * packed < 10 * MIB
    assert written[0][0].closed


def test_a_sparse_member_of_a_tar(tmp_path, capsys):
    """One block on disk, a terabyte when read."""
    info = tarfile.TarInfo("c/1.png")
    info.size = 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"00000000000\0" + b"00000001000\0"  # one block at 0
    header[482:483] = b"\0"
    header[483:495] = tarfile.itn(2**40, 12, tarfile.GNU_FORMAT)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "s.zip").write_bytes(bytes(header) + bytes(512 + 1024))
    refused(tmp_path, capsys, "'c/1.png'", "no plain file")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_of_many_megabytes_in_a_tar(tmp_path, tar, capsys, kind):
    """tarfile would read it at once."""
    with tar() as file:
        file.writestr("x", random.Random(0).randbytes(3 * MIB), type=kind)
    refused(tmp_path, capsys, f"a header has {3 * MIB} bytes")


def with_size(data, size):
    """Changes the size that the header of the first member of a tar declares."""
    header = bytearray(data[:512])
    header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


DAMAGE = {
    "a negative size": (lambda data: with_size(data, -512), "negative size"),
    "a size beyond the end": (lambda data: with_size(data, 2**20), "unexpected end"),
    "cut in a member": (lambda data: data[:700], "unexpected end"),
    "cut after a member": (lambda data: data[:1024], "cut off after 1 members"),
    "a damaged header": (
        lambda data: data[:1030] + b"\xff\xff" + data[1032:],
        "damaged or cut off after 1 members",
    ),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_tars(tmp_path, capsys, damage, words):
    with Tar(tmp_path / "s.zip", "w:") as file:
        file.writestr("c/1.png", PNG)
    data = (tmp_path / "s.zip").read_bytes()
    for packed in (damage(data), gzip.compress(damage(data))):
        (tmp_path / "s.zip").write_bytes(packed)
        refused(tmp_path, capsys, "no complete zip, tar or tar.gz", words)


@pytest.mark.parametrize("size", [40, 150])
def test_a_cut_tar_gz(tmp_path, capsys, size):
    with Tar(tmp_path / "s.zip", "w:gz"):
        pass
    content = (tmp_path / "s.zip").read_bytes()
    (tmp_path / "s.zip").write_bytes(content[:size])
    refused(tmp_path, capsys, "no complete zip, tar or tar.gz", "download it again")


def test_no_room_for_the_unpacked_tar(tmp_path, capsys, monkeypatch):
    with Tar(tmp_path / "s.zip", "w:gz"):
        pass
    full = functools.partial(open, "/dev/full", "w+b", buffering=0)
    monkeypatch.setattr(tars.tempfile, "TemporaryFile", full)
    refused(tmp_path, capsys, "No space left", "set TMPDIR, or unpack it yourself")


@pytest.mark.parametrize(
    ("mark", "kind"),
    [(b"BZh9", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"7z\xbc\xaf\x27\x1c", "7z")],
)
def test_archives_of_other_kinds(tmp_path, capsys, mark, kind):
    (tmp_path / "s.zip").write_bytes(mark + bytes(600))
    words = f"is packed by {kind}, not zip, tar or tar.gz; unpack it yourself"
    refused(tmp_path, capsys, words)


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
            archives.read_zipped(file, file.getinfo("c/liar.png"))
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


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("MAX_MEMBERS", 2, ("more than 2 members",)),
        ("MAX_UNPACKED_GIB", 1e-9, ("unpack to 0 GiB", "more than 1e-09 GiB")),
        ("MAX_FILE_MIB", 1e-9, ("'c/good.png'", "more than 1e-09 MiB")),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_limits(tmp_path, archive, capsys, monkeypatch, kind, limit, value, words):
    with archive() if kind == "zip" else Tar(tmp_path / "s.zip", "w:") as file:
        file.writestr("c/1.png", PNG)
        file.writestr("c/2.png", PNG)
    monkeypatch.setattr(limits, limit, value)
    refused(tmp_path, capsys, *words)


def test_a_file_too_large_in_a_folder(tmp_path, capsys, monkeypatch):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "1.png").write_bytes(bytes(2000))
    monkeypatch.setattr(limits, "MAX_FILE_MIB", 0.001)
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
