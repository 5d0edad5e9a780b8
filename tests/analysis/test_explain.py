"""rsmatch see: pictures of what the networks look at."""

import functools
import io
import json

import numpy as np
import pytest
from PIL import Image
from support import workdirs
from support.helpers import build

from rsmatch_jax import evaluate, export, predict, sweep
from rsmatch_jax.analysis import choice, explain, gradcam, overlay, tsne
from rsmatch_jax.deploy import frozen, saved
from rsmatch_jax.models import networks, resnet
from rsmatch_jax.report import __main__ as report


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, its task)."""
    folder = tmp_path_factory.mktemp("see") / "run"
    workdirs.make(folder, (2, 4))
    return folder, build()[1]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A workdir of a method with one network."""
    folder = tmp_path_factory.mktemp("single") / "run"
    workdirs.make(
        folder, (2, 4), **{"method.name": "fixmatch", "data.synthetic_ratio": 0}
    )
    return folder


@pytest.fixture
def files(tmp_path):
    """Three images of other sizes, and a file that is no image."""
    folder = tmp_path / "files"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (8, 8, 3)), ("b $x$.png", (20, 30, 3)), ("c.png", 9)):
        shape = (shape, shape) if isinstance(shape, int) else shape
        pixels = rng.integers(0, 256, shape).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "d.png").write_bytes(b"none")
    return folder


def ask(folder, *argv):
    return explain.main([f"--workdir={folder}", *map(str, argv)])


def read(path):
    """(picture uint8 [H, W, 3], content of the file beside it)."""
    with open(path.with_suffix(".json")) as f:
        content = json.load(f)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")), content


# --- the command ---------------------------------------------------------------------


def test_a_runs_own_images_by_default(run, capsys):
    """Every class, real and synthetic, with the library's predictions."""
    folder, task = run
    assert ask(folder) == 0
    assert "20 images by step 4" in capsys.readouterr().out
    picture, content = read(folder / "gradcam.png")
    assert {k: v for k, v in content.items() if k != "images"} == {
        "step": 4,
        "set": "unlabelled",
        "stages": {"classifier": "stage3", "detector": "stage3"},
        "positions": {"classifier": [8, 8], "detector": [8, 8]},
    }
    lines = content["images"]
    seen = [(line["label"], line["origin"] != "real") for line in lines]
    assert sorted(seen) == [(c, o) for c in task.class_names for o in (False, True)]
    indices = np.asarray([line["index"] for line in lines])
    assert [line["label"] for line in lines] == [
        task.class_names[k] for k in task.unl_labels[indices]
    ]
    synthetic = [line["origin"] in task.generator_names for line in lines]
    np.testing.assert_array_equal(synthetic, task.unl_synthetic[indices])
    predictions = frozen.load(str(folder)).predict(task.unl_images[indices])
    for row, line in enumerate(lines):
        assert line["path"] is None
        assert (
            line["class"] == line["seen"] == task.class_names[predictions.labels[row]]
        )
        p = predictions.probabilities[row].max()
        assert line["probability"] == pytest.approx(p, rel=1e-4)
        score = predictions.synthetic_scores[row]
        assert line["synthetic_score"] == pytest.approx(score, rel=1e-4)
    with Image.open(folder / "gradcam.dark.png") as twin:
        dark = np.asarray(twin.convert("RGB"))
    assert dark.shape == picture.shape and dark[0, 0].max() < 30 < picture[0, 0].min()
    # All images are in the picture, enlarged, in their order.
    first = task.unl_images[indices[0]].repeat(14, axis=0).repeat(14, axis=1)
    left, top = 13, 89  # a margin, and four lines of text above
    np.testing.assert_array_equal(picture[top : top + 112, left : left + 112], first)


def test_chosen_images_of_the_test_set(run, tmp_path):
    folder, task = run
    argv = "--step=best", "--set=test", "--index=5,0,5", "--class=class_3"
    out = tmp_path / "out.png"
    assert ask(folder, *argv, "--stage=stage2", f"--out={out}") == 0
    _, content = read(out)
    assert content["step"] == 2 and content["set"] == "test"
    assert content["stages"] == {"classifier": "stage2", "detector": "stage2"}
    lines = content["images"]
    assert [line["index"] for line in lines] == [5, 0, 5]
    assert lines[0] == lines[2] and lines[0] != lines[1]
    assert {line["seen"] for line in lines} == {"class_3"}
    assert {line["origin"] for line in lines} == {"real"}
    assert lines[0]["label"] == task.class_names[task.test_labels[5]]
    assert ask(folder, "--set=test", "--images=5", f"--out={out}") == 0
    labels = [line["label"] for line in read(out)[1]["images"]]
    assert len(set(labels)) == 5 and labels == sorted(labels)


def test_images_from_disk(run, files, capsys):
    """Flags may stand between them; unreadable files are named, the others drawn."""
    folder, _ = run
    out = files / "out.png"
    paths = [files / name for name in ("c.png", "b $x$.png", "d.png")]
    assert ask(folder, paths[0], "--step=last", *paths[1:], f"--out={out}") == 1
    printed = capsys.readouterr()
    assert "1 of 3 files could not be read" in printed.err and "d.png: " in printed.err
    assert "2 images by step 4" in printed.out
    _, content = read(out)
    assert content["set"] is None
    assert [line["path"] for line in content["images"]] == [str(p) for p in paths[:2]]
    for line in content["images"]:
        assert line["label"] is line["index"] is line["origin"] is None
        assert 0 <= line["synthetic_score"] <= 1
    out.unlink()
    assert ask(folder, files / "d.png", f"--out={out}") == 1
    assert "1 of 1 files could not be read:" in capsys.readouterr().err
    assert not out.exists()


def test_images_from_disk_are_seen_as_predict_sees_them(tmp_path, files, capsys):
    """A run on encoded images sees their central part."""
    workdirs.make_encoded(tmp_path / "run", 16)
    assert ask(tmp_path / "run", f"{files}/b*.png", f"{files}/c.png") == 0
    with open(tmp_path / "run" / "gradcam.json") as f:
        seen = json.load(f)["images"]
    out = tmp_path / "lines.jsonl"
    argv = [f"--workdir={tmp_path}/run", f"--out={out}", f"{files}/b*.png"]
    assert predict.main([*argv, f"{files}/c.png"]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [x["path"] for x in seen] == [x["image"] for x in lines]
    assert [x["class"] for x in seen] == [x["class"] for x in lines]
    for name in ("probability", "synthetic_score"):
        np.testing.assert_allclose(
            [x[name] for x in seen], [x[name] for x in lines], atol=1e-5
        )


def test_a_run_without_detector(single, capsys):
    assert ask(single, "--images=2") == 0
    assert "fixmatch has no detector: the classifier alone" in capsys.readouterr().out
    _, content = read(single / "gradcam.png")
    assert content["stages"] == {"classifier": "stage3"}
    assert [line["synthetic_score"] for line in content["images"]] == [None, None]


def test_a_stage_of_one_position(tmp_path, monkeypatch, capsys):
    """The last one of a ResNet on such small images: a note says that maps are even."""
    small = functools.partial(resnet.ResNet, (1, 1), False)
    monkeypatch.setitem(networks.MODELS, "small", small)
    keys = {"method.name": "supervised", "model.classifier": "small"}
    workdirs.make(tmp_path / "run", (2, 4), **keys)
    assert ask(tmp_path / "run", "--images=1") == 0
    assert "stage2 of the classifier has one position" in capsys.readouterr().out
    assert ask(tmp_path / "run", "--images=1", "--stage=stage1") == 0
    assert "one position" not in capsys.readouterr().out
    _, content = read(tmp_path / "run" / "gradcam.png")
    assert content["positions"] == {"classifier": [2, 2]}


WRONG = {
    "no_such_run": (["--workdir=/nowhere"], "--workdir=/nowhere"),
    "no_such_step": (["--step=3"], "--step=3.*choose last, best or one of 2, 4"),
    "no_such_set": (["--set=train"], "--set.*train.*unlabelled.*test"),
    "index_too_large": (["--index=3,640"], "--index=640.*images 0 to 639"),
    "index_of_test": (["--set=test", "--index=320"], "--index=320.*0 to 319"),
    "index_below_zero": (["--index=-1"], "--index=-1"),
    "index_in_words": (["--index=1,two"], "--index=1,two.*0,5,17"),
    "index_empty": (["--index="], "--index=.*numbers"),
    "index_huge": (["--index=" + "9" * 30], "--index=.*numbers"),
    "index_and_number": (["--index=1", "--images=2"], "--index.*--images"),
    "no_images": (["--images=0"], "--images=0.*between 1 and 200"),
    "too_many": (["--images=201"], "--images=201.*between 1 and 200"),
    "too_many_indices": (["--index=" + ",".join("1" * 201)], "201 images.*at most"),
    "no_such_class": (["--class=cat"], "--class=cat.*class_0, class_1"),
    "class_empty": (["--class="], "--class= "),
    "no_such_stage": (["--stage=stage4"], "--stage=stage4.*stage1, stage2, stage3"),
    "no_such_file": (["nothing.png"], "nothing.png: there is no such file"),
    "file_and_set": ([__file__, "--set=test"], "--set.*IMAGE"),
    "file_and_index": ([__file__, "--index=1"], "--index.*IMAGE"),
    "file_and_number": ([__file__, "--images=1"], "--images.*IMAGE"),
    "data_elsewhere": (["--synthetic_pool=/nowhere"], "--synthetic_pool=PLACE"),
    "out_is_no_png": (["--out=picture.jpg"], "--out=picture.jpg.*FILE.png"),
    "beside_out": (["--out={run}/result.png"], "--out=.*beside.*result.json.*among"),
    "unknown_flag": (["--indices=1"], "--indices=1"),
}


@pytest.mark.parametrize(("argv", "message"), WRONG.values(), ids=WRONG)
def test_wrong_requests(run, capsys, argv, message):
    workdirs.check_refused(explain.main, run[0], argv, message, capsys)


@pytest.mark.parametrize(
    "door", [evaluate, explain, export, predict, report, sweep, tsne]
)
def test_help_tells_all(capsys, door):
    with pytest.raises(SystemExit) as e:
        door.main(["--help"])
    assert e.value.code == 0
    text = capsys.readouterr().out
    assert "Exit codes: 0 " in text
    assert max(map(len, text.splitlines())) <= 88


# --- choosing and drawing ------------------------------------------------------------


def test_choice_is_balanced_and_repeatable(run):
    _, task = run
    indices = choice.balanced(task, "unlabelled", 60, seed=3)
    assert len(set(indices)) == 60
    groups = task.unl_labels[indices] * 2 + task.unl_synthetic[indices]
    assert np.bincount(groups).tolist() == [3] * 20
    again = choice.balanced(task, "unlabelled", 60, seed=3)
    np.testing.assert_array_equal(indices, again)
    other = choice.balanced(task, "unlabelled", 60, seed=4)
    assert set(other) != set(indices)
    everything = choice.balanced(task, "unlabelled", 10_000)
    assert sorted(everything) == list(range(len(task.unl_images)))
    # Ten images of each class and origin leave room for three random classes.
    few = choice.balanced(task, "unlabelled", 60, seed=3, least=10)
    groups = task.unl_labels[few] * 2 + task.unl_synthetic[few]
    assert sorted(np.bincount(groups, minlength=20)) == [0] * 14 + [10] * 6
    shown = {
        tuple(np.unique(task.unl_labels[choice.balanced(task, "unlabelled", 6, seed)]))
        for seed in range(9)
    }
    assert len(shown) > 3 and all(len(classes) == 3 for classes in shown)
    two = choice.balanced(task, "test", 10_000, classes=[1, 7])
    np.testing.assert_array_equal(
        np.sort(two), np.flatnonzero(np.isin(task.test_labels, [1, 7]))
    )


def made_up(count, size, classes=4):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    chosen = choice.Chosen(
        images=images,
        names=tuple(f"unlabelled {i}" for i in range(count)),
        indices=np.arange(count),
        labels=np.arange(count) % classes,
        origins=tuple("real" if i % 2 == 0 else "sd14" for i in range(count)),
    )
    p = rng.dirichlet(np.ones(classes), count)
    maps = rng.uniform(size=(count, size, size)).astype(np.float32)
    classifier = gradcam.Maps(maps, p.argmax(1), p)
    p = rng.dirichlet(np.ones(2), count)
    detector = gradcam.Maps(maps[::-1], np.ones(count, int), p)
    return chosen, {"classifier": classifier, "detector": detector}


def sides(png):
    with Image.open(io.BytesIO(png)) as picture:
        return picture.size


@pytest.mark.parametrize(("count", "size"), [(1, 8), (200, 8), (5, 100), (9, 170)])
def test_sheets_of_any_number_and_size(count, size):
    """The texts fit, and the sheet stays below 2**16 pixels a side."""
    chosen, shown = made_up(count, size)
    names = ["a$b", "an extremely long name of a class" * 3, "ship", "_car"]
    width, height = sides(overlay.draw(chosen, shown, names, "a title, $x" * 5))
    assert 400 <= width <= 2100 and height < 11_000


def test_blend_is_grey_without_heat_and_coloured_with():
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 200  # red
    heat = np.zeros((8, 8))
    cold = overlay.blend(image, heat, 64)
    assert np.ptp(cold, axis=2).max() == 0 and cold[0, 0, 0] == round(0.299 * 200)
    warm = overlay.blend(image, heat + 1, 64)
    assert np.ptp(warm, axis=2).min() > 100


def test_the_legend_has_every_colour_of_the_maps():
    """Of images of any brightness: none is further than half a step of the bar's 16
    greys. A bar of one grey would not do."""
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image[:4], image[4:8] = 0, 255
    heat = rng.uniform(size=(16, 16)) * np.linspace(0, 1, 16)
    seen = overlay.blend(image, heat, 64).reshape(-1, 3).astype(int)
    key = overlay.legend_bar()
    assert key.shape == (16, 120, 3)
    colours = key.reshape(-1, 3).astype(int)
    distance = np.abs(seen[:, None] - colours).max(-1).min(1)
    assert distance.max() <= 255 / 15 / 2 + 0.5
    one_grey = colours.reshape(16, 120, 3)[8]
    assert np.abs(seen[:, None] - one_grey).max(-1).min(1).max() > 30


def test_texts_beside_the_pictures():
    chosen, shown = made_up(4, 8)
    names = ["cat", "dog", "ship", "car"]
    assert overlay.heading(chosen, 0, names) == "unlabelled 0: cat, real"
    assert overlay.heading(chosen, 1, names) == "unlabelled 1: dog, synthetic by sd14"
    disk = choice.from_disk(chosen.images, ["/a/b/c.png"] * 4)
    assert overlay.heading(disk, 0, names) == "c.png"
    p = np.array([[0.1, 0.7, 0.1, 0.1]] * 4)
    maps = gradcam.Maps(shown["classifier"].maps, np.full(4, 2), p)
    p = np.array([[0.2, 0.8]] * 4)
    detector = gradcam.Maps(maps.maps, np.ones(4, int), p)
    # The text names the drawn class; the predicted one may be wrong.
    for part, of_part, images, row, text, wrong in (
        ("classifier", maps, chosen, 0, "ship: 0.10", True),
        ("classifier", maps, chosen, 1, "ship: 0.10", False),
        ("classifier", maps, disk, 0, "ship: 0.10", False),
        ("detector", detector, chosen, 0, "synthetic: 0.80", True),
        ("detector", detector, chosen, 1, "synthetic: 0.80", False),
    ):
        assert overlay.caption(part, of_part, images, row, names) == (text, wrong)


def test_maps_of_every_part(run):
    folder, task = run
    model = frozen.Model(saved.load(str(folder)), batch_size=4)
    shown = explain.maps(model, task.test_images[:3], label=2)
    assert list(shown) == ["classifier", "detector"]
    assert set(shown["classifier"].classes) == {2}
    assert set(shown["detector"].classes) == {1}
