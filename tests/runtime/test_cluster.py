"""Which processes belong together."""

import http.server
import threading

import pytest

from rsmatch_jax.errors import RequestError
from rsmatch_jax.runtime import cluster, hosts
from rsmatch_jax.runtime.cluster import Group

STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "node[3-5]",
    "SLURM_NTASKS": "6",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_TASKS_PER_NODE": "1,4,1",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "1",
}
MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


@pytest.fixture(autouse=True)
def no_accelerators(monkeypatch):
    monkeypatch.setattr(cluster, "_gpu_files", list)
    monkeypatch.setattr(cluster, "_has_tpu", lambda: False)


def find(environ):
    return cluster.find(None, None, None, environ)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("h:1", None, None), "--coordinator=HOST:PORT --num_processes=N"),
        ((None, 2, None), "some are missing"),
        ((None, None, 0), "some are missing"),
        (("h:1", 2, None), "some are missing"),
        ((None, 1, 0), "some are missing"),
        (("h:1", 2, 2), "--process_id=2.* between 0 and 1"),
        (("h:1", 2, -1), "--process_id=-1"),
        (("h:1", 0, 0), "--num_processes=0"),
        (("h", 2, 0), "--coordinator=h: it must be HOST:PORT"),
        (("h:", 2, 0), "--coordinator=h:"),
        (("h:0", 2, 0), "--coordinator=h:0"),
        (("h:70000", 2, 0), "--coordinator=h:70000"),
        (("http://h:1", 2, 0), "--coordinator=http://h:1"),
        (("", 2, 0), "--coordinator=:"),
    ],
)
def test_wrong_flags(flags, words):
    with pytest.raises(RequestError, match=words):
        cluster.find(*flags, {})


def test_flags():
    group = cluster.find("node1:12345", 3, 2, STEP)
    assert group == Group("by flags", "node1:12345", 3, 2)
    assert group.name == "process 2 of 3"
    assert cluster.find("node1:12345", 1, 0, {}) is None
    assert cluster.find(None, 1, None, STEP) is None
    assert cluster.split_address("[::1]:80") == ("::1", 80)
    # On a command line with other flags.
    argv = ["--config=x.py", "--process_id", "1", "--config.seed=2"]
    more = ["--num_processes=2", "--coordinator=h:1"]
    assert cluster.from_command_line([*argv, *more], {}).rank == 1
    assert cluster.from_command_line(["--config=x.py"], {}) is None
    with pytest.raises(RequestError, match="num_processes.*two"):
        cluster.from_command_line(["--num_processes=two"], {})


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {k: v for k, v in STEP.items() if "STEP" not in k},  # a batch script
        {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"},
        {**MPI, "OMPI_COMM_WORLD_SIZE": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
    ],
)
def test_alone(environ):
    assert find(environ) is None


@pytest.mark.parametrize(
    ("environ", "expected", "name"),
    [(STEP, (6, 2, "slurm"), "SlurmCluster"), (MPI, (4, 3, "ompi"), "OmpiCluster")],
)
def test_jax_reads_the_same_environment_alike(environ, expected, name, monkeypatch):
    group = find(environ)
    assert (group.size, group.rank, group.method) == expected
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    theirs = getattr(hosts.distributed.clusters, name)
    assert theirs.is_env_present()
    answers = theirs.get_process_count(), theirs.get_process_id(), theirs.name
    assert answers == expected


@pytest.mark.parametrize(
    ("node", "gpus", "mine"),
    [
        ("1", "0,1,2,3", None),  # four tasks, four GPUs: JAX gives one to each
        ("1", "2", (0,)),  # each task sees one GPU
        ("0", "0,1,2,3", (0, 1, 2, 3)),  # one task: all, where JAX would take one
        ("0", "", None),
    ],
)
def test_gpus_of_a_slurm_task(node, gpus, mine):
    environ = {**STEP, "SLURM_NODEID": node, "CUDA_VISIBLE_DEVICES": gpus}
    assert find(environ).local_devices == mine


@pytest.mark.parametrize(("node", "tasks"), enumerate([4, 4, 1, 0]))
def test_tasks_of_a_node(node, tasks):
    environ = {"SLURM_STEP_TASKS_PER_NODE": "4(x2),1", "SLURM_NODEID": str(node)}
    assert cluster._slurm_tasks_here(environ) == tasks


def test_open_mpi_that_does_not_tell_jax_the_address():
    new = {k: v for k, v in MPI.items() if "orte" not in k}
    with pytest.raises(RequestError, match=r"--process_id=\$OMPI_COMM_WORLD_RANK"):
        find(new)


def test_pods_of_kubernetes(monkeypatch):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"jax\[k8s\].*--num_processes=1"):
        find(POD)
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: name)
    assert find(POD) == Group("by Kubernetes")
    assert find({**POD, "TPU_WORKER_HOSTNAMES": "a,b"}).method == "gketpu"
    slices = {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}
    assert find(slices).method == "gketpu"


@pytest.mark.parametrize(("workers", "method"), [("a,b", "gcetpu"), ("a", None)])
def test_tpu_vm_asks_its_metadata_server(workers, method, monkeypatch):
    requests = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append((self.path, self.headers["Metadata-Flavor"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(workers.encode())

        def log_message(self, *args):
            pass

    monkeypatch.setattr(cluster, "_has_tpu", lambda: True)
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        group = find({"GCE_METADATA_IP": address})
        server.shutdown()
    assert (group and group.method) == method
    assert requests == [(cluster.METADATA, "Google")]
    assert find({"GCE_METADATA_IP": address}) is None  # nobody there any more
