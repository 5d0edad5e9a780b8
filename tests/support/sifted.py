"""Made-up pictures with scores and verdicts."""

import numpy as np

from rsmatch_jax.metrics.verdicts import VERDICTS
from rsmatch_jax.sift.rows import Row

# Paths that break a page or a CSV file which does not guard against them.
NAMES = (
    'a "quoted", one.png',
    "ünï/日本 語.jpg",
    "it's/<b>bold</b> & <img src=x onerror=window.attacked=1>.png",
    "two\nlines.png",
    "</script><script>window.attacked=1</script>.png",
    " spaces at both ends ",
    "{{ 7 * 7 }} ${attacked} \\n \u2028.png",
)
CLASSES = ("cat", "<b>dog</b>")
THRESHOLD = 0.8


def made(count, side=8):
    """Returns (rows, thumbnails, summary): noise, the NAMES with the highest scores."""
    rng = np.random.default_rng(0)
    scores = np.round(rng.permutation(count) / (2 * count), 5) * 1.9
    scores[: len(NAMES)] = 0.99 - np.arange(len(NAMES)) / 1000
    rows = []
    for i, score in enumerate(scores.tolist()):
        verdict = (
            "synthetic" if score > THRESHOLD else "unsure" if score > 0.5 else "real"
        )
        path = NAMES[i] if i < len(NAMES) else f"photos/{i // 100}/{i}.png"
        rows.append(Row(path, CLASSES[i % 2], i / count, score, verdict))
    verdicts = [row.verdict for row in rows]
    summary = {
        "estimated_share": 0.5125,
        "estimated_share_interval": [0.45, 0.5678],
        "share_at_least": 0.46,
        "threshold": THRESHOLD,
        "false_alarm": 0.05,
        "held_out_real": 1000,
        "false_alarm_interval": [0.037, 0.065],
        "verdicts": {name: verdicts.count(name) for name in VERDICTS},
        "by": "both",
        "lean": {"<b>colour</b>": 0.07, "fine texture": 0.93},
    }
    thumbnails = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return rows, thumbnails, summary


NULLS = dict.fromkeys(made(len(NAMES))[2])
