"""FixMatch's, FlexMatch's and FreeMatch's rules in plain numpy, image by image."""

import numpy as np
from support.table_networks import TAU, B, K, U

from rsmatch_jax.methods.catalogue import Dims

N, STEPS = 30, 24
DIMS = Dims(K, (8, 8, 3), 1, B, U, 4, N)
EMA, WEIGHT = 0.9, 0.4  # faster and heavier than the defaults: they must show
SETTINGS = {
    "method.freematch.ema_decay": EMA,
    "method.freematch.entropy_weight": WEIGHT,
}


class FixOracle:
    """Labels and mask of a step from float64 probabilities q [U, K]."""

    def __init__(self, **switches):
        pass

    def thresholds(self, q, labels):
        return [TAU] * K

    def select(self, q, indices):
        labels = [int(np.argmax(row)) for row in q]
        thresholds = self.thresholds(q, labels)
        margins = [row.max() - thresholds[c] for row, c in zip(q, labels, strict=True)]
        assert min(abs(m) for m in margins) > 1e-6  # no coin toss between precisions
        self.after(q, labels, indices)
        return labels, [m >= 0 for m in margins]

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
}
MAIN = ("fixmatch", "flexmatch", "freematch")
