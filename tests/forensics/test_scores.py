"""Checks scores, shares and thresholds on made statistics, against plain formulas."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from rsmatch_jax.forensics import scores, share, threshold

GROUPS = {"telling": slice(0, 4), "content": slice(4, 12)}


def made(real, synthetic, seed=0):
    """Returns statistics of real and of synthetic pictures, which differ in 4 of 12."""
    rng = np.random.default_rng(seed)
    shift = np.repeat([1.2, 0.0], [4, 8])
    x = rng.normal(size=(real + synthetic, 12)) * np.linspace(0.5, 20, 12)
    x[real:] += shift * np.linspace(0.5, 20, 12)
    return x[:real].astype(np.float32), x[real:].astype(np.float32)


def fitted(fraction, labeled=100, unlabeled=1000, held_out=1000, seed=0):
    """Returns the scores, and which unlabelled pictures are synthetic."""
    count = int(fraction * unlabeled)
    real, synthetic = made(labeled + unlabeled - count + held_out, count, seed)
    known, mixed, others = np.split(real, [labeled, len(real) - held_out])
    mixed = np.concatenate([mixed, synthetic])
    result = scores.cross_fit(known, mixed, others, groups=GROUPS, seed=seed)
    return result, np.arange(unlabeled) >= unlabeled - count


@pytest.mark.parametrize(("fraction", "short"), [(0.2, 0.1), (0.6, 0.03)])
def test_synthetic_pictures_score_higher(fraction, short):
    result, synthetic = fitted(fraction)
    # The best possible: unit normals, 1.2 apart in 4 directions.
    best = stats.norm.cdf(1.2 * 2 / np.sqrt(2))
    auroc = metrics.roc_auc_score(synthetic, result.unlabeled)
    assert best - short < auroc < best + 0.02
    for part in (result.labeled, result.unlabeled, result.held_out):
        assert (part > 0).all() and (part < 1).all()
    assert sum(result.lean.values()) == pytest.approx(1, abs=1e-4)
    assert result.lean["telling"] > 0.5
    assert abs((result.unlabeled > 0.5).mean() - fraction) < 0.15


def test_real_pictures_score_alike_whether_labelled_or_not():
    """Otherwise neither the share nor the threshold would be right."""
    ranks = []
    for seed in range(8):
        result, synthetic = fitted(0.5, 60, 200, held_out=200, seed=seed)
        real = result.unlabeled[~synthetic]
        for part in (result.labeled, result.held_out):
            pair = np.concatenate([real, part])
            ranks.append(metrics.roc_auc_score(np.arange(len(pair)) < len(real), pair))
    # The standard errors of these means are 0.016 and 0.012.
    assert abs(np.reshape(ranks, (8, 2)).mean(0) - 0.5).max() < 0.05


def models_of(known, mixed):
    """Returns the weights of all models, by the fold that they score; and the folds."""
    fit = scores._Fit([known, mixed, known[:0]], None, {}, 0)
    models, add = {}, fit._add

    def record(model, mixed, fold, factor):
        models.setdefault(fold, []).append(model)
        return add(model, mixed, fold, factor)

    fit._add = record
    fit.second_round(fit.first_round())
    return models, fit.folds


def test_no_picture_influences_the_models_that_score_it():
    real, synthetic = made(60, 60)
    known, mixed = real[:30] / 10, np.concatenate([real[30:], synthetic]) / 10
    models, folds = models_of(known, mixed)
    for which in (0, 1):
        changed = [known.copy(), mixed.copy()]
        changed[which][0] += 3
        again, _ = models_of(*changed)
        for fold in range(scores.FOLDS):
            assert len(models[fold]) == scores.FOLDS
            same = np.array_equal(models[fold], again[fold])
            assert same == (fold == folds[which][0])


def test_labelled_pictures_are_dealt_to_the_folds_by_class():
    classes = np.repeat(np.arange(8), scores.FOLDS)
    x = np.zeros((len(classes), 2), np.float32)
    folds = scores._Fit([x, x, x[:0]], classes, {}, 0).folds[0]
    for label in range(8):
        assert sorted(folds[classes == label]) == list(range(scores.FOLDS))


def test_too_few_pictures_and_statistics_that_are_constant():
    x = np.ones((40, 3), np.float32)
    result = scores.cross_fit(x[:20], x[20:], groups={"all": slice(0, 3)})
    assert np.isfinite(result.unlabeled).all()
    for real, unlabelled in ((9, 20), (10, scores.FOLDS - 1)):
        with pytest.raises(ValueError, match=f"{real} real, {unlabelled} unlabelled"):
            scores.cross_fit(x[:real], x[:unlabelled])


def normal(real, unlabeled, fraction, apart, seed=0):
    """Returns scores of real pictures and of a mixture, unit normals `apart` apart."""
    rng = np.random.default_rng(seed)
    synthetic = rng.random(unlabeled) < fraction
    return rng.normal(size=real), rng.normal(size=unlabeled) + apart * synthetic


def test_best_bin_against_all_bins():
    real, unlabeled = normal(150, 400, 0.4, 2)
    margin = sum(np.sqrt(np.log(4 / 0.1) / (2 * n)) for n in (150, 400))
    ratios = []
    for cut in np.append(unlabeled, real):
        of_real, of_unlabeled = (real <= cut).mean(), (unlabeled <= cut).mean()
        if of_real >= 0.02:
            ratios.append(((of_unlabeled + margin) / of_real, of_unlabeled / of_real))
    assert share.best_bin(real, unlabeled) == pytest.approx(1 - min(ratios)[1])


@pytest.mark.parametrize("fraction", [0, 0.2, 0.5, 0.9])
def test_shares_and_their_bounds(fraction):
    estimates = [
        share.estimate(*normal(500, 2000, fraction, 2.5, seed), seed)
        for seed in range(10)
    ]
    values, at_least = (np.array([e[i] for e in estimates], np.float64) for i in (0, 2))
    assert abs(values.mean() - fraction) < 0.06
    assert abs(values - fraction).max() < 0.15
    # Ten of these with a confidence of 0.9, and the bound is cautious.
    assert (at_least > fraction).sum() <= 2
    assert (at_least <= values).all()
    assert at_least.mean() > fraction - 0.15
    for e in estimates:
        assert e.interval[0] <= e.estimate <= e.interval[1]
    holds = sum(e.interval[0] <= fraction <= e.interval[1] for e in estimates)
    assert holds >= 7


def test_the_interval_of_few_synthetic_pictures_holds_their_share():
    """Quantiles of the draws alone would hold no share of 0, and half of the others."""
    for fraction in (0, 0.05):
        estimates = [
            share.estimate(*normal(60, 400, fraction, 4, seed), seed)
            for seed in range(20)
        ]
        holds = sum(e.interval[0] <= fraction <= e.interval[1] for e in estimates)
        assert holds >= 16


def test_no_share_without_real_pictures():
    real, unlabeled = normal(share.MIN_REAL, 50, 0.5, 2)
    assert share.estimate(real[1:], unlabeled) is None
    assert share.estimate(real, unlabeled[:0]) is None
    assert share.estimate(real, unlabeled) is not None
    assert share.best_bin(real, real + 100) == 1
    assert share.best_bin(real, real - 100) == 0


@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (50, 0.05), (7, 0.25)])
def test_the_next_real_picture_keeps_the_promise(count, rate):
    """Over 4,000 draws, the next one of exchangeable scores is above the threshold as
    often as the order statistic says, which is at most the promised rate."""
    rng = np.random.default_rng(0)
    draws = rng.exponential(size=(4000, count + 1))
    alarms = [d[-1] > threshold.conformal(d[:-1], rate).value for d in draws]
    expected = int(rate * (count + 1) + 1e-9) / (count + 1)
    assert expected <= rate
    assert abs(np.mean(alarms) - expected) < 4 * np.sqrt(rate / 4000)


@pytest.mark.parametrize(
    ("count", "rate", "value"),
    [(0, 0.5, None), (18, 0.05, None), (19, 0.05, 18), (29, 0.1, 26)],
)
def test_thresholds_of_whole_numbers(count, rate, value):
    """0.1 of 30 is not 3 in floating point."""
    result = threshold.conformal(np.arange(float(count)), rate)
    assert result.value == value and (result.interval is None) == (value is None)
    assert result.needed == round(1 / rate) - 1


def test_clopper_pearson_against_the_binomial_tails():
    for successes, count in ((0, 30), (3, 40), (40, 40)):
        interval = threshold.clopper_pearson(successes, count, 0.025)
        expected = stats.binomtest(successes, count).proportion_ci(0.95, "exact")
        assert interval == pytest.approx((expected.low, expected.high))
    for values in (np.random.default_rng(0).normal(size=200), np.ones(99)):
        result = threshold.conformal(values, 0.05)
        above = int((values > result.value).sum())
        assert above == (9 if values[0] < 1 else 0)  # 10 of 201 scores, or all tied
        expected = threshold.clopper_pearson(above, len(values), 0.025)
        assert result.interval == pytest.approx(expected)


def test_copies_of_a_picture_look_no_more_synthetic():
    """Collected sets have many: a model must not know a picture by its copy."""
    ranks = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        real, synthetic = rng.normal(size=(260, 300)), rng.normal(size=(100, 300))
        synthetic[:, :8] += 1
        known, mixed = real[:60], np.concatenate([real[60:], synthetic])
        mixed = np.concatenate([mixed, *[real[60:100]] * 3])
        which = np.concatenate([np.arange(360), *[np.arange(60, 100)] * 3])
        digests = which.astype("S32")
        result = scores.cross_fit(known, mixed, digests=digests, seed=seed)
        is_copied = np.arange(200) < 40
        ranks.append(metrics.roc_auc_score(is_copied, result.unlabeled[:200]))
    assert abs(np.mean(ranks) - 0.5) < 0.06
