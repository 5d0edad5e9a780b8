"""Runs' results written by hand, for reports."""

import json

from rsmatch_jax import files


def write_run(folder, config, best, *, detector=None, status="finished", steps=20):
    """Writes result.json and metrics.jsonl of a run of two evaluations."""
    folder.mkdir(parents=True)
    test = {"top5": 0.99, "macro_precision": 0.9, "macro_recall": 0.9, "macro_f1": 0.9}
    result = {
        "status": status,
        "method": config["method"]["name"],
        "dataset": config["data"]["name"],
        "seed": config["seed"],
        "steps": steps,
        "seconds": 60.0,
        "test_accuracy": best - 0.01,
        "test_accuracy_best": best,
        "test_accuracy_median20": best - 0.02,
        "test": test,
        "detector_accuracy": detector,
        "detector_balanced_accuracy": detector and detector - 0.1,
        "detector_auroc": detector,
        "queue_purity": detector and 1.0,
        "config": config,
    }
    files.write_json(str(folder / "result.json"), result)
    with open(folder / "metrics.jsonl", "w") as f:
        for step in (10, 20):
            f.write(json.dumps({"step": step, "train/loss": 1.0}) + "\n")
            line = {"step": step, "eval/test_accuracy": best - 0.1 + step / 200}
            line["eval/detector_accuracy"] = detector and detector * step / 20
            f.write(json.dumps(line) + "\n")
