"""Input from the host, of arrays and encoded images: (seed, step) decides a batch."""

import importlib
import time

import jax
import numpy as np
import pytest
import tensorflow as tf
from support import pictures, processes

from rsmatch_jax.augment import views
from rsmatch_jax.data import sampler, tf_augment, tf_pipeline
from rsmatch_jax.data.stores import tf_import
from rsmatch_jax.data.stores.encoded import EncodedImages

SPEC = views.ViewSpec(flip=True, crop_pad=1, randaugment_ops=2, cutout=True)
PLAIN = views.ViewSpec(flip=False, crop_pad=0, randaugment_ops=0, cutout=False)
STRONG = views.ViewSpec(flip=False, crop_pad=0, randaugment_ops=3, cutout=True)
CROPS = views.ViewSpec(flip=True, crop_pad=3, randaugment_ops=0, cutout=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Labelled images, labels, and unlabelled images in a read-only memory map."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("arrays") / "images.npy"
    np.save(path, rng.integers(0, 256, (50, 8, 8, 3)).astype(np.uint8))
    lab_images = rng.integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    return lab_images, np.arange(12) % 3, np.load(path, mmap_mode="r")


class Files(EncodedImages):
    """PNG files of 8 x 8 pixels, in memory."""

    def read(self, index):
        return pictures.encode(pictures.smooth(int(index), 8, 8))


def files(count):
    return Files((), np.zeros((count, 3), np.int64), 8)


@pytest.fixture(params=["arrays", "encoded"])
def both(request, data):
    """The arrays, or files of as many images."""
    return data if request.param == "arrays" else (files(12), data[1], files(50))


def batches(data, spec=SPEC, **changes):
    settings = {"seed": 0, "batch_size": 4, "unlabelled_rows": 12}
    settings |= {"start_step": 0, "num_steps": 6, "prefetch": 2}
    return tf_pipeline.batches(*data, spec, **{**settings, **changes})


def assert_equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_shapes_types_and_contents_of_a_batch(data):
    lab_images, labels, unl_images = data
    taken = list(batches(data, STRONG))
    assert len(taken) == 6
    for step, batch in enumerate(taken):
        fields = {n: x for n, x in vars(batch).items() if x is not None}
        view, index = ("uint8", (12, 8, 8, 3)), ("int32", (4,))
        assert {n: (x.dtype.name, x.shape) for n, x in fields.items()} == {
            "lab": ("uint8", (4, 8, 8, 3)),
            "labels": index,
            "lab_indices": index,
            "weak": view,
            "strong": view,
            "indices": ("int32", (12,)),
        }
        lab_at = sampler.step_indices(0, "labelled", step, 12, 4)
        unl_at = sampler.step_indices(0, "unlabelled", step, 50, 12)
        np.testing.assert_array_equal(batch.lab_indices, lab_at)
        np.testing.assert_array_equal(batch.indices, unl_at)
        np.testing.assert_array_equal(batch.labels, labels[lab_at])
        np.testing.assert_array_equal(batch.lab, lab_images[lab_at])
        np.testing.assert_array_equal(batch.weak, unl_images[unl_at])
        assert (batch.strong != batch.weak).any(axis=(1, 2, 3)).mean() > 0.7


def test_a_batch_depends_on_seed_and_step_alone(both, monkeypatch):
    all_steps = list(batches(both))
    for start, prefetch, parallel_steps in ((0, 0, 1), (3, 5, 3)):
        monkeypatch.setattr(tf_pipeline, "PARALLEL", parallel_steps)
        part = batches(both, start_step=start, prefetch=prefetch)
        for got, want in zip(part, all_steps[start:], strict=True):
            assert_equal(got, want)
    assert (next(batches(both, seed=4)).weak != all_steps[0].weak).any()
    assert (all_steps[0].weak != all_steps[1].weak).any()


def test_a_second_weak_view_changes_nothing_else(both):
    one, two = (list(batches(both, weak_views=n)) for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert a.weak2 is None
        assert_equal(b.replace(weak2=None), a)
        assert b.weak2.dtype == np.uint8 and b.weak2.shape == b.weak.shape
    again = next(batches(both, weak_views=2, start_step=5))
    assert_equal(again.weak2, two[5].weak2)


def test_the_second_weak_view_is_an_independent_draw_of_the_weak_law(data):
    batch = next(batches(data, CROPS, weak_views=2))
    numbers = tf_augment.draw(0, 0, "weak2", 12, CROPS)
    want = tf_augment.weak(tf.constant(data[2][batch.indices]), numbers, CROPS)
    np.testing.assert_array_equal(batch.weak2, want)
    assert (batch.weak2 != batch.weak).any(axis=(1, 2, 3)).mean() > 0.8


@pytest.mark.parametrize("lab_rows", [[1, 3], [0, 2], [2]])
@pytest.mark.parametrize("unl_rows", [[7, 0, 5], [2, 3, 6, 7, 10, 11]])
def test_rows_of_the_global_batch(both, lab_rows, unl_rows):
    """To the bit, so that no result depends on the number of hosts."""
    rows = {4: lab_rows, 12: unl_rows}
    options = {"weak_views": 2, "synthetic": np.arange(50) % 3 == 0, "start_step": 3}
    all_rows = vars(next(batches(both, **options)))
    part = vars(next(batches(both, **options, own_rows=rows.__getitem__)))
    assert part.keys() == all_rows.keys()
    for name, value in all_rows.items():
        assert_equal(part[name], value[rows[len(value)]])


def test_flags_and_runs_without_unlabelled_images(both):
    flags, plain = np.arange(50) % 2 == 1, next(batches(both))
    batch = next(batches(both, synthetic=flags))
    assert batch.synthetic.dtype == bool
    np.testing.assert_array_equal(batch.synthetic, batch.indices % 2 == 1)
    assert_equal(batch.replace(synthetic=None), plain)
    batch = next(batches(both, unlabelled_rows=0))
    assert batch.strong.shape == batch.weak.shape == (0, 8, 8, 3)
    assert batch.indices.shape == (0,)
    assert_equal(batch.lab, plain.lab)


def test_a_slow_read_does_not_change_the_order_of_steps(data, monkeypatch):
    monkeypatch.setattr(tf_pipeline, "PARALLEL", 3)

    class SlowAtFirst:
        shape, calls = data[0].shape, 0

        def __getitem__(self, at):
            self.calls += 1
            time.sleep(0.3 if self.calls == 1 else 0)
            return data[0][at]

    slow = (SlowAtFirst(), *data[1:])
    for step, batch in enumerate(batches(slow, PLAIN)):
        want = sampler.step_indices(0, "unlabelled", step, 50, 12)
        np.testing.assert_array_equal(batch.indices, want)
        np.testing.assert_array_equal(batch.lab, data[0][batch.lab_indices])


def test_grey_images_are_repeated_to_three_channels(data):
    lab, labels, unl = data
    grey = next(batches((lab[..., :1], labels, unl[..., :1]), PLAIN))
    assert_equal(grey.lab, lab[grey.lab_indices][..., [0, 0, 0]])
    assert_equal(grey.weak, unl[grey.indices][..., [0, 0, 0]])


ABANDONED = """
import io
import sys
import time
import numpy as np
from PIL import Image
from rsmatch_jax.augment import views
from rsmatch_jax.data import tf_pipeline
from rsmatch_jax.data.stores import encoded

buffer = io.BytesIO()
Image.new("RGB", (8, 8)).save(buffer, "PNG")

class SlowArrays:
    shape = (50, 8, 8, 3)

    def __getitem__(self, at):
        time.sleep(0.2)
        return np.zeros((len(at), 8, 8, 3), np.uint8)

class SlowFiles(encoded.EncodedImages):
    def read(self, index):
        time.sleep(0.2)
        return buffer.getvalue()

files = SlowFiles((), np.zeros((50, 3), np.int64), 8)
images = SlowArrays() if sys.argv[1] == "arrays" else files
sizes = {"batch_size": 4, "unlabelled_rows": 4, "num_steps": 10**6, "prefetch": 3}
stream = tf_pipeline.batches(
    images, np.zeros(50, np.int32), images, views.ViewSpec(False, 0, 0, False),
    seed=0, start_step=0, **sizes,
)
next(stream)
raise KeyError("the run fails while images are being read")
"""


@pytest.mark.parametrize("kind", ["arrays", "encoded"])
def test_a_program_can_end_in_the_middle_of_the_stream(kind):
    process = processes.program(ABANDONED, kind)
    _, error = process.communicate(timeout=90)
    assert process.returncode == 1 and "while images are being read" in error


def test_tensorflow_sees_no_accelerator(monkeypatch):
    """On importing, whether there is one or not."""
    calls = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *x: calls.append(x))
    importlib.reload(tf_import)
    assert calls == [([], "GPU")]
