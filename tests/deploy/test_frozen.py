"""The model of a workdir equals a plain forward pass."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import encoded_sets, pictures, workdirs
from support.helpers import TINY, assert_bit_equal

from rsmatch_jax.data import normalise
from rsmatch_jax.data.stores import encoded
from rsmatch_jax.deploy import frozen, saved
from rsmatch_jax.engine import experiment
from rsmatch_jax.errors import RequestError
from rsmatch_jax.models import networks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("inference") / "run"


@pytest.fixture(scope="module")
def run(folder):
    """(experiment, {step: state}) of the workdir."""
    return workdirs.make(folder, steps=(3, 7), **TINY)


@pytest.fixture(scope="module")
def model(folder, run):
    """Of the last step, four images at a time."""
    return frozen.load(str(folder), batch_size=4)


def noise(count, size=8):
    return pictures.noise(count, size, size, 3, seed=count)


def by_hand(exp, state, network, head, images):
    """(features, probabilities), by Flax's modules, with the normalisation by hand."""
    mean, std = normalise.normalisation("fake")
    x = (images / np.float32(255) - np.float32(mean)) / np.float32(std)
    scaled = jnp.asarray(x, jnp.float32)
    net = networks.make(
        getattr(exp.config.model, network),
        exp.method.heads(exp.dims.num_classes)[network],
        dtype=jnp.dtype(exp.config.model.dtype),
    )
    output, _ = net.apply(state.ema[network], state.stats[network], scaled, False)
    return output.features, jax.nn.softmax(output.logits[head])


@pytest.mark.parametrize(("step", "number"), [("last", 7), ("best", 3)])
def test_numbers_are_a_plain_forward_pass(folder, run, step, number):
    """EMA weights and running statistics of that step; the last batch is padded."""
    exp, states = run
    model = frozen.load(str(folder), step, batch_size=4)
    assert (model.step, model.image_size, model.central) == (number, 8, False)
    assert model.class_names == tuple(f"class_{k}" for k in range(10))
    images = noise(9)
    output = model.predict(images)
    assert output.probabilities.max() < 0.99  # there is something to compare
    assert len(np.unique(output.synthetic_scores.round(4))) > 1
    for part, network, head in (
        ("classifier", "classifier", "real"),
        ("detector", "detector", "detector"),
    ):
        features, p = by_hand(exp, states[number], network, head, images)
        np.testing.assert_allclose(model.probabilities(images, part), p, atol=1e-6)
        got = model.features(images, part)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, features, rtol=1e-5, atol=1e-5)
        if part == "classifier":
            np.testing.assert_allclose(output.probabilities, p, atol=1e-6)
            np.testing.assert_array_equal(output.labels, np.argmax(p, 1))
        else:
            np.testing.assert_allclose(output.synthetic_scores, p[:, 1], atol=1e-6)


def test_any_number_of_images(folder, run):
    """Batch sizes of programs are powers of two up to the model's."""
    model, images = frozen.load(str(folder), batch_size=6), noise(13)
    p = model.predict(images).probabilities
    for count in (0, 1, 2, 3, 4, 5, 6, 7):
        output = model.predict(images[:count])
        assert output.probabilities.shape == (count, 10)
        assert output.synthetic_scores.shape == (count,)
        assert model.features(images[:count]).shape == (count, 16)
        np.testing.assert_allclose(output.probabilities, p[:count], atol=1e-6)
    assert {key[1] for key in model._programs} == {1, 2, 4, 6}


def test_a_stream_of_batches(model):
    images = noise(23)
    ends = [0, 4, 5, 8, 12, 16, 19, 23]
    batches = [images[a:b] for a, b in zip(ends, ends[1:], strict=False)]
    output = list(model.predict_batches(iter(batches)))
    assert [len(x.probabilities) for x in output] == [len(x) for x in batches]
    np.testing.assert_allclose(
        np.concatenate([x.probabilities for x in output]),
        model.predict(images).probabilities,
        atol=1e-6,
    )
    with pytest.raises(RequestError, match="5 images is larger than the batch size 4"):
        list(model.predict_batches(iter([noise(5)])))


def test_it_takes_the_first_device_alone(folder, run):
    first = jax.local_devices()[0]
    model = frozen.load(str(folder))
    assert model.run.exp.devices == [first]
    variables = [(part.params, part.stats) for part in model.parts.values()]
    assert {d for x in jax.tree.leaves(variables) for d in x.devices()} == {first}
    assert model.run.state is None  # no queue beside the networks
    # A run opened on more devices gives the same predictions.
    many = frozen.Model(saved.load(str(folder), devices=jax.local_devices()[:2]))
    np.testing.assert_allclose(
        many.predict(noise(3)).probabilities,
        model.predict(noise(3)).probabilities,
        atol=1e-6,
    )


@pytest.mark.parametrize("name", ["supervised", "simmatch"])
def test_runs_without_a_detector(tmp_path, name):
    workdirs.make(tmp_path / "r", **TINY, **{"method.name": name})
    model = frozen.load(str(tmp_path / "r"))
    assert model.predict(noise(2)).synthetic_scores is None
    assert model.predict(noise(0)).synthetic_scores is None
    assert set(model.parts) == {"classifier"}
    with pytest.raises(RequestError, match="no detector; it has classifier"):
        model.features(noise(2), "detector")


def test_a_detector_on_the_classifiers_encoder(tmp_path):
    exp, states = workdirs.make(
        tmp_path / "r", **TINY, **{"method.rsmatch.individual_models": False}
    )
    images = noise(3)
    model = frozen.load(str(tmp_path / "r"))
    _, p = by_hand(exp, states[7], "classifier", "detector", images)
    output = model.predict(images)
    np.testing.assert_allclose(output.synthetic_scores, p[:, 1], atol=1e-6)


def test_bfloat16_is_honoured_and_probabilities_are_float32(tmp_path):
    exp, states = workdirs.make(tmp_path / "r", **TINY, **{"model.dtype": "bfloat16"})
    images = noise(6)
    output = frozen.load(str(tmp_path / "r")).predict(images)
    assert output.probabilities.dtype == output.synthetic_scores.dtype == np.float32
    np.testing.assert_allclose(output.probabilities.sum(1), 1, atol=1e-6)
    _, p = by_hand(exp, states[7], "classifier", "real", images)
    np.testing.assert_allclose(output.probabilities, p, atol=0.01)
    exp, _ = workdirs.make(tmp_path / "float32", **TINY)  # the same numbers in float32
    _, q = by_hand(exp, states[7], "classifier", "real", images)
    assert 1e-5 < np.abs(output.probabilities - q).max() < 0.1


@pytest.mark.parametrize(
    "images",
    [
        noise(1)[0],
        noise(2).astype(np.float32),
        noise(2, 9),
        noise(2)[..., :1],
        np.zeros((2, 3)),
        np.zeros(0),
        np.zeros((), np.uint8),
    ],
    ids=lambda x: f"{x.dtype} {x.shape}",
)
def test_other_arrays_are_refused(model, images):
    for ask in (model.predict, model.features, model.probabilities):
        with pytest.raises(RequestError, match=r"takes uint8 \('N', 8, 8, 3\)"):
            ask(images)


def test_a_batch_size_below_one_is_refused(folder, run):
    with pytest.raises(RequestError, match="batch_size=0: .*1 or more"):
        frozen.load(str(folder), batch_size=0)


def test_what_a_run_writes_is_what_is_restored(folder, run):
    """Shapes without values suffice to restore the state, including the typed key."""
    exp, states = run
    task = experiment.load_task(exp.config)
    output = saved.load(str(folder))
    names = output.dataset, output.class_names, output.generator_names
    assert names == ("fake", task.class_names, ("generator_a", "generator_b"))
    assert output.exp.dims == experiment.task_dims(exp.config, task)
    assert vars(saved.load_task(output).split).keys() == vars(task.split).keys()
    assert_bit_equal(output.state, states[7])


data = functools.partial(workdirs.change, "data.json")
config = functools.partial(workdirs.change, "config.json")
ANOTHER = "of another method, model or version"
UNFIT = {
    "no_data": (workdirs.remove("data.json"), "has no data.json.*version"),
    "garbled": (workdirs.write("data.json", b"{"), "data.json cannot be re"),
    "empty": (workdirs.write("data.json", b"{}"), "not that of this version"),
    "names": (data(class_names=["a"]), "1 names of 10 classes"),
    "no_names": (data(class_names=None), "not that of this version"),
    "generators": (data(generator_names=[3]), "not that of this version"),
    "dims": (data("dims", num_labeled="many"), "not that of this version"),
    "more_dims": (data("dims", depth=3), "not that of this version.*depth"),
    "classes": (data("dims", num_classes=9), "10 names of 9 classes"),
    "method": (config("method", name="fixmatch"), f"{ANOTHER}.*is there"),
    "more": (config("method", name="simmatch"), f"{ANOTHER}.*"),
    "model": (config("model", classifier="wrn_10_2"), f"{ANOTHER}.*has shape"),
    "queue": (config("method", "rsmatch", queue_length=5), f"{ANOTHER}.*queue.*shape"),
    "key": (config(eval={}), "config.json lacks eval.*use the version"),
    "null": (config("train", batch_size=None), "lacks train.batch_size"),
    "word": (config("train", batch_size="many"), "config.json.*batch_size.*many"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_runs_that_do_not_fit_are_refused(folder, run, tmp_path, case):
    """tests/engine/test_bad_requests.py has runs that are no runs at all."""
    damage, words = UNFIT[case]
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy)
    with pytest.raises(RequestError, match=f"(?s){words}"):
        frozen.load(str(copy))


def test_files_of_encoded_runs_are_read_as_their_evaluation_does(tmp_path):
    exp, states = workdirs.make_encoded(tmp_path / "r", 16)
    paths, views = [], []
    for number, data in enumerate(encoded_sets.files(6, first=0)):
        paths.append(str(tmp_path / f"{number}.jpg"))
        (tmp_path / f"{number}.jpg").write_bytes(data)
        views.append(encoded.evaluation_view(data, 16))
    model = frozen.load(str(tmp_path / "r"), batch_size=4)
    assert model.central
    np.testing.assert_array_equal(model.read(paths), views)
    (tmp_path / "3.jpg").write_bytes(b"")
    with pytest.raises(RequestError, match="3.jpg: an empty file"):
        model.read(paths)
    assert model.read([]).shape == (0, 16, 16, 3)
