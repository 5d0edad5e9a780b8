"""How tests' programs are compiled. Without JAX, which reads flags when it starts."""

import importlib.metadata
import os


def flags() -> str:
    """XLA_FLAGS for four CPU devices. Programs compile three times faster, because LLVM
    optimises nothing, but XLA still does. With OPTIMIZED in the environment programs
    are compiled as for users."""
    chosen = [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
    ]
    if "OPTIMIZED" not in os.environ:
        chosen.append("--xla_backend_optimization_level=0")
        # XLA ends a process that names an option it does not know: later ones do not.
        if importlib.metadata.version("jaxlib").startswith("0.10."):
            chosen += [
                "--xla_cpu_use_fusion_emitters=false",
                "--xla_cpu_enable_concurrency_optimized_scheduler=false",
                "--xla_cpu_parallel_codegen_split_count=1",
            ]
    return " ".join(chosen)


def with_devices(count: int) -> str:
    """The XLA_FLAGS of the tests for a process with this number of devices."""
    return os.environ["XLA_FLAGS"].replace("device_count=4", f"device_count={count}")
