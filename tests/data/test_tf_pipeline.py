"""The host input path: what a step holds, and that only (seed, step) decides it."""

import itertools
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tensorflow as tf

from rsmatch_jax.augment import views
from rsmatch_jax.data import sampler, tf_pipeline
from rsmatch_jax.errors import RequestError

SPEC = views.ViewSpec(flip=True, crop_pad=1, randaugment_ops=2, cutout=True)
PLAIN = views.ViewSpec(flip=False, crop_pad=0, randaugment_ops=0, cutout=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Labelled images, labels, and unlabelled images in a read-only memory map."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("arrays") / "images.npy"
    np.save(path, rng.integers(0, 256, (50, 8, 8, 3)).astype(np.uint8))
    lab_images = rng.integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    return lab_images, np.arange(12) % 3, np.load(path, mmap_mode="r")


def batches(data, spec=SPEC, **changes):
    settings = {
        "seed": 0,
        "batch_size": 4,
        "unlabeled_ratio": 3,
        "start_step": 0,
        "num_steps": 6,
        "prefetch": 2,
    }
    return tf_pipeline.batches(*data, spec, **{**settings, **changes})


def assert_equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_shapes_types_and_contents_of_a_batch(data):
    lab_images, labels, unl_images = data
    taken = list(batches(data, PLAIN))
    assert len(taken) == 6
    for step, batch in enumerate(taken):
        assert {
            n: (x.dtype.name, x.shape)
            for n, x in vars(batch).items()
            if n != "synthetic"
        } == {
            "lab": ("uint8", (4, 8, 8, 3)),
            "labels": ("int32", (4,)),
            "lab_indices": ("int32", (4,)),
            "weak": ("uint8", (12, 8, 8, 3)),
            "strong": ("uint8", (12, 8, 8, 3)),
            "indices": ("int32", (12,)),
        }
        lab_at = sampler.step_indices(0, "labelled", step, 12, 4)
        unl_at = sampler.step_indices(0, "unlabelled", step, 50, 12)
        np.testing.assert_array_equal(batch.lab_indices, lab_at)
        np.testing.assert_array_equal(batch.indices, unl_at)
        np.testing.assert_array_equal(batch.labels, labels[lab_at])
        np.testing.assert_array_equal(batch.lab, lab_images[lab_at])
        np.testing.assert_array_equal(batch.weak, unl_images[unl_at])
        np.testing.assert_array_equal(batch.strong, unl_images[unl_at])
        assert batch.synthetic is None


def test_a_batch_depends_on_seed_and_step_alone(data):
    whole = list(batches(data, num_steps=9))
    for start, prefetch, parallel_steps in ((0, 0, 1), (4, 5, 3)):
        part = batches(
            data,
            start_step=start,
            num_steps=9,
            prefetch=prefetch,
            parallel_steps=parallel_steps,
        )
        for got, want in zip(part, whole[start:], strict=True):
            assert_equal(got, want)


def test_a_slow_read_does_not_change_the_order_of_steps(data):
    class SlowAtFirst:
        shape, calls = data[0].shape, 0

        def __getitem__(self, at):
            self.calls += 1
            time.sleep(0.3 if self.calls == 1 else 0)
            return data[0][at]

    slow = (SlowAtFirst(), *data[1:])
    for step, batch in enumerate(batches(slow, PLAIN, parallel_steps=3)):
        want = sampler.step_indices(0, "unlabelled", step, 50, 12)
        np.testing.assert_array_equal(batch.indices, want)


def test_a_step_in_a_later_epoch_can_be_the_first(data):
    both = list(batches(data, PLAIN, start_step=1023, num_steps=1025))
    (second,) = batches(data, PLAIN, start_step=1024, num_steps=1025)
    assert len(both) == 2
    assert_equal(both[1], second)


def test_views_differ_from_each_other_by_step_and_by_seed(data):
    crops = views.ViewSpec(flip=True, crop_pad=3, randaugment_ops=0, cutout=False)
    one_image = data[0][:1], data[1][:1], np.array(data[2][:1])
    base, later = itertools.islice(batches(one_image, crops), 2)
    other = next(batches(one_image, crops, seed=1))
    rows = [base.weak, base.strong, later.weak, later.strong, other.weak, other.strong]
    for a, b in itertools.combinations(rows, 2):
        # The same single image throughout: equal rows are equal crops, 1 in 98.
        assert (a == b).all(axis=(1, 2, 3)).mean() < 0.3


def test_labelled_images_get_the_weak_view_only(data):
    strong = views.ViewSpec(flip=False, crop_pad=0, randaugment_ops=3, cutout=True)
    batch = next(batches(data, strong))
    np.testing.assert_array_equal(batch.lab, data[0][batch.lab_indices])
    np.testing.assert_array_equal(batch.weak, data[2][batch.indices])
    changed = (batch.strong != batch.weak).any(axis=(1, 2, 3))
    assert changed.mean() > 0.8


def test_grey_images_are_repeated_to_three_channels(data):
    lab, labels, unl = data
    batch = next(batches((lab[..., :1], labels, unl[..., :1]), PLAIN))
    for images, source, at in (
        (batch.lab, lab, batch.lab_indices),
        (batch.weak, unl, batch.indices),
    ):
        want = np.repeat(source[at][..., :1], 3, axis=3)
        np.testing.assert_array_equal(images, want)


def test_flags_come_only_when_passed_in(data):
    flags = np.arange(50) % 2 == 1
    batch = next(batches(data, PLAIN, synthetic=flags))
    assert batch.synthetic.dtype == bool
    np.testing.assert_array_equal(batch.synthetic, batch.indices % 2 == 1)
    without = next(batches(data, PLAIN))
    assert_equal(batch.replace(synthetic=None), without)


def test_a_run_without_unlabelled_images(data):
    spec = views.ViewSpec(flip=True, crop_pad=1, randaugment_ops=1, cutout=True)
    batch = next(batches(data, spec, unlabeled_ratio=0))
    assert batch.strong.shape == batch.weak.shape == (0, 8, 8, 3)
    assert_equal(batch.lab, next(batches(data, spec)).lab)


def test_crop_padding_as_wide_as_the_image_is_refused(data):
    wide = views.ViewSpec(flip=True, crop_pad=8, randaugment_ops=0, cutout=False)
    with pytest.raises(RequestError, match="input.crop_pad=8.*at most 7"):
        batches(data, wide)


ABANDONED = """
import time
import numpy as np
from rsmatch_jax.augment import views
from rsmatch_jax.data import tf_pipeline

class Slow:
    shape = (50, 8, 8, 3)

    def __getitem__(self, at):
        time.sleep(0.2)
        return np.zeros((len(at), 8, 8, 3), np.uint8)

stream = tf_pipeline.batches(
    Slow(), np.zeros(50, np.int32), Slow(), views.ViewSpec(False, 0, 0, False), seed=0,
    batch_size=4, unlabeled_ratio=1, start_step=0, num_steps=10**6, prefetch=3,
    parallel_steps=4,
)
next(stream)
raise KeyError("the run fails while images are being read")
"""


def test_a_program_can_end_in_the_middle_of_the_stream():
    ended = subprocess.run(
        [sys.executable, "-c", ABANDONED], capture_output=True, text=True, timeout=90
    )
    assert ended.returncode == 1 and "while images are being read" in ended.stderr


def test_tensorflow_sees_no_accelerator():
    assert tf.config.get_visible_devices("GPU") == []
