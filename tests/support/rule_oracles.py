"""The pseudo-labelling rules in plain numpy, image by image."""

import math
import statistics

import numpy as np
from support.table_networks import TAU, B, K, U

from rsmatch_jax.methods.catalogue import Dims

N, STEPS = 30, 24
DIMS = Dims(K, (8, 8, 3), 1, B, U, 4, N)
EMA, WEIGHT = 0.9, 0.4  # faster and heavier than the defaults: they must show
SETTINGS = {
    "method.freematch.ema_decay": EMA,
    "method.freematch.entropy_weight": WEIGHT,
    "method.softmatch.ema_decay": EMA,
    "method.adamatch.ema_decay": EMA,
}


class FixOracle:
    """Labels and weights of a step from float64 probabilities: q [U, K] of the weak
    views, lab [B, K] of the labelled images."""

    def __init__(self, **switches):
        pass

    def thresholds(self, q, labels):
        return [TAU] * K

    def select(self, q, lab, indices):
        labels = [int(np.argmax(row)) for row in q]
        thresholds = self.thresholds(q, labels)
        margins = [row.max() - thresholds[c] for row, c in zip(q, labels, strict=True)]
        assert min(abs(m) for m in margins) > 1e-6  # no coin toss between precisions
        self.after(q, labels, indices)
        return labels, [float(m >= 0) for m in margins]

    def after(self, q, labels, indices):
        pass

    def buffers(self):
        return {}

    def fairness(self, strong):
        return 0.0


class FlexOracle(FixOracle):
    def __init__(self, warmup=True):
        self.warmup = warmup
        self.memory, self.beta = [-1] * N, [0.0] * K

    def thresholds(self, q, labels):
        return [TAU * b / (2 - b) for b in self.beta]

    def after(self, q, labels, indices):
        for row, c, i in zip(q, labels, indices, strict=True):
            if row.max() >= TAU:
                self.memory[i] = c
        counts = {c: self.memory.count(c) for c in range(-1, K)}
        if max(counts.values()) < N:
            used = {c: n for c, n in counts.items() if c >= 0}
            most = max((counts if self.warmup else used).values())
            self.beta = [used[c] / most for c in range(K)]

    def buffers(self):
        return {"selected": self.memory, "effect": self.beta}


class FreeOracle(FixOracle):
    def __init__(self, quantile=False, clip=False):
        self.quantile, self.clip = quantile, clip
        self.tau, self.p, self.h = 1 / K, np.full(K, 1 / K), np.full(K, 1 / K)

    def thresholds(self, q, labels):
        sure = sorted(row.max() for row in q)
        now = sum(sure) / len(sure)
        if self.quantile:
            low = int(0.8 * (U - 1))
            part = 0.8 * (U - 1) - low
            now = sure[low] * (1 - part) + sure[low + 1] * part
        self.tau = EMA * self.tau + (1 - EMA) * now
        if self.clip:
            self.tau = min(self.tau, 0.95)
        self.p = EMA * self.p + (1 - EMA) * q.mean(axis=0)
        shares = np.array([labels.count(c) / len(labels) for c in range(K)])
        self.h = EMA * self.h + (1 - EMA) * shares
        return [self.tau * self.p[c] / max(self.p) for c in range(K)]

    def buffers(self):
        return {"tau": self.tau, "probs": self.p, "histogram": self.h}

    def fairness(self, strong):
        return gathered_fairness(strong, self.p, self.h)


class Averages:
    """Moving averages of mean predictions, and predictions scaled to them."""

    def __init__(self):
        self.model, self.target = None, np.full(K, 1 / K)

    def aligned(self, q, lab=None):
        now = q.mean(axis=0)
        self.model = now if self.model is None else EMA * self.model + (1 - EMA) * now
        if lab is not None:
            self.target = EMA * self.target + (1 - EMA) * lab.mean(axis=0)
        scaled = q * (self.target + 1e-6) / (self.model + 1e-6)
        return scaled / scaled.sum(axis=1)[:, None]

    def buffers(self):
        return {"p_model": self.model, "p_target": self.target}


class SoftOracle(FixOracle):
    def __init__(self, align=True):
        self.averages = Averages() if align else None
        self.mean, self.variance = 1 / K, 1.0

    def select(self, q, lab, indices):
        p = self.averages.aligned(q) if self.averages else q
        sure = [max(row) for row in p]
        self.mean = EMA * self.mean + (1 - EMA) * statistics.mean(sure)
        self.variance = EMA * self.variance + (1 - EMA) * statistics.variance(sure)
        below = [min(s - self.mean, 0) for s in sure]
        weights = [math.exp(-(b**2) / (2 * self.variance / 2**2)) for b in below]
        return [int(np.argmax(row)) for row in q], weights

    def buffers(self):
        aligned = {"p_model": self.averages.model} if self.averages else {}
        return {"mean": self.mean, "variance": self.variance, **aligned}


class AdaOracle(FixOracle):
    def __init__(self, align=True):
        self.averages = Averages() if align else None

    def select(self, q, lab, indices):
        self.threshold = TAU * sum(max(row) for row in lab) / len(lab)
        p = self.averages.aligned(q, lab) if self.averages else q
        return super().select(p, lab, indices)

    def thresholds(self, q, labels):
        return [self.threshold] * K

    def buffers(self):
        return self.averages.buffers() if self.averages else {}


def gathered_fairness(strong, p, h):
    """As USB computes it: strong [n, K] are the probabilities of the chosen rows."""
    if not len(strong):
        return 0.0
    predicted = [int(row.argmax()) for row in strong]
    h_bar = np.array([predicted.count(c) / len(predicted) for c in range(K)])
    p_bar = np.mean(strong, axis=0)
    a = np.array([x / y if y else 0 for x, y in zip(p, h, strict=True)])
    b = np.array([x / y if y else 0 for x, y in zip(p_bar, h_bar, strict=True)])
    return float(np.sum(a / a.sum() * np.log(b / b.sum() + 1e-12)))


COLD = {"method.flexmatch.threshold_warmup": False}
QUANTILE = {"method.freematch.use_quantile": True}
CASES = {
    "fixmatch": ("fixmatch", FixOracle, {}, {}),
    "flexmatch": ("flexmatch", FlexOracle, {}, {}),
    "flexmatch_cold": ("flexmatch", FlexOracle, {"warmup": False}, COLD),
    "freematch": ("freematch", FreeOracle, {}, {}),
    "freematch_quantile": ("freematch", FreeOracle, {"quantile": True}, QUANTILE),
    "softmatch": ("softmatch", SoftOracle, {}, {}),
    "softmatch_plain": (
        *("softmatch", SoftOracle),
        *({"align": False}, {"method.softmatch.align": False}),
    ),
    "adamatch": ("adamatch", AdaOracle, {}, {}),
    "adamatch_plain": (
        *("adamatch", AdaOracle),
        *({"align": False}, {"method.adamatch.align": False}),
    ),
}
MAIN = ("fixmatch", "flexmatch", "freematch", "softmatch", "adamatch")
