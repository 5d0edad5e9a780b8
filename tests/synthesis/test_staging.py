"""Staged pictures: what counts, what is cleaned, who may write."""

import dataclasses
import errno
import hashlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rsmatch_jax import files
from rsmatch_jax.errors import RequestError
from rsmatch_jax.synthesis.generate import staging
from rsmatch_jax.synthesis.generate.staging import Part, PoolHeader

POOL = PoolHeader("pets", ("cat", "dog"), 4)
HEADER = {"settings": {"seed": 0, "steps": 50}, "prompts": {"count": 3, "digest": "x"}}
VERSIONS = {"torch": "1"}
PROMPTS = ((0, 0), (1, 1), (2, 0))


def picture(seed, size=8):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size, size, 3), dtype=np.uint8)


def begun(out, name="a"):
    os.makedirs(staging.folder_of(out), exist_ok=True)
    part = Part(out, name)
    part.begin(HEADER, VERSIONS)
    staging.register(out, POOL, name)
    return part


def pictures(part):
    return sorted(os.listdir(os.path.join(part.folder, "pictures")))


def journal(part):
    return os.path.join(part.folder, "journal.jsonl")


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "pool")


def test_a_batch_is_found_again(out):
    part = begun(out)
    drawn = [picture(0), "ugly", picture(2)]
    part.stage(0, 4, PROMPTS, drawn)
    again = Part(out, "a")
    assert again.entries == part.entries
    assert again.header == {**HEADER, "environments": [VERSIONS]}
    first, second, third = again.entries
    assert (second.prompt, second.label, second.dropped) == (1, 1, "ugly")
    assert second.file is None
    assert pictures(part) == [first.file, third.file]
    # Area mean, by hand: the mean of a 2x2 block, which Pillow rounds twice.
    blocks = picture(2).reshape(4, 2, 4, 2, 3).astype(float).mean((1, 3))
    with Image.open(io.BytesIO(again.picture(third))) as image:
        stored = np.asarray(image)
    assert np.abs(stored - blocks).max() <= 1
    want = hashlib.blake2b(stored.tobytes(), digest_size=16).hexdigest()
    assert third.pixels == want


def test_missing_batches(out):
    part = begun(out)
    assert part.missing(7, 3) == [0, 1, 2]
    part.stage(1, 4, PROMPTS, ["x"] * 3)
    assert Part(out, "a").missing(7, 3) == [0, 2]
    assert part.missing(6, 3) == [0]
    assert part.missing(5, 3) == [0, 1], "other pictures beside the last"
    part.stage(2, 4, ((6, 0),), ["x"])
    assert part.missing(7, 3) == [0]
    assert part.missing(10, 3) == [0, 2, 3]


def test_what_a_killed_process_leaves_is_cleaned(out):
    part = begun(out)
    part.stage(0, 4, PROMPTS, [picture(0), "x", picture(2)])
    kept = pictures(part)
    with open(journal(part), "rb") as f:
        whole = f.read()
    for name in ("0000003.png", "0000004.png.tmp"):
        with open(os.path.join(part.folder, "pictures", name), "wb") as f:
            f.write(b"orphan")
    with open(journal(part), "ab") as f:
        f.write(b'{"batch": 1, "pict')
    again = Part(out, "a")
    assert list(again.batches) == [0]
    assert len(pictures(again)) == 4, "reading changes nothing"
    again.begin(HEADER, VERSIONS)
    assert pictures(again) == kept
    with open(journal(part), "rb") as f:
        assert f.read() == whole


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_batch_without_its_files_does_not_count(out, damage):
    part = begun(out)
    part.stage(0, 4, PROMPTS, [picture(i) for i in range(3)])
    part.stage(1, 4, ((3, 1),), [picture(3)])
    path = os.path.join(part.folder, "pictures", part.entries[1].file)
    if damage == "gone":
        os.remove(path)
    else:
        os.truncate(path, 20)
    again = Part(out, "a")
    assert list(again.batches) == [1]
    again.begin(HEADER, VERSIONS)
    assert pictures(again) == ["0000003.png"]
    again.stage(0, 4, PROMPTS, [picture(i) for i in range(3)])
    assert Part(out, "a").entries == part.entries


def test_damage_is_named(out):
    part = begun(out)
    part.stage(0, 4, PROMPTS, [picture(i) for i in range(3)])
    path = os.path.join(part.folder, "pictures", part.entries[1].file)
    with open(path, "r+b") as f:
        f.write(b"X")
    with pytest.raises(RequestError, match=r"0000001\.png is damaged"):
        part.picture(part.entries[1])
    with open(journal(part), "ab") as f:
        f.write(b'{"batch": 1, "pict\n')
    with pytest.raises(RequestError, match="line 2 is damaged"):
        Part(out, "a")


def test_other_settings_are_named_once_something_is_staged(out):
    part = begun(out)
    part.check({"seed": 1, "steps": 4})
    part.stage(0, 4, PROMPTS, [picture(i) for i in range(3)])
    part = Part(out, "a")
    part.check({"seed": 0, "precision": "float16"})
    with pytest.raises(RequestError, match="steps: 50 there, 4 here") as e:
        part.check({"seed": 0, "steps": 4, "prompts": "x"})
    assert "seed" not in str(e.value)
    with pytest.raises(RequestError, match="prompts: x there, y here"):
        part.check({"seed": 0, "prompts": "y"})


def test_batches_to_be_drawn_again_go_first(out):
    part = begun(out)
    part.stage(0, 4, PROMPTS, [picture(i) for i in range(3)])
    part.stage(1, 4, ((3, 1),), [picture(3)])
    longer = {"settings": {}, "prompts": {"count": 5, "digest": "y"}}
    assert part.prompts == 3
    part.begin(longer, VERSIONS, part.missing(5, 3))
    again = Part(out, "a")
    assert list(again.batches) == [0]
    assert again.prompts == 5
    assert again.header == {**HEADER, **longer, "settings": HEADER["settings"]} | {
        "environments": [VERSIONS]
    }
    assert pictures(again) == [f"000000{i}.png" for i in range(3)]


def test_environments_are_noted_once(out):
    part = begun(out)
    part.stage(0, 4, PROMPTS, [picture(i) for i in range(3)])
    for versions in (VERSIONS, {"torch": "2"}, VERSIONS):
        Part(out, "a").begin({**HEADER, "settings": {}}, versions)
    assert Part(out, "a").header["environments"] == [VERSIONS, {"torch": "2"}]
    assert Part(out, "a").header["settings"] == HEADER["settings"]


def test_generators_keep_their_places(out):
    for name in ("b", "a", "b"):
        begun(out, name)
    assert staging.read_pool(out).generators == ("b", "a")
    assert staging.read_pool(out) == dataclasses.replace(POOL, generators=("b", "a"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dataset": "cars"}, "pets"),
        ({"class_names": ("cat", "owl")}, "owl"),
        ({"class_names": ("cat", "dog", "owl")}, "owl"),
        ({"size": 8}, "--size=4"),
    ],
)
def test_foreign_prompts(out, change, named):
    staging.check_pool(out, None, POOL)
    staging.check_pool(out, POOL, POOL)
    with pytest.raises(RequestError, match=named):
        staging.check_pool(out, POOL, dataclasses.replace(POOL, **change))


def test_a_full_disk_loses_only_the_batch(out, monkeypatch):
    part = begun(out)
    part.stage(0, 4, PROMPTS, [picture(i) for i in range(3)])
    before = staging.state(out)
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > allowed:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    # Two files, their folder, the journal: the disk is full at each of these.
    for allowed in range(4):
        calls.clear()
        with pytest.raises(OSError, match="No space"):
            part.stage(1, 4, ((3, 1), (4, 0)), [picture(3), picture(4)])
        assert len(calls) == allowed + 1
        assert staging.state(out) == before
        assert 1 not in part.batches
    allowed = 4
    calls.clear()
    part.stage(1, 4, ((3, 1), (4, 0)), [picture(3), picture(4)])
    assert sorted(Part(out, "a").batches) == [0, 1]


def test_one_process_at_a_time(out):
    program = (
        "import sys; from rsmatch_jax.synthesis.generate import staging\n"
        "with staging.locked(sys.argv[1]): print('in', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, out],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(RequestError, match="another process"), staging.locked(out):
            pass
        other.kill()
    with staging.locked(out):
        pass


def test_folders_that_are_no_pools_of_ours(tmp_path, out):
    staging.check_folder(out)
    os.mkdir(out)
    staging.check_folder(out)
    (tmp_path / "pool" / "dataset_info.json").write_text("{}")
    with pytest.raises(RequestError, match="not made by this command"):
        staging.check_folder(out)
    with pytest.raises(RequestError, match="is a file"):
        staging.check_folder(str(tmp_path / "pool" / "dataset_info.json"))
