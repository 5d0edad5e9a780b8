"""Normalisation figures against the table and the data."""

import numpy as np
import pytest

from rsmatch_jax.data.normalise import normalisation
from rsmatch_jax.data.stores import arrays


def test_statistics():
    assert normalisation("cifar10")[0] == (0.485, 0.456, 0.406)
    assert normalisation("cifar100:3.0.2")[1][0] == pytest.approx(68.2 / 255)
    assert normalisation("some_set") == normalisation("cifar10")
    splits = [arrays.digits(split).images for split in ("train", "test")]
    digits = np.concatenate(splits) / 255
    mean, std = normalisation("digits")
    assert mean == pytest.approx([digits.mean()] * 3, abs=1e-3)
    assert std == pytest.approx([digits.std()] * 3, abs=1e-3)
