"""Several processes of one run: how they start and agree, through JAX's shared store.

With one process all functions return at once.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

# The only import from jax._src. With the store's time limits a process whose partner
# has died ends within seconds (tests/faults). JAX's public functions (multihost_utils)
# wait without a limit. Orbax imports this client as well.
from jax._src import distributed
from jax.experimental import multihost_utils

from rsmatch_jax.errors import STOPPED, NotNow, RequestError, RunFailed, one_line
from rsmatch_jax.runtime import parallel, supervisor
from rsmatch_jax.runtime.cluster import Group, split_address

T = TypeVar("T")
# That one process raises for all; a class before those that it is made from.
ERRORS = {cls.__name__: cls for cls in (NotNow, RunFailed, RequestError)}
KEY = "rsmatch_jax"  # begins the keys of the shared store
MEET = 300  # seconds until all processes of a run must have started
HEARTBEAT = 30  # seconds of silence after which a process counts as dead
PART = 600  # seconds that a finished process waits for the others
TOGETHER = 5  # seconds in which all processes fail for one reason
LOOK = 30  # seconds until a network file system shows a new file
PATIENCE = 7 * 24 * 3600  # seconds that processes wait while one loads data
# In the messages of the exceptions that XLA raises if another process has died.
LOST = re.compile(
    "gloo|nccl|rccl|coordination service|heartbeat|connection (closed|reset)|preempted",
    re.IGNORECASE,
)


def start(group: Group | None, *, seconds: float = MEET):
    """Connects the processes of a run, before anything else uses JAX's devices.

    Raises:
        RequestError: the port is in use, or the processes have different devices.
        RunFailed: the processes do not meet within `seconds`. If only some of them
            start, JAX aborts these from C++ (see `supervisor`).
    """
    if group is None:
        return
    address = group.coordinator
    where = address or f"the address that JAX has {group.source}"
    supervisor.tell(
        f"waiting for the other processes at {where}: all of them must start within "
        f"{seconds:.0f} s, each with another number, and reach that address"
    )
    if address:
        _knock(group, address, seconds)
    # It would catch SIGTERM, which `consensus` handles.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            address,
            group.size if address else None,
            group.rank if address else None,
            local_device_ids=group.local_devices,
            cluster_detection_method="deactivate" if address else group.method,
            initialization_timeout=round(seconds),
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=PART,
        )
    except (ValueError, RuntimeError) as e:
        raise RunFailed(f"the processes did not meet at {where}: {one_line(e)}") from e
    local = jax.local_devices()
    require_equal(
        "devices",
        f"{len(local)} of {local[0].platform}",
        "give all processes the same number and kind of devices",
    )
    _connect()
    supervisor.tell("")


def is_primary() -> bool:
    """Returns True for the process that writes the files and prints the lines."""
    return index() == 0


def index() -> int:
    """Returns this process's number, from 0."""
    return jax.process_index() if num_processes() > 1 else 0


def num_processes() -> int:
    """Returns the number of processes of the run."""
    return distributed.global_state.num_processes


def agreed(name: str, function: Callable[[], T], *, primary_first: bool = False) -> T:
    """Returns the function's result here, once it has returned on every process.

    A RequestError or RunFailed of one process is raised on all. name: used by no other
    call. primary_first: the others begin when process 0 is done, and find its files.
    """
    if num_processes() == 1:
        return function()
    if primary_first and not is_primary():
        _outcome(name, 0)
    result = _run_published(name, function, with_result=False)
    for process in range(num_processes()):
        _outcome(name, process)
    return result


def on_primary(name: str, function: Callable[[], T]) -> T:
    """Runs a function on process 0; on every process returns its JSON-ready result, or
    raises its RequestError or RunFailed."""
    if num_processes() == 1:
        return function()
    if is_primary():
        return _run_published(name, function, with_result=True)
    return _outcome(name, 0)


def require_equal(name: str, value: str, way_out: str):
    """Raises RequestError, on every process, unless all have the same `value`."""
    if num_processes() == 1:
        return
    digest = hashlib.sha256(value.encode()).hexdigest()
    publish(f"equal/{name}", digest)
    digests = published(f"equal/{name}")
    others = [p for p, d in enumerate(digests) if d != digests[0]]
    if others:
        numbers = ", ".join(map(str, others))
        raise RequestError(
            f"{name}: not the same on process 0 and process {numbers}; {way_out}"
        )


def barrier(name: str, seconds: float = PATIENCE):
    """Waits until every process has called it; name: used by no other call."""
    if num_processes() > 1:
        client().wait_at_barrier(f"{KEY}/{name}", round(seconds * 1000))


def require_shared(folder: str):
    """Raises RequestError, on every process, unless all see the same folder."""
    if num_processes() == 1:
        return

    def mark():
        descriptor, path = tempfile.mkstemp(".tmp", ".seen_by_all.", folder)
        os.close(descriptor)
        return os.path.basename(path)

    def look():
        deadline = time.monotonic() + LOOK
        # NFS asks its server for a list of files, but not for a single file.
        while not (os.path.isdir(folder) and name in os.listdir(folder)):
            if time.monotonic() > deadline:
                raise RequestError(
                    f"--workdir={folder} is another folder on process 0; it must lie "
                    "on a file system that all machines share"
                )
            time.sleep(0.1)

    name = on_primary("mark in the workdir", mark)
    try:
        agreed("look into the workdir", look)
    finally:
        if is_primary():
            os.remove(os.path.join(folder, name))


def steps_ahead(most: int, platform: str) -> int:
    """Returns how many dispatches may be under way while the next one is made."""
    # The collectives of two programs may run in different orders on two hosts, and gloo
    # would wait for half an hour.
    return 0 if platform == "cpu" and num_processes() > 1 else most


@contextlib.contextmanager
def losses_named() -> Generator[None]:
    """Turns the exceptions of XLA for a lost process into RunFailed."""
    try:
        yield
    except (RequestError, RunFailed):
        raise
    except Exception as e:  # Orbax wraps XLA's exceptions in others
        if num_processes() == 1 or not LOST.search(str(e)):
            raise
        raise RunFailed(
            f"process {index()} of {num_processes()} has lost another one "
            f"({one_line(e)}); the message of that process says why. {supervisor.GO_ON}"
        ) from e


def leave(code: int) -> int:
    """Ends the work of this process with the others and returns the exit code. One that
    failed alone exits at once, because JAX's end would wait for the others."""
    if jax.distributed.is_initialized() and code not in (0, STOPPED):
        try:
            barrier("leave", TOGETHER)
        except jax.errors.JaxRuntimeError:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def _knock(group: Group, address: str, seconds: float):
    """Checks that process 0 can use its port and that the others reach it."""
    host, port = split_address(address)
    if group.rank == 0:
        try:
            socket.create_server(("", port)).close()
        except OSError as e:
            raise RequestError(
                f"--coordinator={address}: process 0 cannot listen at port {port} "
                f"here ({e.strerror}); choose another"
            ) from e
        return
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as e:
            if time.monotonic() > deadline:
                raise RunFailed(
                    f"--coordinator={address}: {group.name} could not connect for "
                    f"{seconds:.0f} s ({e.strerror or e}). Start process 0 on that "
                    "machine and open the port"
                ) from e
        time.sleep(0.2)


def _connect():
    """Opens the connections between all devices while all processes are here: later,
    gloo would give up on a process that comes half a minute after another."""
    multihost_utils.sync_global_devices(KEY)
    jax.block_until_ready(jax.jit(jnp.sum)(parallel.ranks(parallel.all_devices())))


def client() -> Any:
    """Returns JAX's client of the key-value store that the processes share."""
    return distributed.global_state.client


def publish(name: str, value: str, *, overwrite: bool = False):
    """Puts this process's value into the shared store."""
    key = f"{KEY}/{name}/{index()}"
    client().key_value_set(key, value, allow_overwrite=overwrite)


def published(name: str) -> list[str]:
    """Returns the values of all processes; waits until each has published its own."""
    return [_get(name, process) for process in range(num_processes())]


def _get(name: str, process: int) -> str:
    key = f"{KEY}/{name}/{process}"
    return client().blocking_key_value_get(key, PATIENCE * 1000)


def _run_published(name: str, function: Callable[[], T], *, with_result: bool) -> T:
    """Returns the function's result; `_outcome` gives it to the other processes."""
    try:
        result = function()
    except (RequestError, RunFailed) as e:
        kind = next(name for name, cls in ERRORS.items() if isinstance(e, cls))
        outcome = {"kind": kind, "why": str(e)}
        publish(f"outcome/{name}", json.dumps(outcome))
        raise
    outcome = {"result": result if with_result else None}
    publish(f"outcome/{name}", json.dumps(outcome))
    return result


def _outcome(name: str, process: int) -> Any:
    """Returns the result that a process has published, or raises its error."""
    outcome = json.loads(_get(f"outcome/{name}", process))
    if "why" in outcome:
        raise ERRORS[outcome["kind"]](f"process {process}: {outcome['why']}")
    return outcome["result"]
