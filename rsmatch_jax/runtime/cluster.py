"""Whether this process is one of several of a run: by flags, or by the environment.

JAX itself connects processes under SLURM, Open MPI, Kubernetes and on TPU pods; here it
is decided whether there are several. The parent (`supervisor`) must not import JAX.
"""

import dataclasses
import glob
import importlib.util
import re
import urllib.request
from collections.abc import Mapping, Sequence

from absl import flags

from rsmatch_jax.errors import RequestError

ALONE = "--num_processes=1 trains in this process alone"
THREE = "--coordinator=HOST:PORT --num_processes=N --process_id=I"
METADATA = "/computeMetadata/v1/instance/attributes/worker-network-endpoints"


@dataclasses.dataclass(frozen=True)
class Group:
    """The processes of a run, before JAX has started.

    source: where it is known from. coordinator (HOST:PORT), size, rank: None if JAX
    finds them. method: JAX's name for its way of finding them. local_devices: this
    process's GPUs. None = JAX chooses.
    """

    source: str
    coordinator: str | None = None
    size: int | None = None
    rank: int | None = None
    method: str | None = None
    local_devices: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """Returns this process's name in messages."""
        if self.rank is None:
            return f"this process (one of several, {self.source})"
        return f"process {self.rank} of {self.size}"


def define_flags(values: flags.FlagValues):
    """Adds --coordinator, --num_processes and --process_id."""
    flags.DEFINE_string("coordinator", None, "Process 0.", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "Of the run.", flag_values=values)
    flags.DEFINE_integer("process_id", None, "This one's.", flag_values=values)


def from_command_line(argv: Sequence[str], environ: Mapping[str, str]) -> Group | None:
    """Returns the group by the flags of a command line; ignores its other flags."""
    values = flags.FlagValues()
    define_flags(values)
    try:
        values(["rsmatch", *argv], known_only=True)
    except flags.Error as e:
        raise RequestError(str(e)) from e
    return find(values.coordinator, values.num_processes, values.process_id, environ)


def find(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    environ: Mapping[str, str],
) -> Group | None:
    """Returns the group by the three flags or the environment; None = a process alone.
    Raises RequestError if the flags do not fit each other."""
    values = (coordinator, num_processes, process_id)
    if values == (None, 1, None):
        return None
    if values == (None, None, None):
        return _detect(environ)
    if coordinator is None or num_processes is None or process_id is None:
        raise RequestError(
            f"of {THREE} some are missing; use all three, or none under SLURM, Open "
            f"MPI, Kubernetes and on TPU pods, where JAX finds them. {ALONE}"
        )
    if num_processes < 1:
        raise RequestError(f"--num_processes={num_processes}: it must be 1 or more")
    if not 0 <= process_id < num_processes:
        raise RequestError(
            f"--process_id={process_id}: with --num_processes={num_processes} it must "
            f"lie between 0 and {num_processes - 1}, and differ from process to process"
        )
    split_address(coordinator)
    if num_processes == 1:
        return None
    return Group("by flags", coordinator, num_processes, process_id)


def split_address(address: str) -> tuple[str, int]:
    """Returns (host, port) of HOST:PORT; raises RequestError for anything else."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):(\d{1,5})", address)
    if not match or not 0 < int(match[2]) < 2**16:
        raise RequestError(
            f"--coordinator={address}: it must be HOST:PORT, the machine of process 0 "
            "and a free port there, such as node1:12345"
        )
    return match[1].strip("[]"), int(match[2])


def _detect(environ: Mapping[str, str]) -> Group | None:
    size = _number(environ, "OMPI_COMM_WORLD_SIZE")
    if size > 1:
        rank = _number(environ, "OMPI_COMM_WORLD_RANK")
        if "OMPI_MCA_orte_hnp_uri" not in environ:  # Open MPI 5: JAX finds no address
            raise RequestError(
                f"mpirun has started {size} processes, and this Open MPI does not tell "
                "JAX where they meet; add --coordinator=HOST:PORT "
                f"--num_processes={size} --process_id=$OMPI_COMM_WORLD_RANK. {ALONE}"
            )
        gpus = _gpus_of_process(environ, _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE"))
        return Group("by Open MPI", None, size, rank, "ompi", gpus)
    size = _number(environ, "SLURM_STEP_NUM_TASKS")  # a batch script has no step
    if size > 1:
        gpus = _gpus_of_process(environ, _slurm_tasks_here(environ))
        rank = _number(environ, "SLURM_PROCID")
        return Group("by SLURM", None, size, rank, "slurm", gpus)
    hosts = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES"))
    if hosts is not None:
        several = "," in hosts or _number(environ, "MEGASCALE_NUM_SLICES") > 1
        return Group("by Kubernetes", method="gketpu") if several else None
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        if importlib.util.find_spec("kubernetes") is None:
            raise RequestError(
                "this pod belongs to an indexed Job, and JAX needs the package "
                "kubernetes to find its other pods: pip install 'jax[k8s]', or use "
                f"{THREE}. {ALONE}"
            )
        return Group("by Kubernetes")
    if _has_tpu() and len(_tpu_workers(environ)) > 1:
        return Group("by the TPU pod", method="gcetpu")
    return None


def _number(environ: Mapping[str, str], name: str) -> int:
    """Returns the number in a variable, 0 if there is none."""
    value = environ.get(name, "")
    return int(value) if value.isdecimal() else 0


def _slurm_tasks_here(environ: Mapping[str, str]) -> int:
    """Returns the tasks on this node, from a list such as 4(x2),1; 0 if unknown."""
    nodes = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", nodes)
    counts = [int(count) for count, times in parts for _ in range(int(times or 1))]
    node = _number(environ, "SLURM_NODEID")
    return counts[node] if node < len(counts) else 0


def _gpus_of_process(
    environ: Mapping[str, str], local_processes: int
) -> tuple[int, ...] | None:
    """Returns the GPUs that a process takes; None = JAX chooses that of the local rank,
    which is wrong for a process alone on its machine or with one visible GPU."""
    seen = environ.get("CUDA_VISIBLE_DEVICES", "")
    count = len(seen.split(",")) if seen else len(_gpu_files())
    if count == 1:
        return (0,)
    if count and local_processes == 1:
        return tuple(range(count))
    return None


def _gpu_files() -> Sequence[str]:
    return glob.glob("/dev/nvidia[0-9]*")


def _has_tpu() -> bool:
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _tpu_workers(environ: Mapping[str, str]) -> list[str]:
    """Returns the hosts of a TPU VM's slice; [] if its metadata server is silent."""
    server = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}{METADATA}", headers={"Metadata-Flavor": "Google"}
    )
    # The server is on the machine's local network, so no proxy.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return answer.read().decode().split(",")
    except OSError:
        return []
