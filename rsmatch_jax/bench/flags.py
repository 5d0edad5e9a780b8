"""Times FixMatch's train step under compiler options, one at a time."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import frame, timing, workload
from rsmatch_jax.runtime import compilation, parallel

DEFAULT = "default"
AGAIN = "default again"  # the same program against itself shows the noise
Options = Mapping[str, bool | str]
# What CUDA graphs may hold by default in jaxlib 0.10 and 0.11. An option replaces the
# whole list: "+CONVOLUTION", the form of the environment variable, is refused.
CAPTURED = "CONDITIONAL,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,FUSION"
OPTIONS: dict[str, dict[str, Options]] = {  # by the kind of device
    "gpu": {
        AGAIN: {},
        "command buffers with convolutions": {
            "xla_gpu_enable_command_buffer": f"{CAPTURED},CONVOLUTION"
        },
        "convolutions in NHWC": {"xla_gpu_force_conv_nhwc": True},
        "convolution fusion": {"xla_gpu_experimental_enable_conv_fusion": True},
        "deterministic": {"xla_gpu_deterministic_ops": True},
        "latency hiding": {"xla_gpu_enable_latency_hiding_scheduler": True},
        "no command buffers": {"xla_gpu_enable_command_buffer": ""},
    },
    "cpu": {
        AGAIN: {},
        "no YNNPACK, as in this package": compilation.OPTIONS["cpu"],
        "fast math": {"xla_cpu_enable_fast_math": True},
        "oneDNN": {"xla_cpu_use_onednn": True},
        "convolutions on one thread": {"xla_cpu_multi_thread_eigen": False},
    },
}
COMPARED_STEPS = 2
LEAST_SECONDS = {"cpu": 0.0, "gpu": 0.2}  # of one program's turn in a round
ROUNDS = 11


def measure(request: frame.Request) -> frame.Measured:
    """Times the step under each of the device's OPTIONS.

    An option that this jaxlib does not know, or with which the step fails, is a row
    with the reason as "failed". No option is begun after --seconds. Seconds to compile
    may be short because of JAX's persistent cache, see the column "compilation_cache".
    """
    options = OPTIONS[request.kind]
    end = timing.budget_clock() + request.flags["seconds"]
    values = {"method.name": "fixmatch"}
    exp = workload.build(request.config, values, request.device)
    start = exp.pack(exp.init_state())
    batch = parallel.shard_rows(workload.random_batch(exp), exp.devices)
    lowered = exp.train_step().lower(start, batch)

    def begin(row):
        """Compiles with the row's options; returns (program, its first losses)."""
        state = jax.device_put(start, may_alias=False)  # a copy, which is donated
        changed = row["options"] or None
        program = workload.Program(lambda: lowered.compile(changed), state, batch)
        losses = [float(program.run(1)["loss"]) for _ in range(COMPARED_STEPS)]
        row["compile_seconds"] = program.compile_seconds
        row["temp_bytes"] = workload.temp_bytes(program.compiled)
        return program, losses

    first = _row(DEFAULT, {})
    default, reference = begin(first)
    first["loss_difference"] = 0.0
    table, of_default = [first], []
    labels = timing.within(end, list(options))
    for label in labels:
        row = _row(label, options[label])
        table.append(row)
        try:
            program, losses = begin(row)
            row["loss_difference"] = workload.difference(losses, reference)
            runs = {DEFAULT: default.run, label: program.run}
            seconds = timing.in_turns(runs, LEAST_SECONDS[request.preset], ROUNDS)
            of_default.append(seconds[DEFAULT])
            row |= timing.timed(seconds[label], seconds[DEFAULT])
            row["default_ms"] = 1e3 * float(np.median(seconds[DEFAULT]))
        # Whatever the compiler or a kernel raises is a result.
        except Exception as e:
            row["failed"] = frame.reason(e)
        terminal.say(f"  {label}: {row['failed'] or 'timed'}")
        if row["failed"]:
            try:
                default.run(1)
            except Exception:  # any failure counts
                terminal.say("the default fails now, too; nothing more can be timed")
                break
    labels.close()  # names what was left out
    if of_default:  # all of its turns; default_ms of other rows is of those beside them
        turns = np.concatenate(of_default)
        first |= timing.timed(turns, turns)
        first["default_ms"] = first["ms"]
    return table, {}


def _row(label: str, options: Options) -> dict[str, Any]:
    """A row with nothing measured yet."""
    cached = jax.config.values["jax_compilation_cache_dir"] is not None
    row = {"row": label, "options": dict(options), "compilation_cache": cached}
    return {**row, "failed": None}


TABLE = (
    *("row", "ms", "default_ms", "ratio", "temp_bytes", "compile_seconds"),
    *("compilation_cache", "loss_difference", "failed"),
)
# seconds: after which no option is begun.
BENCH = frame.Bench("flags", measure, TABLE, extra={"seconds": 180.0})
