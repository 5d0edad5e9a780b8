"""The evaluation of a run, during training and by `rsmatch_jax.evaluate`."""

from collections.abc import Callable

from rsmatch_jax.data import rs_ssl
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.metrics import measure, real_statistics
from rsmatch_jax.state import TrainState


def evaluator(exp: Experiment, task: rs_ssl.Task) -> Callable[..., measure.Measured]:
    """Returns evaluate(state, interrupted) -> all figures of a state, by the config;
    interrupted: as in `measure.predict`, which raises Interrupted. It compiles once."""
    forward = measure.mapped_forward(exp.nets, exp.devices, exp.method.origin)
    sizes = {"batch_size": exp.config.eval.batch_size, "devices": exp.devices}
    renew = real_statistics.renewal(exp.method, exp.moments, forward, task, **sizes)

    def evaluate(
        state: TrainState, interrupted: Callable[[], bool] = lambda: False
    ) -> measure.Measured:
        if renew is not None:
            state = renew(state, interrupted)
        return measure.measure(
            forward,
            state,
            task,
            queue=exp.method.queue(state.extra),
            threshold=exp.config.method.threshold,
            interrupted=interrupted,
            **sizes,
        )

    return evaluate
