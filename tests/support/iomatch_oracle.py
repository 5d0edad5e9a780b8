"""IOMatch in plain numpy, row by row: losses, gradients of the tables, buffers."""

import math

import numpy as np
from support.table_networks import K, log_softmax, rows, softmax

EPS = 1e-8


class Oracle:
    """The formulas as the authors' code computes them, in float64. An image's outputs
    are rows of the tables `real` [256, K], `outlier` [256, 2 K], `open` [256, K + 1].

    weights: of the one-vs-all, the closed and the open loss. start: first step with the
    open loss. queue: rows of the alignment, 0 = no alignment.
    """

    def __init__(self, tau, cutoff, weights, start, queue):
        self.tau, self.cutoff, self.start = tau, cutoff, start
        self.mb, self.unsup, self.open = weights
        self.queue, self.pointer, self.step = np.zeros((queue, K)), 0, 0

    def aligned(self, p):
        """p of a batch, after its mean is in the queue."""
        if not len(self.queue):
            return p
        self.queue[self.pointer] = p.mean(axis=0)
        self.pointer = (self.pointer + 1) % len(self.queue)
        mean = sum(self.queue) / len(self.queue)  # empty rows, too
        scaled = p * (1 / K + 1e-6) / (mean + 1e-6)
        return np.array([row / sum(row) for row in scaled])

    def buffers(self):
        if not len(self.queue):
            return {}
        return {"da_queue": self.queue, "da_pointer": self.pointer}

    def advance(self, params, b):
        """(metrics, gradient of every table) of one step."""
        table = {h: np.asarray(t, np.float64) for h, t in params.items()}
        grads = {h: np.zeros_like(t) for h, t in table.items()}
        out = dict.fromkeys(("loss_sup", "loss_ova", "loss_unsup", "loss_open"), 0.0)
        for row, y in zip(rows(b.lab), b.labels, strict=True):
            self._labelled(table, grads, out, row, y, len(b.labels))
        weak, strong = rows(b.weak), rows(b.strong)
        p = self.aligned(softmax(table["real"][weak]))
        counts = np.zeros(3)
        for i, (w, s) in enumerate(zip(weak, strong, strict=True)):
            counts += self._unlabelled(table, grads, out, p[i], w, s, len(weak))
        out["loss"] = out["value"] = (
            out["loss_sup"]
            + self.mb * out["loss_ova"]
            + self.unsup * out["loss_unsup"]
            + self.open * out["loss_open"]
        )
        names = ("utilisation", "open_utilisation", "called_synthetic")
        self.step += 1
        return out | dict(zip(names, counts / len(weak), strict=True)), grads

    def _labelled(self, table, grads, out, row, y, count):
        z = table["real"][row]
        out["loss_sup"] -= log_softmax(z)[y] / count
        grads["real"][row] += (softmax(z) - np.eye(K)[y]) / count
        outside, inside = pairs(table["outlier"][row])
        hardest = max((k for k in range(K) if k != y), key=lambda k: -outside[k])
        out["loss_ova"] -= math.log(inside[y] + EPS) / count
        out["loss_ova"] -= math.log(outside[hardest] + EPS) / count
        # d log(x + e) = x (1 - x) / (x + e) of the difference of the two logits
        for k, x, sign in ((y, inside[y], 1), (hardest, outside[hardest], -1)):
            slope = self.mb * sign * x * (1 - x) / (x + EPS) / count
            grads["outlier"][row, K + k] -= slope
            grads["outlier"][row, k] += slope

    def _unlabelled(self, table, grads, out, p, weak, strong, count):
        """Adds the terms of an image; which of its three masks are set."""
        outside, inside = pairs(table["outlier"][weak])
        score = sum(p[k] * outside[k] for k in range(K))
        q = np.array([*(p[k] * inside[k] for k in range(K)), score])
        margins = (score - 0.5, max(p) - self.tau, max(q) - self.cutoff)
        assert min(map(abs, margins)) > 1e-6  # no coin toss between precisions
        mask, open_mask = score < 0.5 and max(p) >= self.tau, max(q) >= self.cutoff
        used = {"real": (mask, p, self.unsup, "loss_unsup")}
        if self.step >= self.start:
            used["open"] = (open_mask, q, self.open, "loss_open")
        for head, (is_used, target, weight, name) in used.items():
            if is_used:
                z = table[head][strong]
                out[name] -= float(target @ log_softmax(z)) / count
                grads[head][strong] += weight * (softmax(z) - target) / count
        return np.array([mask, open_mask, score >= 0.5], float)


def pairs(logits):
    """(o_out [K], o_in [K]) of 2 K logits: the first half is `out`."""
    difference = logits[:K] - logits[K:]
    return 1 / (1 + np.exp(-difference)), 1 / (1 + np.exp(difference))
