"""rsmatch tsne: maps of features, and two numbers about them."""

import io
import json
import warnings

import numpy as np
import pytest
import threadpoolctl
from PIL import Image
from scipy import spatial
from support import workdirs
from support.helpers import build

from rsmatch_jax import contact_sheet
from rsmatch_jax.analysis import choice, features, scatter, tsne
from rsmatch_jax.deploy import frozen


def cloud(count, width, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


# --- the numbers ---------------------------------------------------------------------


def test_probe_cannot_tell_what_is_alike():
    """With more dimensions than images any labels can be memorised."""
    synthetic = np.arange(400) % 2 == 0
    balanced = [features.probe(cloud(400, 500, s), synthetic, s) for s in range(3)]
    assert abs(np.mean(balanced) - 0.5) < 0.06


def test_probe_is_balanced():
    """All of the synthetic tenth and 3/4 of the others are right: (1 + 0.75) / 2."""
    rng = np.random.default_rng(0)
    synthetic = np.arange(1000) % 10 == 0
    where = np.where(synthetic, 3, np.where(rng.uniform(size=1000) < 0.25, 3, 0))
    points = where[:, None] + 0.01 * cloud(1000, 1)
    share = np.mean(where[~synthetic] == 0)
    assert features.probe(points, synthetic) == pytest.approx((1 + share) / 2)


def test_probe_takes_scales_as_they_come():
    """Wide directions without information do not hide a narrow one with it."""
    synthetic = np.arange(200) % 3 == 0
    points = cloud(200, 20)
    points[:, 0] *= 1e5
    points[:, 1] = 1e-3 * (points[:, 1] + 10 * synthetic)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert features.probe(points, synthetic) == 1.0


def test_too_few_of_an_origin_for_a_probe():
    points = cloud(50, 3)
    for count in (0, 4, 46, 50):
        assert features.probe(points, np.arange(50) < count) is None
    for count in (5, 45):
        assert features.probe(points, np.arange(50) < count) is not None


def test_centroid_distance_by_hand():
    """Real centroids (0, 0), (6, 0), (0, 8): 6, 8 and 10 apart, 8 in the mean.
    Synthetic ones of the first two lie 3 and 5 from theirs: 4 / 8."""
    points = [
        *[(-1, 0, 0, 0), (1, 0, 0, 0)],
        *[(6, 0, 1, 0), (0, 8, 2, 0)],
        *[(0, 3, 0, 1), (9, 4, 1, 1), (9, 4, 1, 1)],
    ]
    x, y, labels, synthetic = np.array(points, np.float32).T
    distance = features.centroid_distance(
        np.stack([x, y], axis=1), labels.astype(int), synthetic.astype(bool)
    )
    assert distance == pytest.approx(0.5)


def test_centroid_distance_needs_both():
    points, labels = cloud(8, 2), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    some = np.arange(8) % 2 == 0
    assert features.centroid_distance(points, labels, some) > 0
    for labels_, synthetic in (
        (labels, np.zeros(8, bool)),  # no synthetic one
        (labels, np.ones(8, bool)),  # no real one
        (labels, labels == 1),  # no class with both
        (np.zeros(8, int), some),  # one class
    ):
        assert features.centroid_distance(points, labels_, synthetic) is None
    assert features.centroid_distance(np.ones((8, 2)), labels, some) is None


# --- the map -------------------------------------------------------------------------


def test_embedding_keeps_neighbours_and_repeats():
    """Three distant clouds stay apart, with equal bits for any number of cores."""
    labels = np.arange(300) % 3
    points = cloud(300, 10)
    points[np.arange(300), labels] += 30
    synthetic = np.arange(300) % 2 == 0
    embedded = []
    for threads in (1, 2):
        with threadpoolctl.threadpool_limits(threads):
            embedded.append(features.embed(points, labels, synthetic, 5))
    first, again = embedded
    np.testing.assert_array_equal(first.points, again.points)
    assert first.figures == again.figures
    assert first.figures["images"] == 300 and first.figures["synthetic"] == 150
    assert first.points.shape == (300, 2) and first.points.dtype == np.float32
    _, near = spatial.KDTree(first.points).query(first.points, k=2)
    assert np.all(labels[near[:, 1]] == labels)


@pytest.mark.parametrize("count", [10, 40])
def test_features_that_do_not_differ(count):
    """A dead network still gives points and figures without NaN."""
    labels = np.arange(count) % 2
    points = np.ones((count, 4), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedded = features.embed(points, labels, np.arange(count) % 4 < 2)
    assert np.all(np.isfinite(embedded.points))
    assert embedded.figures["centroid_distance"] is None


def chosen_of(count, classes):
    """Pictures of so many classes, every other one synthetic."""
    synthetic = np.arange(count) % 2 == 0
    return choice.Chosen(
        images=np.zeros((count, 8, 8, 3), np.uint8),
        names=("",) * count,
        indices=np.arange(count),
        labels=np.arange(count) % classes,
        origins=tuple("sd" if fake else "real" for fake in synthetic),
    )


@pytest.mark.parametrize("classes", [2, 15, 100])
def test_pictures_of_few_and_many_classes(classes, tmp_path):
    count = 200
    names = ["a$b", "_hidden", *(f"class {c}" for c in range(2, classes))]
    chosen = chosen_of(count, classes)
    figures = {"probe_balanced_accuracy": 0.7, "centroid_distance": None}
    embedded = {
        part: features.Embedded(cloud(count, 2, seed), figures)
        for seed, part in enumerate(("classifier", "detector"))
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = scatter.draw(embedded, chosen, names, "a title, $x")
    (tmp_path / "a.png").write_bytes(png)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (1584, 864)
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**24)}
    if classes == 2:
        expected = [tuple(bytes.fromhex(c[1:])) for c in scatter.TEN[:2]]
        # Points are drawn with alpha 0.9, those of the legend opaque.
        assert set(expected) <= colours


def test_names_lie_on_their_class_and_not_on_each_other():
    """A class in two places is named at the denser one, not between them nor where a
    few images are alike; two classes in the same place have names apart."""
    rng = np.random.default_rng(3)
    dense, loose = rng.normal(0, 0.2, (60, 2)), rng.normal(0, 1, (40, 2)) + 30
    loose[:6] = 15, 0
    there = rng.normal(0, 2, (100, 2)) + (0, 30)
    points = np.concatenate([dense, loose, there, there + 0.01, [[15, 15]]])
    labels = np.repeat([0, 1, 2, -1], [100, 100, 100, 1])
    places = scatter.anchors(points, labels)
    assert [*places] == [0, 1, 2]
    for label, place in places.items():
        assert (points[labels == label] == place).all(1).any()
    assert np.linalg.norm(places[0]) < 1
    apart = np.abs(places[1] - places[2]) / np.ptp(points, axis=0)
    assert (apart >= scatter.ROOM).any()


def test_the_dark_twin_has_the_same_points(tmp_path):
    embedded = {
        "detector": features.Embedded(
            cloud(30, 2),
            dict.fromkeys(("probe_balanced_accuracy", "centroid_distance")),
        )
    }
    chosen = chosen_of(30, 3)
    shots = []
    for theme in contact_sheet.THEMES:
        png = scatter.draw(embedded, chosen, ["a", "b", "c"], "t", theme=theme)
        with Image.open(io.BytesIO(png)) as picture:
            shots.append(np.asarray(picture.convert("RGB")).astype(int))
    light, dark = shots
    assert (light[0, 0] == 255).all() and tuple(dark[0, 0]) == (20, 23, 27)
    blue = np.array([0x3F, 0x90, 0xDA])  # of class a, opaque in the legend alone
    assert (light == blue).all(2).sum() == (dark == blue).all(2).sum() > 0


# --- the command ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tsne") / "run"
    workdirs.make(folder, (2, 4))
    return folder, build()[1]


def ask(folder, *argv):
    return tsne.main([f"--workdir={folder}", *argv])


def test_a_run_end_to_end(run, capsys, tmp_path):
    """The figures equal those of the library's features."""
    folder, task = run
    assert ask(folder, "--images=60", "--seed=3") == 0
    printed = capsys.readouterr().out
    assert f"written: {folder}/tsne.png" in printed
    with open(folder / "tsne.json") as f:
        content = json.load(f)
    assert content["step"] == 4 and content["seed"] == 3
    indices = np.asarray(content["indices"])
    assert len(set(indices)) == 60
    assert content["labels"] == task.unl_labels[indices].tolist()
    assert content["synthetic"] == task.unl_synthetic[indices].tolist()
    assert sum(content["synthetic"]) == 30
    model = frozen.load(str(folder))
    for part in ("classifier", "detector"):
        of_part = content[part]
        assert np.asarray(of_part["points"]).shape == (60, 2)
        expected = features.measure(
            model.features(task.unl_images[indices], part),
            task.unl_labels[indices],
            task.unl_synthetic[indices],
            seed=3,
        )
        assert {k: of_part[k] for k in expected} == pytest.approx(expected)
        assert f"{of_part['probe_balanced_accuracy']:.4f}\n" in printed
    out = tmp_path / "again.png"
    assert ask(folder, "--images=60", "--seed=3", f"--out={out}") == 0
    with open(out.with_suffix(".json")) as f:
        assert json.load(f) == content
    assert out.read_bytes()[:4] == b"\x89PNG"


def test_some_classes(run, tmp_path):
    folder, task = run
    out = tmp_path / "out.png"
    argv = "--class=class_4", "--class=class_1", f"--out={out}", "--images=40"
    assert ask(folder, *argv) == 0
    with open(out.with_suffix(".json")) as f:
        assert np.bincount(json.load(f)["labels"]).tolist() == [0, 20, 0, 0, 20]


def test_real_images_alone_and_one_network(tmp_path, capsys):
    """No probe, no distance, no detector; the output says so."""
    folder = tmp_path / "run"
    workdirs.make(
        folder, (2, 4), **{"method.name": "fixmatch", "data.synthetic_ratio": 0}
    )
    assert ask(folder, "--images=20") == 0
    printed = capsys.readouterr().out
    assert "fixmatch has no detector: the classifier alone" in printed
    assert printed.count("none: too few images of an origin") == 1
    assert printed.count("none: it takes two classes") == 1
    with open(folder / "tsne.json") as f:
        content = json.load(f)
    assert "detector" not in content
    assert content["classifier"]["probe_balanced_accuracy"] is None


WRONG = {
    "too_few": (["--images=9"], "--images=9.*between 10 and 20000"),
    "too_many": (["--images=20001"], "--images=20001.*between"),
    "seed_below_zero": (["--seed=-1"], "--seed=-1.*between 0 and"),
    "seed_too_large": ([f"--seed={2**32}"], "--seed=4294967296.*between 0 and"),
    "no_such_class": (["--class=cat"], "--class=cat.*class_0, class_1"),
    "beside_out": (["--out={run}/data.png"], "--out=.*beside.*data.json.*among"),
    "data_elsewhere": (["--synthetic_pool=/nowhere"], "--synthetic_pool=PLACE"),
    "an_image": (["a.png"], "a.png"),
}


@pytest.mark.parametrize(("argv", "message"), WRONG.values(), ids=WRONG)
def test_wrong_requests(run, capsys, argv, message):
    workdirs.check_refused(tsne.main, run[0], argv, message, capsys)
