"""Tests how the difficulty of pictures is scored, chosen, drawn and measured."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from tiny_diffusion import TINY

from rsmatch_jax.data.stores import arrays
from rsmatch_jax.errors import RequestError
from rsmatch_jax.synthesis.ddpm import difficulty
from rsmatch_jax.synthesis.ddpm import settings as ddpm_settings


def noisy_classes(per_class=25, spread=60, seed=0):
    """Returns 4 x 4 pictures of three classes that overlap."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(3, dtype=np.int32), per_class)
    means = np.random.default_rng(9).integers(60, 200, (3, 4, 4, 1))
    levels = means[labels] + rng.normal(0, spread, (len(labels), 4, 4, 1))
    images = np.clip(levels, 0, 255).astype(np.uint8)
    return arrays.ImageArrays("three", images, labels, ("a", "b", "c"))


def test_each_image_is_scored_by_classifiers_that_have_not_seen_it():
    data = noisy_classes()
    got = difficulty.cross_fitted(data, labels_per_class=1000, seed=3)
    assert got.dtype == np.float32

    # With all labels all fits of a fold are alike.
    inputs, want = data.images.reshape(75, 16) / 255, np.zeros(75)
    folds = StratifiedKFold(difficulty.FOLDS, shuffle=True, random_state=3)
    for train, held_out in folds.split(inputs, data.labels):
        model = LogisticRegression(max_iter=100).fit(inputs[train], data.labels[train])
        for i in held_out:
            want[i] = 1 - model.predict_proba(inputs[i : i + 1])[0, data.labels[i]]
    np.testing.assert_allclose(got, want, atol=1e-3)

    seen = LogisticRegression(max_iter=100).fit(inputs, data.labels)
    p = seen.predict_proba(inputs)[np.arange(75), data.labels]
    assert (1 - p).mean() < got.mean()  # images that were seen look easier

    np.testing.assert_array_equal(got, difficulty.cross_fitted(data, 1000, seed=3))
    assert not np.array_equal(got, difficulty.cross_fitted(data, 1000, seed=4))


def test_few_labels_are_balanced_and_of_the_other_folds():
    labels = np.array([0, 1, 1, 0, 1, 0, 1, 2])
    rows = np.array([0, 1, 2, 3, 4, 7])
    chosen = difficulty.some(np.random.default_rng(0), labels, rows, 2)
    np.testing.assert_array_equal(labels[chosen], [0, 0, 1, 1, 2])
    assert set(chosen) <= set(rows)
    assert len(set(chosen)) == 5


def test_fewer_labels_make_the_scans_harder_and_spread_them():
    data = arrays.digits("train")
    few, many = (difficulty.cross_fitted(data, n, 0) for n in (10, 1000))
    assert np.mean(few > 0.3) > 0.4 > 0.2 > np.mean(many > 0.3)
    assert np.ptp(few) > 0.8
    assert difficulty.scale(few)[1] == "value"


def test_scores_without_spread_become_ranks():
    scores = np.array([0.01, 0.2, 0.02, 0.1, 0.02], np.float32)
    got, form = difficulty.scale(scores)
    assert form == "rank"
    np.testing.assert_allclose(got, [0, 1, 0.375, 0.75, 0.375])
    spread = np.array([0.31, *[0.1] * 9], np.float32)
    got, form = difficulty.scale(spread)
    assert form == "value"
    np.testing.assert_array_equal(got, spread)


def test_rare_difficulties_are_chosen_more_often():
    scores = np.array([0.0, 0.05, 0.09, 0.11, 0.99, 1.0])  # tenths of 3, 1 and 2
    np.testing.assert_allclose(difficulty.chances(scores, 0), np.full(6, 1 / 6))
    want = np.array([1, 1, 1, 3, 1.5, 1.5]) / 9
    np.testing.assert_allclose(difficulty.chances(scores, 1), want)
    root = np.array([3, 3, 3, 1, 2, 2]) ** -0.5
    np.testing.assert_allclose(difficulty.chances(scores, 0.5), root / root.sum())


def wanted(text, per_class=2000, seed=0):
    settings = dataclasses.replace(TINY, per_class=per_class, seed=seed)
    choice = ddpm_settings.wanted_difficulty(text)
    return difficulty.wanted(settings, noisy_classes(), choice)


def test_wanted_difficulties_are_normal_and_clipped():
    got = wanted("0.5")
    assert got.shape == (6000,)
    assert got.dtype == np.float32
    assert stats.kstest(got, stats.norm(0.5, 0.1).cdf).pvalue > 0.01
    got = wanted("0.9,0.2")
    assert got.min() >= 0
    assert got.max() == 1
    share = stats.norm(0.9, 0.2).sf(1)
    assert np.mean(got == 1) == pytest.approx(share, abs=0.03)
    assert (wanted("0.3,0") == np.float32(0.3)).all()
    assert stats.kstest(wanted("uniform"), stats.uniform.cdf).pvalue > 0.01
    np.testing.assert_array_equal(wanted("0.5"), wanted("0.5"))
    assert not np.array_equal(wanted("0.5"), wanted("0.5", seed=1))


@pytest.mark.parametrize(
    "text",
    ["", "hard", "0.5,", "0.5,0.1,0.2", "1.1", "-0.1", "nan", "0.5,-1", "0.5,inf"],
)
def test_wrong_difficulties_are_refused(text):
    with pytest.raises(RequestError, match="--difficulty.*cannot work: give"):
        ddpm_settings.wanted_difficulty(text)


def test_the_forest_measures_what_is_between_classes():
    data, names = noisy_classes(per_class=60, spread=25), ("a", "b", "c")
    means = np.stack([data.images[data.labels == c].mean(0) for c in range(3)])
    mixed = np.stack([means[0], 0.5 * means[0] + 0.5 * means[1], means[1]])
    labels = np.zeros(3, np.int32)  # all of class a
    pool = arrays.ImageArrays("pool", mixed.astype(np.uint8), labels, names)
    scores = difficulty.cross_fitted(data, 5, 0)
    measured, agreement = difficulty.measure(data, scores, pool, 0)
    assert measured[0] < 0.1 < measured[1] < 0.9 < measured[2]
    assert 0 < agreement < 1
    again, _ = difficulty.measure(data, scores, pool, 0)
    np.testing.assert_array_equal(measured, again)


def test_the_agreement_is_that_with_cross_validated_trees():
    data = noisy_classes(per_class=60)
    inputs, rows = data.images.reshape(180, 16) / 255, np.arange(180)
    trees = ExtraTreesClassifier(100, min_samples_leaf=5, random_state=1)
    p = cross_val_predict(trees, inputs, data.labels, cv=10, method="predict_proba")
    scores = 1 - p[rows, data.labels]
    assert difficulty.measure(data, scores, data, 0)[1] > 0.9
    assert difficulty.measure(data, -scores, data, 0)[1] < -0.9
    assert difficulty.measure(data, 0 * scores, data, 0)[1] is None


def test_scores_are_kept_and_described(tmp_path, capsys):
    data, tuning = arrays.digits("test"), ddpm_settings.Tuning(difficulty_labels=5)
    scores, about = difficulty.of_training(str(tmp_path), data, tuning, 0)
    assert "scoring" in capsys.readouterr().out
    np.testing.assert_array_equal(scores, difficulty.cross_fitted(data, 5, 0))
    assert about["share_above_0.3"] == round(float(np.mean(scores > 0.3)), 3)
    assert about["quantiles_0_10_50_90_100"][2] == pytest.approx(
        np.median(scores), abs=1e-3
    )
    assert "5 labels a class" in about["scored_by"]
    again, _ = difficulty.of_training(str(tmp_path), data, tuning, 0)
    np.testing.assert_array_equal(scores, again)
    assert "scoring" not in capsys.readouterr().out
