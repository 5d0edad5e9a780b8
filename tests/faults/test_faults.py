"""Whatever happens to a run, it ends as an undisturbed one: real processes, real
signals, real disks.

Runs of 8 px scans that save every other step. "As an undisturbed one" means the
fingerprint of the whole state, every byte of metrics.jsonl and result.json but for
times.
"""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from support.processes import launch, small_disk, with_default_signals

pytestmark = pytest.mark.slow

STEPS = 80
COMMON = {
    "model.classifier": "wrn_10_1",
    "train.batch_size": 8,
    "train.unlabeled_ratio": 2,
    "train.num_steps": STEPS,
    "eval.every_steps": 40,
    "checkpoint.every_steps": 6,
    "log.every_steps": 7,
    "log.tensorboard": False,
    "method.threshold": 0.3,
}
# What runs are of, and how many times each is killed.
KINDS = {
    "rsmatch": ({}, 7),
    "rsmatch from tf.data": ({"input.mode": "tfdata"}, 5),
    "simmatch": ({"method.name": "simmatch", "method.simmatch.warmup_steps": 10}, 4),
    "flexmatch": ({"method.name": "flexmatch"}, 4),
}
# Keys that may change between two starts, and do at every kill.
FREE = [
    {},
    {"checkpoint.every_steps": 5, "train.steps_per_dispatch": 3},
    {"checkpoint.every_steps": 3, "train.steps_per_dispatch": 8, "input.prefetch": 1},
]


def start(folder, keys=(), **options):
    keys = {**COMMON, **dict(keys)}
    return launch("digits", folder, keys, log(folder), **options)


def finish(folder, keys=()):
    code = start(folder, keys).wait(timeout=300)
    assert code == 0, text(folder)[-3000:]


def log(folder):
    """Not on the disk of the workdir, which may be full."""
    return folder.parent.parent / f"{folder.parent.name}.log"


def text(folder):
    return log(folder).read_text()


def outcome(folder):
    """What must be equal; not the config, of which some keys changed on the way."""
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "finished" and result["fingerprint"]
    for key in ("seconds", "images_per_second", "config"):
        del result[key]
    return [result, *(folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """of(kind): the outcome of an undisturbed run, its seconds after compilation, and
    its folder. All workers share one run."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # else above it lie other sessions' folders
        shared = shared.parent
    shared = shared / "undisturbed"

    def of(kind):
        folder, seconds = shared / kind / "run", shared / kind / "seconds"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(shared / f"{kind}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not seconds.exists():
                finish(folder, KINDS[kind][0])  # compiles
                shutil.rmtree(folder)
                begin = time.monotonic()
                finish(folder, KINDS[kind][0])
                seconds.write_text(str(time.monotonic() - begin))
        return outcome(folder), float(seconds.read_text()), folder

    return of


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment(tmp_path, undisturbed, survived, kind):
    """SIGKILL at random moments of a run; the next start has other free keys."""
    keys, kills = KINDS[kind]
    survived(f"SIGKILL, {kind}", kills)
    expected, seconds, _ = undisturbed(kind)
    folder, chance, moments = tmp_path / "run", random.Random(kind), []
    while len(moments) < kills:
        free = FREE[len(moments) % len(FREE)]
        begun, share = saved(folder), 0.7  # of a whole run
        process = start(folder, {**keys, **free})
        if len(moments) % 2:  # every other one in mid-training
            wait_for(process, folder, lambda begun=begun: saved(folder) > begun)
            share = 0.2
        try:
            process.wait(chance.uniform(0.0, share) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            moments.append(saved(folder))
        else:  # it finished before the kill: again
            assert process.returncode == 0, text(folder)[-3000:]
            assert outcome(folder) == expected, moments
            shutil.rmtree(folder)
    finish(folder, {**keys, **FREE[1]})
    assert outcome(folder) == expected, moments
    assert any(0 < step < STEPS for step in moments), moments
    print(f"{kind}: killed with these steps saved: {moments}")


def wait_for(process, folder, condition):
    """Waits until the condition holds or the process ends."""
    while not condition() and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() in (None, 0), text(folder)[-3000:]


def saved(folder):
    if not (folder / "checkpoints").is_dir():
        return 0
    names = os.listdir(folder / "checkpoints")
    return max((int(name) for name in names if name.isdigit()), default=0)


@pytest.mark.parametrize("number", [signal.SIGTERM] * 5 + [signal.SIGINT], ids=range(6))
def test_signals(tmp_path, undisturbed, survived, number, request):
    """75 and result.json within 30 s, the step under way saved."""
    survived(number.name)
    kind = list(KINDS)[request.node.callspec.indices["number"] % 2]
    expected, seconds, _ = undisturbed(kind)
    folder = tmp_path / "run"
    chance = random.Random(request.node.name)
    process = start(folder, KINDS[kind][0], preexec_fn=with_default_signals)
    wait_for(process, folder, (folder / "metrics.jsonl").exists)
    time.sleep(chance.uniform(0.1, 0.6) * seconds)
    process.send_signal(number)
    begin = time.monotonic()
    assert process.wait(timeout=30) == 75, text(folder)
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "stopped"
    assert result["steps"] == saved(folder)
    print(f"{number.name} at step {result['steps']}: {time.monotonic() - begin:.1f} s")
    finish(folder, KINDS[kind][0])
    assert outcome(folder) == expected


def truncate(checkpoint):
    for path in (checkpoint / "state").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)


def lose_files(checkpoint):
    shutil.rmtree(checkpoint / "state" / "ocdbt.process_0")
    shutil.rmtree(checkpoint / "state" / "d")


def take_of_another_model(checkpoint, other):
    shutil.rmtree(checkpoint)
    shutil.copytree(other / "checkpoints" / str(STEPS), checkpoint)


@pytest.mark.parametrize("damage", [truncate, lose_files, take_of_another_model])
def test_damaged_checkpoint(tmp_path, undisturbed, survived, damage):
    """The run goes back to the checkpoint before and moves the damaged one aside."""
    survived(f"damaged checkpoint: {damage.__name__.replace('_', ' ')}")
    expected, seconds, _ = undisturbed("rsmatch")
    folder = tmp_path / "run"
    process = start(folder)
    wait_for(process, folder, lambda: saved(folder) >= STEPS // 2)
    process.kill()
    process.wait()
    newest = saved(folder)
    more = [undisturbed("flexmatch")[2]] if damage is take_of_another_model else []
    damage(folder / "checkpoints" / str(newest), *more)
    finish(folder)
    assert f"checkpoints/{newest} is damaged" in text(folder)
    assert "going back to step" in text(folder)
    assert (folder / "checkpoints_damaged" / str(newest)).is_dir()
    assert outcome(folder) == expected


def test_full_disk(tmp_path, undisturbed, survived):
    survived("full disk")
    expected, _, _ = undisturbed("rsmatch")
    events = {"log.tensorboard": True}
    with small_disk(tmp_path / "disk", "16m") as disk:
        folder = disk / "run"
        process = start(folder, events)
        wait_for(process, folder, lambda: saved(folder) >= 12)
        filler = disk / "filler"
        filler.write_bytes(b"0")
        with open(filler, "ab", buffering=0) as f:
            try:
                while True:
                    f.write(bytes(4096))
            except OSError:
                pass
        assert process.wait(timeout=60) == 1
        message = text(folder)
        last = saved(folder)
        filler.unlink()
        assert "error: " in message
        finish(folder, events)
        assert "No space left on device" in message
        assert f"resumed at step {last}" in text(folder)
        assert outcome(folder) == expected


def test_second_run_on_one_workdir(tmp_path, undisturbed, survived):
    survived("second run")
    expected, _, _ = undisturbed("rsmatch")
    folder = tmp_path / "run"
    first = start(folder)
    wait_for(first, folder, lambda: saved(folder) >= 8)
    second = start(folder)
    assert second.wait(timeout=60) == 2
    assert "another process is training there" in text(folder)
    assert first.wait(timeout=120) == 0
    assert outcome(folder) == expected
