"""Evaluation figures against scikit-learn or arithmetic by hand."""

import dataclasses
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageColor
from sklearn import metrics as sk

from rsmatch_jax import contact_sheet
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods import csqueue
from rsmatch_jax.metrics import measure, mistakes, queue_picture, scores
from rsmatch_jax.models.networks import Network
from rsmatch_jax.runs.history import Record
from rsmatch_jax.state import Outputs, TrainState

K = 7


def network(head, table):
    def apply(params, stats, images, train):
        assert not train
        rows = images[:, 0, 0, 0].astype(jnp.int32)
        return Outputs(jnp.zeros((len(images), 1)), {head: table[rows]}), stats

    return Network(None, apply)


@pytest.mark.parametrize("predicted", [[4, 0, 4, 6], [4, 0, 1, 5]])
def test_macro_figures_of_a_test_set_without_some_classes(predicted):
    """As sklearn's defaults: a class that nobody names or predicts does not count."""
    labels = np.array([4, 0, 4, 6])
    rows = {"predicted": np.array(predicted), "rank": np.zeros(4, int)}
    figures = scores.test_metrics(rows, labels, 10)
    for name in ("precision", "recall", "f1"):
        function = getattr(sk, f"{name}_score")
        expected = function(labels, predicted, average="macro", zero_division=0)
        assert figures[f"macro_{name}"] == expected
    assert (figures["macro_f1"] == 1) == (predicted == labels.tolist())
    assert figures["confusion"].shape == (10, 10)


@pytest.mark.parametrize("devices", [1, 4])
def test_predict_pads_and_keeps_the_order(devices):
    """23 images in batches of 6 or 8, against the table itself."""
    rng = np.random.default_rng(0)
    real = jnp.asarray(rng.normal(size=(256, K)), jnp.float32)
    detect = jnp.asarray(rng.normal(size=(256, 2)), jnp.float32)
    nets = {
        "classifier": network("real", real),
        "detector": network("detector", detect),
    }
    ids = rng.integers(0, 256, 23)
    images = np.broadcast_to(ids[:, None, None, None], (23, 2, 2, 3)).astype(np.uint8)
    labels = rng.integers(0, K, 23)
    state = TrainState(*[dict.fromkeys(nets, jnp.zeros(1))] * 7)
    chosen = jax.local_devices()[:devices]
    predict = measure.Predictor(nets, chosen, operator.itemgetter("detector"), 6)
    rows = predict(state, images, labels)
    z, d = np.asarray(real)[ids], np.asarray(detect)[ids]
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_array_equal(rows["predicted"], z.argmax(1))
    np.testing.assert_allclose(rows["confidence"], p.max(1), rtol=1e-6)
    expected = [(z[i] > z[i, y]).sum() for i, y in enumerate(labels)]
    np.testing.assert_array_equal(rows["rank"], expected)
    np.testing.assert_allclose(
        rows["synthetic_score"], 1 / (1 + np.exp(d[:, 0] - d[:, 1])), rtol=1e-6
    )
    figures = scores.test_metrics(rows, labels, K)
    assert figures["accuracy"] == sk.accuracy_score(labels, z.argmax(1))
    assert figures["top5"] == sk.top_k_accuracy_score(labels, p, k=5, labels=range(K))
    assert figures["confusion"].sum() == 23


def task(origins, labels=None, labelled=0):
    """A task of unlabelled images alone, with such ground truth. See rs_ssl.Task."""
    origins = np.asarray(origins, np.int32)
    nothing = np.zeros((0, 4, 4, 3), np.uint8)
    return rs_ssl.Task(
        name="t",
        split=None,
        class_names=("a", "b", "c", "d"),
        generator_names=("g", "h", "unused"),
        lab_images=np.zeros((labelled, 4, 4, 3), np.uint8),
        lab_labels=np.zeros(labelled, np.int64),
        unl_images=np.zeros((len(origins), 4, 4, 3), np.uint8),
        unl_labels=np.zeros(len(origins), int) if labels is None else np.array(labels),
        unl_origins=origins,
        val_images=nothing,
        val_labels=np.zeros(0, np.int64),
        test_images=nothing,
        test_labels=np.zeros(0, np.int64),
    )


SCORE = {"synthetic_score": np.array([0.9, 0.2, 0.6, 0.4, 0.8, 0.1])}


def test_detector_figures():
    mixed = task([0, 1, -1, -1, 0, -1])
    figures = scores.detector_metrics(SCORE, mixed)
    assert figures["detector_accuracy"] == pytest.approx(4 / 6)
    assert figures["detector_accuracy_labelled"] is None
    assert figures["detector_accuracy_real"] == pytest.approx(2 / 3)
    assert figures["detector_accuracy_synthetic"] == pytest.approx(2 / 3)
    assert figures["detector_balanced_accuracy"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    # pairs (synthetic, real) in the right order: .9 beats 3, .2 beats 1, .8 beats 3
    assert figures["detector_auroc"] == pytest.approx(7 / 9)
    real = scores.detector_metrics(SCORE, task([-1] * 6, labelled=2))
    assert real["detector_auroc"] is None
    assert real["detector_accuracy_labelled"] == 0.5
    assert real["detector_accuracy_real"] == 0.5
    assert set(scores.detector_metrics({}, mixed).values()) == {None}


def test_detector_figures_of_known_origins_alone():
    """By hand: 0.9 of an image of unknown origin counts nowhere."""
    some = task([-1, -2, -1, 0, 1, -2], [0, 0, -1, 1, -1, -1], labelled=1)
    figures = scores.detector_metrics(SCORE, some)
    assert figures == {
        "detector_accuracy": 0.25,
        "detector_accuracy_labelled": 0.0,
        "detector_accuracy_real": 0.0,
        "detector_accuracy_synthetic": 0.5,
        "detector_balanced_accuracy": 0.25,
        "detector_auroc": 0.25,
    }
    assert scores.detector_groups(SCORE, some) == {
        "detector_accuracy_per_class": [0.0, 0.0, None, None],
        "detector_accuracy_per_generator": {"real": 0.0, "g": 0.0, "h": 1.0},
    }
    known = {"origins": 4, "classes": 3, "queue": 0, "images": 6}
    assert scores.known_counts(None, some) == known


def test_labelled_images_alone_are_no_truth_about_the_others():
    none = task([-1, -1, -2, -2, -2, -2], [0, 1, -1, -1, -1, -1], labelled=2)
    figures = scores.detector_metrics(SCORE, none)
    assert figures.pop("detector_accuracy_labelled") == 0.5
    assert set(figures.values()) == {None}
    assert set(scores.detector_groups(SCORE, none).values()) == {None}
    rows = {"confidence": SCORE["synthetic_score"], "predicted": np.zeros(6, int)}
    figures = scores.pseudo_label_metrics(rows, none, 0.5)
    assert figures.pop("utilisation") == 0.5  # needs no truth
    assert set(figures.values()) == {None}
    known = {"origins": 0, "classes": 0, "queue": 0, "images": 6}
    assert scores.known_counts(None, none) == known


def test_pseudo_label_figures():
    rows = {
        "confidence": np.array([0.99, 0.96, 0.5, 0.97]),
        "predicted": np.array([0, 1, 2, 3]),
    }
    labels = [0, 0, 2, 3]
    figures = scores.pseudo_label_metrics(rows, task([-1, -1, 0, 0], labels), 0.95)
    assert figures["pseudo_label_accuracy"] == pytest.approx(2 / 3)
    assert figures["pseudo_label_accuracy_real"] == 0.5
    assert figures["pseudo_label_accuracy_synthetic"] == 1.0
    assert figures["utilisation"] == 0.75
    assert figures["utilisation_real"] == 1.0
    assert figures["utilisation_synthetic"] == 0.5
    none = scores.pseudo_label_metrics(rows, task([-1] * 4, labels), 1.0)
    assert none["utilisation_real"] == 0.0
    assert none["utilisation_synthetic"] is None
    assert none["pseudo_label_accuracy"] is None


def test_calibration_by_loops():
    """Guo et al., Eq. 3, image by image."""
    rng = np.random.default_rng(3)
    confidence = np.append(rng.uniform(0.1, 1, 300), [0.15, 1.0]).astype(np.float32)
    predicted = rng.integers(0, 4, 302)
    labels = np.where(rng.uniform(size=302) < confidence, predicted, 3 - predicted)
    bins, ece = scores.calibration(
        {"confidence": confidence, "predicted": predicted}, labels
    )
    members = [[] for _ in range(15)]
    for i, p in enumerate(confidence):
        (of_image,) = [m for m in range(15) if m / 15 < float(p) <= (m + 1) / 15]
        members[of_image].append(i)
    expected = 0
    for m, images in enumerate(members):
        assert bins["count"][m] == len(images)
        if images:
            accuracy = sum(predicted[i] == labels[i] for i in images) / len(images)
            mean = sum(float(confidence[i]) for i in images) / len(images)
            expected += len(images) / 302 * abs(accuracy - mean)
            assert bins["accuracy"][m] == pytest.approx(accuracy)
            assert bins["confidence"][m] == pytest.approx(mean)
        else:
            assert bins["accuracy"][m] is None
    assert ece == pytest.approx(expected)
    assert not members[0] and len(members[2]) > 0


def six():
    """Six unlabelled images of three classes, four of them synthetic; six test ones."""
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 4, 4, 3), np.uint8
    )
    return dataclasses.replace(
        task([-1, -1, 0, 0, 1, 1], [0, 0, 1, 1, 0, 1], labelled=1),
        class_names=("a", "b", "c"),
        unl_images=images,
        test_images=images + 100,
        test_labels=np.array([0, 0, 1, 1, 0, 2]),
    )


SCORES = {"synthetic_score": np.array([0.9, 0.6, 0.2, 0.7, 0.8, 0.1])}


def test_detector_by_class_and_by_origin():
    figures = scores.detector_groups(SCORES, six())
    assert figures["detector_accuracy_per_class"] == [
        pytest.approx(1 / 3),
        pytest.approx(1 / 3),
        None,
    ]
    assert figures["detector_accuracy_per_generator"] == {"real": 0, "g": 0.5, "h": 0.5}
    assert set(scores.detector_groups({}, six()).values()) == {None}


def test_worst_mistakes_come_first():
    unlabelled = {**SCORES, "predicted": np.array([0, 1, 2, 0, 1, 2], np.int32)}
    test = {
        "predicted": np.array([1, 1, 1, 0, 0, 0], np.int32),
        "confidence": np.array([0.5, 0.9, 0.3, 0.8, 0.4, 0.7], np.float32),
    }
    figures = mistakes.collect(six(), test, unlabelled)
    assert figures.of.tolist() == ["detector"] * 4 + ["classifier"] * 4
    # real 0 (.9), real 1 (.6); synthetic 5 (.1), 2 (.2); the pair 0 -> 1 came twice
    assert figures.index.tolist() == [0, 1, 5, 2, 1, 0, 3, 5]
    assert figures.labels.tolist() == [0, 0, 1, 1, 0, 0, 1, 2]
    assert figures.predicted.tolist() == [0, 1, 2, 2, 1, 1, 0, 0]
    assert figures.origin.tolist() == ["real", "real", "h", "g", *["real"] * 4]
    np.testing.assert_allclose(
        figures.score, [0.9, 0.6, 0.1, 0.2, 0.9, 0.5, 0.8, 0.7], rtol=1e-6
    )
    shown = [0, 1, 5, 2, 101, 100, 103, 105]
    np.testing.assert_array_equal(figures.images[:, 0, 0, 0], shown)
    right = {"predicted": six().test_labels, "confidence": test["confidence"]}
    assert not len(
        mistakes.collect(six(), right, {"predicted": right["predicted"]}).index
    )


def test_mistakes_survive_saving(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 200, 200, 3), np.uint8)
    rows = {
        "synthetic_score": np.array([0.9, 0.1]),
        "predicted": np.array([1, 0], np.int32),
        "confidence": np.array([0.5, 0.9], np.float32),
    }
    large = dataclasses.replace(
        task([-1, -1]),
        unl_images=images,
        test_images=images,
        test_labels=np.zeros(2, int),
    )
    figures = mistakes.collect(large, rows, rows)
    assert figures.images.shape == (2, 66, 66, 3)
    assert figures.images[0, 1, 2, 0] == int(images[0, 3:6, 6:9, 0].mean())
    (tmp_path / "m.npz").write_bytes(figures.to_bytes())
    back = mistakes.read(str(tmp_path / "m.npz"))
    for name, value in vars(figures).items():
        np.testing.assert_array_equal(value, getattr(back, name))
    assert mistakes.read(str(tmp_path / "none.npz")) is None
    (tmp_path / "bad.npz").write_bytes(figures.to_bytes()[:100])
    with pytest.raises(RequestError, match=r"bad\.npz cannot be read"):
        mistakes.read(str(tmp_path / "bad.npz"))


def test_queue_figures_look_up_the_truth():
    two = {"class_names": ("a", "b")}
    truth = dataclasses.replace(task([-1, -1, 0, -1, -1, 0]), **two)
    queue = csqueue.create(2, 3, (4, 4, 3)).replace(
        indices=jnp.array([[5, 1, -1], [2, -1, -1]], jnp.int32)
    )
    figures = scores.queue_metrics(queue, truth)
    assert figures == {"queue_purity": pytest.approx(2 / 3), "queue_fill": 0.5}
    per_class = scores.queue_purity_per_class
    assert per_class(queue, truth) == [0.5, 1.0]
    assert per_class(queue, task(truth.unl_origins)) is None  # not a queue per class
    assert per_class(queue, dataclasses.replace(task([-1] * 6), **two)) is None
    assert per_class(None, truth) is None
    none = scores.queue_metrics(None, truth)
    assert none == {"queue_purity": None, "queue_fill": None}
    # 5 and 1 are of unknown origin now: the first class has no image to count.
    some = dataclasses.replace(task([-1, -2, 0, -1, -1, -2]), **two)
    assert scores.queue_metrics(queue, some)["queue_purity"] == 1.0
    assert per_class(queue, some) == [None, 1.0]
    assert scores.known_counts(queue, some)["queue"] == 1
    unknown = dataclasses.replace(task([-1] + [-2] * 5, labelled=1), **two)
    figures = scores.queue_metrics(queue, unknown)
    assert figures == {"queue_purity": None, "queue_fill": 0.5}


def picture_length(name):
    return round(contact_sheet.font(11).getlength(name))


def test_queue_picture_frames_and_places(tmp_path):
    """Every tile of 96 pixels in its place, in a frame of 3, 2 pixels apart. Frames
    differ without colour, too: even, and with stripes of two widths."""
    indices, path = np.array([[5, 1, -1], [2, 4, -1]]), str(tmp_path / "queue.png")
    images = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1) * 40
    images = np.broadcast_to(images, (2, 3, 8, 8, 3))
    truth = dataclasses.replace(task([-1, -1, 0, -1, -2, 1]), class_names=("a", "b"))

    def drawn(images, indices):
        queue = csqueue.CSQueue(images, indices, *np.zeros((2, len(indices)), int))
        picture = queue_picture.draw_queue(path, queue, truth, "title")
        np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
        return picture

    picture = drawn(images, indices)
    frames = {
        name: ImageColor.getrgb(getattr(queue_picture, name))
        for name in ("REAL", "SYNTHETIC", "UNKNOWN")
    }
    step, top, empty, size = 104, 56, (235, 235, 235), 102
    slant = np.add.outer(np.arange(size), np.arange(size))
    stripes = {frames["REAL"]: slant // 4 % 2, frames["UNKNOWN"]: slant // 2 % 2}
    left = 24 + picture_length("b")
    for row, column, frame, value in (
        (0, 0, frames["SYNTHETIC"], 0),
        (0, 1, frames["REAL"], 40),
        (0, 2, empty, 235),
        (1, 0, frames["SYNTHETIC"], 120),
        (1, 1, frames["UNKNOWN"], 160),
        (1, 2, empty, 235),
    ):
        y, x = top + row * step, left + column * step
        expected = np.full((size, size, 3), frame)
        expected[stripes.get(frame, slant * 0) == 1] = 255
        expected[3:-3, 3:-3] = value
        np.testing.assert_array_equal(picture[y : y + size, x : x + size], expected)
    # The dark twin has the same pictures and frames on another ground.
    dark = np.asarray(Image.open(tmp_path / "queue.dark.png"))
    for x in (left, left + step):
        tile = slice(top, top + size), slice(x, x + size)
        np.testing.assert_array_equal(dark[tile], picture[tile])
    assert dark.shape == picture.shape and (dark[0, 0] < 30).all()
    # A single queue for all classes fills as many rows.
    one = drawn(images.reshape(1, 6, 8, 8, 3), indices.reshape(1, 6))
    left_of_one = 24 + picture_length("all classes")
    np.testing.assert_array_equal(
        one[top:-12, left_of_one:][:, : 3 * step],
        picture[top:-12, left:][:, : 3 * step],
    )
    # Seven slots: four in the first row, three in the last.
    seven = drawn(
        np.concatenate([images.reshape(6, 8, 8, 3), images[0, :1]])[None],
        np.append(indices.reshape(6), 4)[None],
    )
    first, last = (seven[y, left_of_one:] for y in (top, top + step))
    np.testing.assert_array_equal(first[3 * step], frames["SYNTHETIC"])
    np.testing.assert_array_equal(last[2 * step], frames["UNKNOWN"])
    assert (last[3 * step : 4 * step - 2] == 255).all()


@pytest.mark.parametrize(
    "figures",
    [
        {"test_accuracy": [0.5, 0.7, 0.7, 0.6]},
        {"test_accuracy": [0.9, 0.5, 0.7], "validation_accuracy": [0.1, 0.6, 0.6]},
    ],
)
def test_best_is_strictly_better_and_validation_decides(figures):
    record, bests = Record(), []
    for step, values in enumerate(zip(*figures.values(), strict=True), start=1):
        metrics = dict(zip(figures, values, strict=True))
        bests.append(record.add_evaluation(10 * step, metrics))
    assert bests == [True, True, False, False][: len(bests)]
    assert record.best_step == 20
