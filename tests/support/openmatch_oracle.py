"""OpenMatch's losses in plain numpy, image by image and class by class, in float64."""

import dataclasses
import math

import numpy as np
from support.table_networks import K, log_softmax, rows, softmax


@dataclasses.dataclass
class Oracle:
    """The keys of the method. first_fix: the first step with pseudo-labels."""

    oem_weight: float = 0.1
    socr_weight: float = 0.5
    unsup_weight: float = 1.0
    first_fix: int = 0
    threshold: float = 0.0
    temperature: float = 1.0

    def losses(self, params, ema, b, step):
        """{metric: value} of a step, from tables of the live and the EMA network."""
        real, outlier = (
            np.asarray(params["classifier"][h], np.float64) for h in ("real", "outlier")
        )
        lab, weak, second, strong = map(rows, (b.lab, b.weak, b.weak2, b.strong))
        out = dict.fromkeys(
            ("loss_sup", "loss_ova", "loss_oem", "loss_socr", "loss_unsup"), 0.0
        )
        for r, y in zip(lab, b.labels, strict=True):
            o_out, o_in = members(outlier[r])
            out["loss_sup"] -= log_softmax(real[r])[y] / len(lab)
            worst = max(-math.log(o_out[k] + 1e-8) for k in range(K) if k != y)
            out["loss_ova"] += (worst - math.log(o_in[y] + 1e-8)) / len(lab)
        for pair in zip(weak, second, strict=True):
            first, other = (members(outlier[r]) for r in pair)
            for o in (first, other):
                entropies = [
                    -sum(o[i][k] * math.log(o[i][k] + 1e-8) for i in (0, 1))
                    for k in range(K)
                ]
                out["loss_oem"] += sum(entropies) / K / 2 / len(weak)
            for i in (0, 1):
                for k in range(K):
                    out["loss_socr"] += (first[i][k] - other[i][k]) ** 2 / len(weak)
        chosen = [i for i in range(len(weak)) if self.is_inlier(ema, weak[i])]
        sure = [
            max(softmax(real[weak[i]] / self.temperature)) >= self.threshold
            for i in chosen
        ]
        trained = [i for i, use in zip(chosen, sure, strict=True) if use]
        if step < self.first_fix:
            trained = []
        for i in trained:
            label = int(np.argmax(real[weak[i]]))
            out["loss_unsup"] -= log_softmax(real[strong[i]])[label] / len(chosen)
        out["loss"] = out["value"] = (
            out["loss_sup"]
            + out["loss_ova"]
            + self.oem_weight * out["loss_oem"]
            + self.socr_weight * out["loss_socr"]
            + self.unsup_weight * out["loss_unsup"]
        )
        out["utilisation"] = len(trained) / len(weak)
        out["selected"] = len(chosen) / len(weak)
        return out

    @staticmethod
    def is_inlier(ema, row):
        """Whether the EMA network calls an image a member of its likeliest class."""
        tables = ema["classifier"]
        best = int(np.argmax(tables["real"][row]))
        o_out, _ = members(np.asarray(tables["outlier"][row], np.float64))
        assert abs(o_out[best] - 0.5) > 1e-6  # no coin toss between precisions
        return o_out[best] < 0.5


def members(logits):
    """(o_out, o_in) of each class: of 2K logits the first K say out, the others in."""
    pairs = [softmax([logits[k], logits[K + k]]) for k in range(K)]
    return [p[0] for p in pairs], [p[1] for p in pairs]
