"""The loop of a run: step, log, evaluate, save, stop."""

import contextlib
import io
import math
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from rsmatch_jax import files, progress
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.engine import feed, plan, run_figures
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.engine.pace import Pace
from rsmatch_jax.metrics import measure, names, queue_picture
from rsmatch_jax.progress import Progress
from rsmatch_jax.runs import history, workdir
from rsmatch_jax.runs.checkpoint import Checkpoints
from rsmatch_jax.runs.history import Dispatched, Record, Stopwatch
from rsmatch_jax.runs.logbook import Logbook
from rsmatch_jax.runtime import hosts
from rsmatch_jax.runtime.stopping import Stop
from rsmatch_jax.terminal import duration, say

# Work under way on the device while the next dispatch is made: enough that the device
# never waits for the host, little enough that a stop comes soon.
DISPATCHES = 4
STEPS = 16  # beside those of the oldest dispatch


class Loop:
    """The state and the files of a run, from its newest good checkpoint on."""

    def __init__(
        self,
        exp: Experiment,
        task: rs_ssl.Task,
        folder: str,
        checkpoints: Checkpoints,
        warnings: list[str],
        stop: Stop,
    ):
        self.exp, self.task, self.folder, self.stop = exp, task, folder, stop
        self.config = exp.config
        self.checkpoints = checkpoints
        restored = checkpoints.restore_newest(exp.state_shapes(), say)
        if restored:
            first, state, meta, self.fingerprint = restored
            self.record = Record.from_meta(meta)
            say(f"resumed at step {first}")
        else:
            first, state, self.fingerprint = 0, exp.init_state(), None
            self.record = Record(warnings=warnings)
            plan.print_parameters(state.params)
        self.first = self.step = first
        self.saved_step = first  # of `fingerprint`
        self.started = time.monotonic() - self.record.seconds
        self.clock = Stopwatch()
        self.idle_at = (first, 0.0)  # last step and time with no step under way
        self.under_way: deque[Dispatched] = deque()
        self.dispatches = hosts.steps_ahead(DISPATCHES, exp.devices[0].platform)
        self.evaluation_seconds = 0.0
        self.logbook = Logbook(
            folder, self.config.to_dict(), num_bytes=self.record.metrics_bytes
        )
        if not first:
            self.logbook.write_start(state.params)
        self.state = exp.pack(state)
        self.evaluate = run_figures.Evaluator(exp, task)
        self.pace = Pace()
        self.training = Progress(
            "training",
            "steps",
            self.config.train.num_steps,
            first=first,
            last_line=False,
        )

    def train(self, source: feed.Feed) -> dict[str, Any]:
        """Trains until the end or a stop; returns the content of result.json."""
        try:
            self._prepare(source)
            with self.stop.at_signal(None, self._until_stopped):
                with self.training:
                    self._steps(source)
                with progress.busy("bringing the last files to disk"):
                    self.checkpoints.close()
                    self.logbook.close()
                return self._write_result("finished" if self._done() else "stopped")
        except BaseException:
            self._abandon()
            raise

    def _prepare(self, source: feed.Feed):
        """Does what precedes the first step; a signal ends the process meanwhile."""
        with self.stop.at_signal(lambda: self._write_result("stopped")):
            if self._due(self.config.eval.every_steps) and not self._evaluated():
                with self.clock.paused():
                    self._evaluate()  # the earlier start was stopped during it
                    self._save()
            if self.step < self.config.train.num_steps:
                state = self.exp.unpack(self.state)
                say("compiling the step ...")
                begin = time.monotonic()
                with self.clock.paused(), plan.compiling(self.exp):
                    self.checkpoints.prepare(state)
                    # Side by side, and now: a stop would wait for a later compilation.
                    with ThreadPoolExecutor(1) as pool:
                        evaluation = pool.submit(self.evaluate.prepare, state)
                        source.compile(self.state, self.step)
                        evaluation.result()
                say(f"step compiled in {time.monotonic() - begin:.1f} s")

    def _done(self) -> bool:
        return self.step == self.config.train.num_steps and self._evaluated()

    def _steps(self, source: feed.Feed):
        due = None  # an interval whose last steps may still be under way
        stopping = False
        while self.step < self.config.train.num_steps and not stopping:
            self._advance(source)
            stopping = self.stop.due()
            under_way = sum(dispatched.count for dispatched in self.under_way)
            if due and due[0] <= self.step - under_way:
                self._log(*due)  # fetching it does not wait
                due = None
            if self._due(self.config.log.every_steps):
                self.checkpoints.require_written()
                if due:
                    self._log(*due)
                due = (self.step, self.record.pending)
                self.record.pending = []
            evaluate = self._due(self.config.eval.every_steps)
            save = self._due(self.config.checkpoint.every_steps)
            if evaluate or save or stopping:
                if due:
                    self._log(*due)
                    due = None
                self._settle()
                with self.clock.paused():
                    best = evaluate and not stopping and self._evaluate()
                    stopping = self.stop.due()  # a signal may have come meanwhile
                    if save or best or stopping:
                        self._save()
        if stopping and not self._done():
            say(f"stopped at step {self.step}, which is saved")

    def _evaluated(self) -> bool:
        """Whether the evaluation of the present step is done."""
        past = self.record.evaluations
        return bool(past) and past[-1]["step"] == self.step

    def _due(self, every: int) -> bool:
        """Whether an action of every `every` steps, and of the last one, is due."""
        at_end = self.step == self.config.train.num_steps
        return self.step > 0 and (self.step % every == 0 or at_end)

    def _advance(self, source: feed.Feed):
        """Dispatches steps, up to the next one at which something is due."""
        c, step = self.config, self.step
        periods = (c.log.every_steps, c.eval.every_steps, c.checkpoint.every_steps)
        room = min(
            c.train.num_steps - step, *(every - step % every for every in periods)
        )
        if not self.under_way:
            self.pace.begin()
        self.state, dispatched = source.run(self.state, step, room)
        for done in range(step + 1, step + dispatched.count + 1):
            self.logbook.count_step(done)
        self.step += dispatched.count
        self.record.pending.append(dispatched)
        self.under_way.append(dispatched)
        while self.under_way and (
            len(self.under_way) > self.pace.ahead(self.dispatches)
            or sum(d.count for d in self.under_way) > self.under_way[0].count + STEPS
        ):
            jax.block_until_ready(self.under_way[0].metrics)
            self.under_way.popleft()
            self.pace.done(1)
        self.training.advance(dispatched.count)

    def _settle(self):
        """Waits for all steps; raises RunFailed if a metric is not finite."""
        steps = history.per_step(self.record.pending)
        self.record.pending = [*steps]
        if self.under_way:
            self.pace.done(len(self.under_way))
        self.under_way.clear()
        history.require_finite(self.step, steps, self.checkpoints.latest)
        self.idle_at = (self.step, self.clock.read())

    def _log(self, step: int, pending: history.Pending):
        """Writes and prints the means of the metrics of the interval up to `step`."""
        steps = history.per_step(pending)  # waits for the device
        ended_at = self.clock.read()
        since, begin = self.idle_at
        history.require_finite(step, steps, self.checkpoints.latest)
        alarms = self.exp.method.alarms(
            steps, first=step == len(steps), images_a_step=self.exp.dims.unlabeled_batch
        )
        for warning in self.record.warn_once(alarms, step):
            say(f"warning: {warning}")
        means = history.interval_means(steps)
        self.record.utilisation = means.get("utilisation")
        self.logbook.write(step, {f"train/{k}": v for k, v in means.items()})
        rate = (step - since) / max(ended_at - begin, 1e-9)
        last = self.config.train.num_steps
        evaluations = math.ceil((last - step) / self.config.eval.every_steps)
        to_go = (last - step) / rate + evaluations * self.evaluation_seconds
        parts = [f"step {step}/{last}"]
        parts += [f"{k} {means[k]:.3f}" for k in self.exp.method.progress if k in means]
        parts += [f"{rate:.2f} steps/s", f"ETA {duration(to_go)}"]
        say("  ".join([*parts, *(f"WARNING: {alarm}" for alarm in alarms)]))

    def _evaluate(self) -> bool:
        """Evaluates, writes metrics, pictures and result.json; True for a new best. If
        a stop becomes due, it writes nothing."""
        begin, step = time.monotonic(), self.step
        try:
            with self.pace.evaluating():
                measured = self.evaluate(self.exp.unpack(self.state), self._interrupted)
        except measure.Interrupted:  # the resumed run evaluates
            return False
        if measured.origin_scores is not None:
            new = self.exp.method.after_evaluation(measured.origin_scores)
            self.state = self.exp.with_buffers(self.state, new)
        metrics = measured.figures
        known = {"known": measured.details["known"]}
        best = self.record.add_evaluation(step, metrics | known)
        written = {**metrics, **measured.details}
        self.logbook.write(step, {f"eval/{k}": v for k, v in written.items()})
        shown = {names.TITLES[key]: metrics[key] for key in names.SHOWN}
        text = "  ".join(f"{k} {v:.4f}" for k, v in shown.items() if v is not None)
        say(f"evaluation at step {step}: {text}{'  (best)' if best else ''}")
        confusion, mistakes = io.BytesIO(), measured.mistakes.to_bytes()
        np.save(confusion, measured.confusion)  # into a file, it hides a full disk
        files.write_bytes(self._path(workdir.CONFUSION_FILE), confusion.getvalue())
        files.write_bytes(self._path(workdir.MISTAKES_FILE), mistakes)
        if metrics["queue_fill"]:
            path, title = self._path(workdir.QUEUE_PICTURE), f"CSQueue at step {step}"
            on_host = jax.device_get(self.exp.method.queue(self.state.extra))
            picture = queue_picture.draw_queue(path, on_host, self.task, title)
            self.logbook.write_image(step, "queue", picture)
        self._write_result("running")
        self.evaluation_seconds = time.monotonic() - begin
        return best

    def _interrupted(self) -> bool:
        self.pace.batch()
        return self.stop.due()

    def _until_stopped(self) -> str:
        """Returns what a stop waits for; for the thread that reads signals."""
        return self.pace.until_stopped(len(self.under_way))

    def _save(self):
        self._clock_in()
        with self.pace.saving(), progress.busy("saving"):
            self.record.metrics_bytes = self.logbook.sync()
            state, meta = self.exp.unpack(self.state), self.record.to_meta()
            self.fingerprint = self.checkpoints.save(
                self.step, state, meta, self.record.best_step
            )
        self.saved_step = self.step

    def _clock_in(self):
        """Records the time spent, and the speed since the start."""
        self.record.seconds = time.monotonic() - self.started
        if self.step > self.first:
            dims, method = self.exp.dims, self.exp.method
            views = (1 + method.weak_views) * dims.unlabeled_batch
            images = dims.batch_size + views * method.uses_unlabeled
            rate = (self.step - self.first) / max(self.clock.read(), 1e-9)
            self.record.images_per_second = images * rate

    def _abandon(self):
        """Cleans up after a failure: waits for saves, and notes it in result.json."""
        actions: list[Callable[[], Any]] = [
            lambda: self._write_result("failed"),
            lambda: self.logbook.close(failed=True),
        ]
        # One of several processes that fails alone would wait for the others.
        if hosts.num_processes() == 1:
            actions.insert(0, self.checkpoints.close)
        for action in actions:
            with contextlib.suppress(Exception):  # such as a full disk
                action()

    def _write_result(self, status: str) -> dict[str, Any]:
        self._clock_in()
        result = self.record.result(
            status=status,
            config=self.config.to_dict(),
            step=self.step,
            fingerprint=self.fingerprint if self.saved_step == self.step else None,
        )
        files.write_json(self._path(workdir.RESULT_FILE), result)
        return result

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)
