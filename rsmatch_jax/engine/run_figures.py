"""The evaluation of a run, during training and by `rsmatch evaluate`."""

from collections.abc import Callable

from rsmatch_jax import progress
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.metrics import measure, real_statistics
from rsmatch_jax.state import TrainState


class Evaluator:
    """Evaluates the states of one run, by its config. It compiles once."""

    def __init__(self, exp: Experiment, task: rs_ssl.Task):
        self._exp, self._task = exp, task
        self._predict = measure.Predictor(
            exp.nets, exp.devices, exp.method.origin, exp.config.eval.batch_size
        )
        self._renew = None
        if exp.moments is not None:
            self._renew = real_statistics.Renewal(
                exp.method, exp.moments, self._predict, task
            )

    def prepare(self, state: TrainState):
        """Compiles what the first evaluation would otherwise compile."""
        self._predict.prepare(state, self._task)
        if self._renew is not None:
            self._renew.prepare(state)

    def __call__(
        self, state: TrainState, interrupted: Callable[[], bool] = lambda: False
    ) -> measure.Measured:
        """Returns all figures. interrupted: as in `measure.Predictor`, which raises
        Interrupted."""
        if self._renew is not None:
            with progress.busy("taking the statistics of real images"):
                state = self._renew(state, interrupted)
        return measure.measure(
            self._predict,
            state,
            self._task,
            queue=self._exp.method.queue(state.extra),
            threshold=self._exp.config.method.threshold,
            interrupted=interrupted,
        )
