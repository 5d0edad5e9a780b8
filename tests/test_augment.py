"""The on-device weak view: every picture is one of numpy's crops, at the right rate."""

import jax
import numpy as np
import pytest

from rsmatch_jax import augment


def all_crops(image, pad, flip):
    size = image.shape[0]
    padded = np.pad(image, [(pad, pad), (pad, pad), (0, 0)], mode="reflect")
    for dy in range(2 * pad + 1):
        for dx in range(2 * pad + 1):
            crop = padded[dy : dy + size, dx : dx + size]
            yield (dy, dx, False), crop
            if flip:
                yield (dy, dx, True), crop[:, ::-1]


@pytest.mark.parametrize(("pad", "flip"), [(1, True), (2, False), (0, True)])
def test_views_are_reflected_crops_uniformly_drawn(pad, flip):
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    n = 3000
    views = augment.weak_view(
        jax.random.key(1), np.broadcast_to(image, (n, 6, 6, 3)), flip=flip, crop_pad=pad
    )
    seen = {}
    for view in np.asarray(views):
        seen[view.tobytes()] = seen.get(view.tobytes(), 0) + 1
    crops = {
        np.ascontiguousarray(c).tobytes(): k for k, c in all_crops(image, pad, flip)
    }
    assert views.dtype == np.uint8
    assert seen.keys() == crops.keys()
    expected = n / len(crops)
    chi2 = sum((count - expected) ** 2 / expected for count in seen.values())
    degrees = len(crops) - 1
    assert chi2 < degrees + 5 * np.sqrt(2 * degrees)
