"""The detector's losses of RSMatch in plain numpy, row by row, with their gradient by
the table of its logits [256, 2]."""

import dataclasses

import numpy as np
from support.table_networks import TAU_DETECTOR, B, U, log_softmax, rows

RATE, EQ_3 = 0.5, 1.3  # learning rate; detector_unsup_weight of table_networks


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@dataclasses.dataclass
class DetectorOracle:
    """Plain SGD on the table. loss: terms of the last step; local: the second part of
    the nnPU risk on each of four devices, whose mean is `second`."""

    table: np.ndarray
    prior: float | None  # None: no nnPU

    def __post_init__(self):
        self.table = np.array(self.table, np.float64)

    def step(self, b, queue_rows):
        lab, weak, strong = (rows(x) for x in (b.lab, b.weak, b.strong))
        grad = np.zeros_like(self.table)
        self.loss = {}
        if queue_rows is not None:
            self.loss["detector_loss_sup"] = 0.0
            for images, origin in ((lab, 0), (queue_rows, 1)):
                origins = [origin] * len(images)
                self._cross_entropy("sup", images, origins, 0.5 / B, 1.0, grad)
        if self.prior is not None:
            self._nnpu(lab, weak, grad)
        self.loss["detector_loss_unsup"] = 0.0
        q = np.exp(log_softmax(self.table[weak]))
        chosen = q.max(axis=1) >= TAU_DETECTOR
        assert np.abs(q.max(axis=1) - TAU_DETECTOR).min() > 1e-5
        self.sure = chosen.mean()
        images, origins = strong[chosen], q.argmax(axis=1)[chosen]
        self._cross_entropy("unsup", images, origins, 1 / U, EQ_3, grad)
        self.total = sum(self.loss.values())
        self.total += (EQ_3 - 1) * self.loss["detector_loss_unsup"]
        self.synthetic, self.p_s = q.argmax(axis=1) == 1, q[:, 1]
        self.grad = grad
        self.table -= RATE * grad

    def _cross_entropy(self, name, images, origins, factor, weight, grad):
        for row, origin in zip(images, origins, strict=True):
            log_p = log_softmax(self.table[row])
            self.loss[f"detector_loss_{name}"] -= factor * log_p[origin]
            grad[row] += weight * factor * (np.exp(log_p) - np.eye(2)[origin])

    def _nnpu(self, lab, weak, grad):
        """Kiryo et al. 2017, Algorithm 1 with beta = 0, gamma = 1."""
        pi = 1 - self.prior
        z = self.table[:, 0] - self.table[:, 1]
        r_p_plus = sum(sigmoid(-z[i]) for i in lab) / B
        r_p_minus = sum(sigmoid(z[i]) for i in lab) / B
        r_u_minus = sum(sigmoid(z[i]) for i in weak) / U
        second = r_u_minus - pi * r_p_minus
        assert abs(second) > 1e-6
        self.cut = second < 0
        self.loss["detector_loss_nnpu"] = pi * r_p_plus + max(0, second)
        self.local = [
            np.mean(sigmoid(z[weak[d::4]])) - pi * np.mean(sigmoid(z[lab[d::4]]))
            for d in range(4)
        ]
        np.testing.assert_allclose(np.mean(self.local), second)

        def add(row, by_z):
            slope = sigmoid(z[row]) * sigmoid(-z[row])
            grad[row] += by_z * slope * np.array([1, -1])

        for i in lab:
            if not self.cut:
                add(i, -pi / B)  # of pi R_p^+
            add(i, (pi if self.cut else -pi) / B)  # of +-(-pi R_p^-)
        for i in weak:
            add(i, (-1 if self.cut else 1) / U)
