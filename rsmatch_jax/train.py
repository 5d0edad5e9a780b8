"""One run: check, build, train, evaluate, save. The only loop there is."""

import math
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rsmatch_jax import (
    evaluation,
    experiment,
    feed,
    logbook,
    pictures,
    plan,
    record,
    validate,
    workdir,
)
from rsmatch_jax.checkpoint import Checkpoints
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.experiment import Experiment
from rsmatch_jax.logbook import Logbook, say
from rsmatch_jax.record import Record, Stopwatch


def run(
    config: Any,
    folder: str,
    *,
    overwrite: bool = False,
    plan_only: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, Any]:
    """Trains by a locked config in `folder` and returns the content of result.json.

    An unfinished run there is resumed, a finished one is left as it is. overwrite
    starts anew; plan_only prints what would happen and trains nothing. devices: None =
    all local ones. Raises RequestError for whatever cannot work, before anything is
    written.
    """
    devices = list(devices or jax.local_devices())
    validate.check(config, len(devices))
    workdir.check_writable(folder)
    if not overwrite:
        workdir.check_free(folder, config.to_dict())
        result = workdir.read_result(folder)
        if result and result.get("status") == "finished" and not plan_only:
            say(
                f"{folder} holds this run, finished: test accuracy "
                f"{result['test_accuracy']:.4f}. Nothing to do; --overwrite trains anew"
            )
            return result
    say(f"{config.method.name} on {config.data.name}, seed {config.seed}: {folder}")
    task = experiment.load_task(config)
    dims = experiment.task_dims(config, task)
    warnings = []
    if config.method.name == "rsmatch":
        num_synthetic = int(task.unl_synthetic.sum())
        warnings += validate.check_queue(config, dims.num_classes, num_synthetic)
    exp = experiment.build(config, dims, task.name, devices)
    source, chosen = feed.make(exp, task)
    for line in [
        *plan.describe(exp, task),
        chosen,
        *(f"warning: {w}" for w in warnings),
    ]:
        say(line)
    if plan_only:
        for line in plan.measure(exp, source):
            say(line)
        return {}
    with workdir.locked(folder):
        if overwrite:
            workdir.clear(folder)
        workdir.claim(folder, config.to_dict(), task.split.arrays())
        current = _Run(exp, task, folder, warnings)
        try:
            return current.train(source)
        except KeyboardInterrupt:
            current.abandon("stopped")
            raise
        except Exception:
            current.abandon("failed")
            raise


class _Run:
    """The loop's surroundings: state, files, and what is kept between log steps."""

    def __init__(
        self, exp: Experiment, task: rs_ssl.Task, folder: str, warnings: list[str]
    ):
        self.exp, self.task, self.folder = exp, task, folder
        self.config = exp.config
        self.checkpoints = Checkpoints(folder, self.config.checkpoint.keep)
        self.state = exp.init_state()
        self.record = Record(warnings=warnings)
        first = self.checkpoints.latest() or 0
        if first:
            self.state, meta = self.checkpoints.restore(first, self.state)
            self.record = Record.from_meta(meta)
            say(f"resumed at step {first}")
        else:
            for line in plan.parameters(self.state.params):
                say(line)
        self.first = self.step = first
        self.started = time.monotonic() - self.record.seconds
        self.clock = Stopwatch()
        self.idle_at = (first, 0.0)  # step and time at which no step was under way
        self.evaluation_seconds = 0.0
        self.logbook = Logbook(
            folder,
            first_step=first,
            num_steps=self.config.train.num_steps,
            tensorboard=self.config.log.tensorboard,
        )
        if not first:
            self.logbook.write_start(self.config.to_dict(), self.state.params)
        self.forward = evaluation.mapped_forward(exp.nets, exp.devices)

    def train(self, source: feed.Feed) -> dict[str, Any]:
        config, record_ = self.config, self.record
        due = None  # the interval before, dispatched long ago: fetched without waiting
        last = config.train.num_steps
        while self.step < last:
            if self.step == self.first:  # dispatch waits for the compiler
                with self.clock.paused() as seconds:
                    self._advance(source)
                say(f"step compiled in {seconds():.1f} s")
            else:
                self._advance(source)
            step = self.step
            evaluate = step % config.eval.every_steps == 0 or step == last
            save = step % config.checkpoint.every_steps == 0 or step == last
            if step % config.log.every_steps == 0 or step == last:
                if due:
                    self._log(*due)
                due = (step, record_.take_pending())
            if evaluate or save:
                if due:
                    self._log(*due)
                    due = None
                record_.pending = record.per_step(record_.pending)  # waits
                record.require_finite(step, record_.pending)
                self.idle_at = (step, self.clock.read())
                with self.clock.paused():
                    best = evaluate and self._evaluate(step)
                    if save or best:
                        self._save(step, evaluated=evaluate)
        self.checkpoints.close()
        self.logbook.close()
        return self._write_result("finished")

    def _advance(self, source: feed.Feed):
        """One dispatch, of steps up to the next one at which something is due."""
        c, step = self.config, self.step
        periods = (c.log.every_steps, c.eval.every_steps, c.checkpoint.every_steps)
        room = min(
            c.train.num_steps - step, *(every - step % every for every in periods)
        )
        self.state, dispatched = source.run(self.state, step, room)
        for done in range(step + 1, step + dispatched.count + 1):
            self.logbook.count_step(done)
        self.step += dispatched.count
        self.record.pending.append(dispatched)

    def abandon(self, status: str):
        """Leaves a result.json that says so; saves under way are waited for."""
        self.checkpoints.close()
        self._write_result(status)
        self.logbook.close()

    def _log(self, step: int, pending: record.Pending):
        """Averages the metrics of the interval that ended with `step`, writes them."""
        steps = record.per_step(pending)  # waits for the device
        since, begin = self.idle_at
        record.require_finite(step, steps)
        means = record.interval_means(steps)
        self.record.utilisation = means.get("utilisation")
        self.logbook.write(step, {f"train/{k}": v for k, v in means.items()})
        shown = ("loss", "utilisation", "detector_utilisation", "routed_synthetic")
        to_come = self.config.train.num_steps - step
        self.logbook.progress(
            step,
            {k: means[k] for k in shown if k in means},
            rate=(step - since) / max(self.clock.read() - begin, 1e-9),
            extra_seconds=self.evaluation_seconds
            * math.ceil(to_come / self.config.eval.every_steps),
        )

    def _evaluate(self, step: int) -> bool:
        """Evaluates, writes metrics, pictures and result.json; whether it is a best."""
        begin = time.monotonic()
        metrics, confusion = evaluation.measure(
            self.forward,
            self.state,
            self.task,
            threshold=self.config.method.threshold,
            batch_size=self.config.eval.batch_size,
            devices=self.exp.devices,
        )
        best = self.record.add_evaluation(step, metrics)
        self.logbook.write(step, {f"eval/{k}": v for k, v in metrics.items()})
        shown = {
            "test accuracy": metrics["test_accuracy"],
            "detector balanced accuracy": metrics["detector_balanced_accuracy"],
            "queue purity": metrics["queue_purity"],
        }
        said = "  ".join(f"{k} {v:.4f}" for k, v in shown.items() if v is not None)
        say(f"evaluation at step {step}: {said}{'  (best)' if best else ''}")
        np.save(os.path.join(self.folder, workdir.CONFUSION_FILE), confusion)
        if metrics["queue_fill"]:
            sheet = pictures.draw_queue(
                os.path.join(self.folder, workdir.QUEUE_PICTURE),
                jax.device_get(self.state.extra["queue"]),
                self.task,
                f"CSQueue at step {step}",
            )
            self.logbook.write_image(step, "queue", sheet)
        self._write_result("running")
        self.evaluation_seconds = time.monotonic() - begin
        return best

    def _save(self, step: int, *, evaluated: bool):
        self.record.seconds = time.monotonic() - self.started
        self.checkpoints.save(
            step,
            self.state,
            self.record.to_meta(),
            self.record.choice_accuracy() if evaluated else None,
        )

    def _write_result(self, status: str) -> dict[str, Any]:
        self.record.seconds = time.monotonic() - self.started
        t = self.config.train
        views = 2 * t.unlabeled_ratio if self.exp.method.uses_unlabeled else 0
        rate = (self.step - self.first) / max(self.clock.read(), 1e-9)
        result = self.record.result(
            status=status,
            config=self.config.to_dict(),
            step=self.step,
            images_per_second=t.batch_size * (1 + views) * rate,
        )
        logbook.write_json(os.path.join(self.folder, logbook.RESULT_FILE), result)
        return result
