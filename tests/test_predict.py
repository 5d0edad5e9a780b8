"""The predict command: lines, exit codes and messages."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from data.images.test_image_files import BROKEN
from deploy.test_frozen import UNFIT
from PIL import Image
from support import workdirs
from support.helpers import BLOCKS
from support.import_sources import sift_links

from rsmatch_jax import evaluate, export, predict
from rsmatch_jax.metrics import measure


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(folder of a run and of images, experiment, {step: state})."""
    root = tmp_path_factory.mktemp("predict")
    exp, states = workdirs.make(root / "run", steps=(3, 7))
    (root / "images").mkdir()
    for i, pixels in enumerate(images()):
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
    (root / "empty").mkdir()
    return root, exp, states


def images(count=12):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def ask(root, *argv):
    return predict.main([f"--workdir={root}/run", "--batch_size=8", *argv])


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_lines_are_evaluations_rows_on_the_same_pixels(world, capsys):
    (root, exp, states), step = world, 3  # not the last one
    predictor = measure.Predictor(exp.nets, exp.devices, exp.method.origin, 12)
    rows = predictor(states[step], images(), np.zeros(len(images()), np.int32))
    before = {p: p.stat().st_mtime_ns for p in (root / "run").rglob("*")}
    assert ask(root, f"--step={step}", f"{root}/images") == 0
    assert {p: p.stat().st_mtime_ns for p in (root / "run").rglob("*")} == before
    printed = capsys.readouterr()
    output = lines(printed.out)
    assert [x["image"] for x in output] == [f"{root}/images/{i}.png" for i in range(12)]
    assert [x["label"] for x in output] == rows["predicted"].tolist()
    assert [x["class"] for x in output] == [f"class_{k}" for k in rows["predicted"]]
    for key, row in ("probability", "confidence"), ("synthetic_score",) * 2:
        np.testing.assert_allclose([x[key] for x in output], rows[row], atol=1e-6)
    assert all(x["size"] == [8, 8] and x["changes"] == [] for x in output)
    assert "12 images in" in printed.err
    assert f"by step {step} of {root}/run" in printed.err


def test_lines_of_top_classes_go_to_a_file(world, tmp_path, capsys):
    root, _, _ = world
    out = tmp_path / "lines.jsonl"
    assert ask(root, "--top=3", f"--out={out}", f"{root}/images/1.png") == 0
    assert capsys.readouterr().out == ""
    (line,) = lines(out.read_text())
    p = list(line["top"].values())
    assert len(p) == 3 and p == sorted(p, reverse=True)
    assert (list(line["top"])[0], p[0]) == (line["class"], line["probability"])
    assert ask(root, "--top=99", f"--out={out}", f"{root}/images/1.png") == 0
    (line,) = lines(out.read_text())
    assert len(line["top"]) == 10 and sum(line["top"].values()) == pytest.approx(1)


def test_the_background_is_that_of_the_flag(world, tmp_path, capsys):
    """A transparent image gets the line of the same image made opaque by hand."""
    root, _, _ = world
    pixels = np.dstack([images(1)[0], np.full((8, 8), 255, np.uint8)])
    pixels[2:5, 2:7] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    pixels[2:5, 2:7, :3] = 0x10, 0x80, 0xF0
    Image.fromarray(pixels[..., :3]).save(tmp_path / "b.png")
    assert ask(root, "--background=#1080f0", str(tmp_path)) == 0
    a, b = lines(capsys.readouterr().out)
    assert a.pop("changes") == ["transparency put on #1080f0"]
    assert b.pop("changes") == [] and a.pop("image") != b.pop("image")
    assert a == b
    assert ask(root, str(tmp_path)) == 0
    white, b = lines(capsys.readouterr().out)
    assert white["probability"] != b["probability"]


def test_a_folder_of_links_is_predicted(world, tmp_path, capsys):
    """That of sift --link, with a link to a picture that is gone."""
    root, _, _ = world
    verdicts = ("real", "synthetic", "unsure")
    names = [f"{verdicts[i % 3]}/class_{i % 2}/{i}.png" for i in range(12)]
    sift_links(tmp_path, root / "images", names)
    (tmp_path / "real" / "gone.png").symlink_to(root / "gone.png")
    assert ask(root, f"{root}/images") == 0
    expected = {x["image"].split("/")[-1]: x for x in lines(capsys.readouterr().out)}
    assert ask(root, str(tmp_path)) == 0
    printed = capsys.readouterr()
    output = lines(printed.out)
    assert len(output) == 12
    for x in output:
        same = expected[x["image"].split("/")[-1]]
        assert x["label"] == same["label"]
        assert x["probability"] == pytest.approx(same["probability"], abs=1e-6)
    assert f"{tmp_path}: links that lead nowhere: real/gone.png" in printed.err


def test_what_was_done_to_an_image_is_said_and_counted(world, tmp_path, capsys):
    root, _, _ = world
    alpha = np.zeros((20, 30, 4), np.uint8)
    Image.fromarray(alpha).save(tmp_path / "a.png")
    alpha[:, :15] = 255
    Image.fromarray(alpha).save(tmp_path / "b.png")
    assert ask(root, str(tmp_path), f"{root}/images/0.png") == 0
    printed = capsys.readouterr()
    a, b, plain = lines(printed.out)
    assert a["size"] == [30, 20] and plain["changes"] == []
    assert b["changes"] == [
        "transparency put on white",
        "cropped to its central square",
        "resized from 30x20",
    ]
    assert a["changes"] == [b["changes"][0], "fully transparent", *b["changes"][1:]]
    assert "changed: 2 transparency put on white, 1 fully" in printed.err
    assert (
        f"fully transparent, nothing of them is seen: {tmp_path}/a.png" in printed.err
    )
    assert "2 resized" in printed.err


def test_one_broken_image_of_many(world, tmp_path, capsys):
    """It is named at the end, the others are predicted, and the exit code is 1."""
    root, _, _ = world
    for i in range(300):
        shutil.copy(root / "images" / f"{i % 12}.png", tmp_path / f"{i}.png")
    (tmp_path / "50.png").write_bytes((tmp_path / "50.png").read_bytes()[:60])
    assert ask(root, "--batch_size=256", str(tmp_path)) == 1
    printed = capsys.readouterr()
    output = lines(printed.out)
    paths = [f"{tmp_path}/{i}.png" for i in range(300) if i != 50]
    assert [x["image"] for x in output] == paths
    one = [x["probability"] for x in output if x["image"].endswith("/12.png")]
    assert one == pytest.approx([output[0]["probability"]], abs=1e-6)
    last = printed.err[printed.err.rfind("error: ") :]
    assert "1 of 300 files could not be read, the others are predicted" in last
    assert f"{tmp_path}/50.png: " in last


def test_what_ends_badly_leaves_the_file_that_was_there(world, tmp_path, monkeypatch):
    root, _, _ = world
    out = tmp_path / "lines.jsonl"
    out.write_text("earlier\n")
    first = predict.json.dumps

    def fail(line):
        monkeypatch.setattr(predict.json, "dumps", lambda line: 1 / 0)
        return first(line)

    monkeypatch.setattr(predict.json, "dumps", fail)
    assert ask(root, f"--out={out}", str(root / "images")) == 1
    assert out.read_text() == "earlier\n"
    assert list(tmp_path.iterdir()) == [out]


def test_every_broken_file_is_named(world, tmp_path, capsys):
    root, _, _ = world
    broken = {
        str(tmp_path / f"{i}.png"): reason for i, (_, reason) in enumerate(BROKEN)
    }
    for path, (data, _) in zip(broken, BROKEN, strict=True):
        pathlib.Path(path).write_bytes(data)
    assert ask(root, str(tmp_path)) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "the others" not in printed.err
    for path, reason in broken.items():
        (line,) = [x for x in printed.err.splitlines() if x.strip().startswith(path)]
        assert reason in line
    assert "Warning" not in printed.err  # Pillow's, of bombs


REQUESTS = {
    "empty": (["{root}/empty"], "{root}/empty: there is no image in this folder"),
    "pattern": (["{root}/*.webp"], r"\*.webp: no file matches this pattern"),
    "gone": (["{root}/gone.png"], "{root}/gone.png: there is no such file or folder"),
    "word": (["--step=worst", "{root}/images"], "choose last, best or one of 3, 7"),
    "batch": (["--batch_size=0", "{root}/images"], "--batch_size=0: it must be 1 or"),
    "text": (["--batch_size=x", "{root}/images"], "invalid int value: 'x'"),
    "top": (["--top=-1", "{root}/images"], "--top=-1: it must be 0 or more"),
    "colour": (["--background=blu", "{root}/images"], "--background=blu: write a"),
    "nothing": ([], "the following arguments are required: IMAGE"),
    "out": (["--out={root}/run/x.json", "{root}/images"], "use --out=FILE.jsonl"),
    "metrics": (
        ["--out={root}/run/metrics.jsonl", "{root}/images"],
        "metrics.jsonl is among the files of the run",
    ),
}


@pytest.mark.parametrize(("argv", "words"), REQUESTS.values(), ids=REQUESTS)
def test_wrong_requests_are_answered(world, capsys, argv, words):
    workdirs.check_refused(predict.main, world[0] / "run", argv, words, capsys)


def test_runs_that_do_not_fit_are_refused_by_every_command(world, tmp_path, capsys):
    root, _, _ = world
    copy = shutil.copytree(root / "run", tmp_path / "run")
    damage, words = UNFIT["method"]
    damage(copy)
    argv = {predict: [f"{root}/images"], export: ["--out={root}/model"], evaluate: []}
    for door, more in argv.items():
        workdirs.check_refused(door.main, copy, more, words, capsys)


def test_as_a_process(world):
    """Standard output has the lines and nothing else; without a detector a score is
    null."""
    root, _, _ = world
    workdirs.make(root / "blocks", **BLOCKS, **{"method.name": "supervised"})
    command = [sys.executable, "-m", "rsmatch_jax.predict", f"--workdir={root}/blocks"]
    done = subprocess.run(
        [*command, f"{root}/images/0.png"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (line,) = lines(done.stdout)
    assert line["image"] == f"{root}/images/0.png"
    assert line["synthetic_score"] is None
