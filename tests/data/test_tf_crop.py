"""Views of encoded images: torchvision's crops, Pillow's pixels, damaged files.

See test_tf_pipeline.py for what holds of arrays and encoded images.
"""

import dataclasses
import itertools
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from data import test_tf_pipeline
from data.test_tf_pipeline import assert_equal
from PIL import Image
from support import encoded_sets, pictures
from support.pillow_oracle import torchvision_box

from rsmatch_jax.augment import views
from rsmatch_jax.data import sampler, sources, tf_augment, tf_crop
from rsmatch_jax.errors import RunFailed

SIZE, BATCH, RATIO = 16, 4, 2
CROPS = views.ViewSpec(True, 2, randaugment_ops=0, cutout=False, crop_area=0.3)
SPEC = views.ViewSpec(True, 2, randaugment_ops=2, cutout=True, crop_area=0.3)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    encoded_sets.write(root / "real", {"train": 24, "test": 4})
    encoded_sets.write(root / "pool", {"train": 32}, generators=("a", "b"), first=100)
    stored = {"cache_dir": str(root / "cache"), "image_size": SIZE}
    train, test = sources.load_real(str(root / "real"), **stored)
    pool = sources.load_pool(str(root / "pool"), **stored)
    return encoded_sets.task(train, test, pool, labels_per_class=2)


def batches(task, spec=SPEC, **changes):
    data = task.lab_images, task.lab_labels, task.unl_images
    settings = {"seed": 3, "unlabelled_rows": RATIO * BATCH, "num_steps": 5, **changes}
    return test_tf_pipeline.batches(data, spec, **settings)


# --- one crop ------------------------------------------------------------------------


draw_box = tf.function(tf_crop.box, reduce_retracing=True)


@pytest.mark.parametrize("least", [0.08, 0.5, 1.0])
def test_boxes_are_torchvisions(least):
    rng = np.random.default_rng(0)
    sides = [(60, 60), (31, 47), (500, 375), (1, 1), (2, 90), (90, 2), (64, 20)]
    fallbacks = 0
    for height, width in sides:
        for _ in range(40):
            u = rng.random((tf_crop.TRIES, 4))
            got = draw_box(u, tf.constant(height), tf.constant(width), least)
            want = torchvision_box(u, height, width, least)
            assert tuple(got.numpy()) == want
            fallbacks += want == torchvision_box(u[:0], height, width, least)
    assert fallbacks > 40  # some fitted, some did not


def test_boxes_stay_inside_at_the_ends_of_the_uniform_numbers():
    ends = [0.0, np.nextafter(1.0, 0)]
    for numbers in itertools.product(ends, repeat=4):
        u = np.tile(np.array(numbers), (tf_crop.TRIES, 1))
        top, left, h, w = draw_box(u, tf.constant(37), tf.constant(53), 0.08).numpy()
        assert 0 <= top <= 37 - h and 0 <= left <= 53 - w and h > 0 and w > 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decoding_equals_pillow(kind, mode):
    for number in range(4):
        data = pictures.encode(pictures.smooth(number, 41, 58).convert(mode), kind)
        np.testing.assert_array_equal(tf_crop.decode(data), pictures.decode(data))


def test_resizing_is_pillows_up_to_its_rounding():
    for number, (h, w) in enumerate([(16, 16), (40, 33), (300, 100), (7, 9), (1, 1)]):
        image = pictures.smooth(number, h + 5, w + 8)
        got = tf_crop.resized(np.asarray(image), [2, 3, h, w], SIZE).numpy()
        crop = image.crop((3, 2, 3 + w, 2 + h))
        want = np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        # Pillow rounds after each of its two passes.
        assert np.abs(got.astype(int) - want).max() <= 1
        if (h, w) == (SIZE, SIZE):
            np.testing.assert_array_equal(got, np.asarray(crop))


# --- batches -------------------------------------------------------------------------


def pillow_views(task, images, at, step, purpose, rows):
    """The crops of one step from the numbers of its law, by Pillow."""
    numbers = tf_augment.draw(3, step, purpose, rows, CROPS, tf_crop.TRIES)
    made = []
    for row, index in enumerate(at):
        image = Image.fromarray(pictures.decode(images.read(index)))
        top, left, h, w = torchvision_box(
            numbers["crop"][row].numpy(), image.height, image.width, CROPS.crop_area
        )
        crop = image.crop((left, top, left + w, top + h))
        view = np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        made.append(view[:, ::-1] if numbers["flip"][row] else view)
    return np.stack(made).astype(int)


def test_contents_of_a_batch(task):
    taken = list(batches(task, CROPS, weak_views=2))
    assert len(taken) == 5
    for step, batch in enumerate(taken):
        lab_at = sampler.step_indices(3, "labelled", step, 8, BATCH)
        unl_at = sampler.step_indices(3, "unlabelled", step, 24, BATCH * RATIO)
        np.testing.assert_array_equal(batch.lab_indices, lab_at)
        np.testing.assert_array_equal(batch.indices, unl_at)
        np.testing.assert_array_equal(batch.labels, task.lab_labels[lab_at])
        assert batch.labels.dtype == batch.indices.dtype == np.int32
        for got, images, at, purpose in (
            (batch.lab, task.lab_images, lab_at, "labelled"),
            (batch.weak, task.unl_images, unl_at, "weak"),
            (batch.weak2, task.unl_images, unl_at, "weak2"),
            (batch.strong, task.unl_images, unl_at, "strong"),
        ):
            want = pillow_views(task, images, at, step, purpose, len(at))
            assert got.dtype == np.uint8 and got.shape == want.shape
            assert np.abs(got.astype(int) - want).max() <= 1


def test_strong_views_are_crops_then_randaugment_then_cutout(task):
    crops, full = next(batches(task, CROPS)), next(batches(task, SPEC))
    for name in ("lab", "labels", "lab_indices", "weak", "indices"):
        assert_equal(getattr(full, name), getattr(crops, name))
    numbers = tf_augment.draw(3, 0, "strong", BATCH * RATIO, SPEC)
    want = tf.constant(crops.strong)
    for slot in range(2):
        ops, values = numbers["ops"][:, slot], numbers["values"][:, slot]
        want = tf_augment.apply_ops(want, ops, values)
    without = dataclasses.replace(SPEC, cutout=False)
    assert_equal(next(batches(task, without)).strong, want.numpy())
    assert_equal(full.strong, tf_augment.cutout(want, numbers["cutout"]).numpy())
    assert (full.strong != crops.strong).any(axis=(1, 2, 3)).mean() > 0.8


def test_a_damaged_image_ends_the_stream_with_its_place(task, tmp_path):
    images = task.unl_images
    file, offset, length = images.places[5].tolist()
    content = bytearray(pathlib.Path(images.files[file]).read_bytes())
    content[offset : offset + length] = bytes(length)
    broken = tmp_path / "broken"
    broken.write_bytes(content)
    files = [str(broken) if i == file else path for i, path in enumerate(images.files)]
    images = type(images)(tuple(files), images.places, SIZE)
    stream = batches(dataclasses.replace(task, unl_images=images), CROPS)
    at = [sampler.step_indices(3, "unlabelled", step, 24, 8) for step in range(5)]
    first = next(step for step in range(5) if 5 in at[step])
    assert len(list(itertools.islice(stream, first))) == first
    with pytest.raises(RunFailed, match=f"byte {offset} of {broken}"):
        next(stream)
