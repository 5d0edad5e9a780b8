"""The cores that this process may use."""

import os


def count() -> int:
    """Returns their number; /proc/cpuinfo and os.cpu_count count the host's."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
