"""The command that runs the paper's tables and other sweeps."""

import contextlib
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
from concurrent import futures

import pytest
from support import processes, xla_flags

from rsmatch_jax import files, sweep
from rsmatch_jax.engine import config_file
from rsmatch_jax.report import grid
from rsmatch_jax.runs import workdir


def test_without_a_name_all_are_listed(capsys):
    assert sweep.main([]) == 0
    printed = capsys.readouterr().out
    for name, table in grid.load().items():
        assert f"  {name}: {table.title}\n" in printed


def launch_lines(capsys, *argv):
    """The lines that a dry run prints, and all that it prints."""
    assert sweep.main([*argv, "--dry_run"]) == 0
    out = capsys.readouterr().out
    return [x for x in out.splitlines() if x.startswith("python launch.py ")], out


def test_dry_run_prints_every_launch_line_and_shards_part_them(tmp_path, capsys):
    argv = ["table1", f"--out={tmp_path}/t"]
    lines, out = launch_lines(capsys, *argv)
    assert len(set(lines)) == 108
    assert sum("--config=cifar100" in x for x in lines) == 54
    assert sum("--config.seed=2" in x for x in lines) == 36
    assert "36 cells x 3 seeds: 108 runs" in out
    parts = [launch_lines(capsys, *argv, f"--shard={i}/5")[0] for i in range(5)]
    assert sorted(sum(parts, [])) == sorted(lines)
    assert sorted(map(len, parts)) == [21, 21, 22, 22, 22]
    assert not os.listdir(tmp_path)


def test_rows_of_a_table_alone(tmp_path, capsys):
    argv = ["table1", f"--out={tmp_path}/t", "--row=RSMatch", "--row=FlexMatch"]
    lines, out = launch_lines(capsys, *argv)
    both = [sum(f"name={m}" in x for x in lines) for m in ("rsmatch", "flexmatch")]
    assert both == [18, 18] and len(lines) == 36
    assert "12 cells x 3 seeds: 36 runs" in out


def test_keys_of_a_method_go_to_its_cells_alone(tmp_path, capsys):
    key = "--config.method.simmatch.temperature=0.2"
    lines, _ = launch_lines(capsys, "digits", "--seeds=0", f"--out={tmp_path}/t", key)
    assert [key in x for x in lines] == ["name=simmatch" in x for x in lines]
    assert sum(key in x for x in lines) == 3


def fake_sweep(num_cells=3):
    cells = tuple(
        grid.Cell(
            row=f"row {i}",
            column="c",
            config="common",
            overrides={"method.name": "supervised", "data.labels_per_class": 4 + i},
        )
        for i in range(num_cells)
    )
    return grid.Sweep(name="mine", title="Mine", cells=cells, baseline="row 0")


@pytest.fixture
def pretend(monkeypatch):
    """Runs end immediately, with the exit code in `outcomes` by folder name."""
    outcomes, launched = {}, []

    def launch(r, seconds):
        assert seconds == math.inf
        launched.append(r.workdir)
        code = outcomes.get(r.cell.folder(), 0)
        config = r.cell.config_dict().to_dict()
        os.makedirs(r.workdir)
        files.write_json(f"{r.workdir}/config.json", {**config, "seed": r.seed})
        result = {"status": "failed" if code else "finished", "test_accuracy": 0.5}
        files.write_json(f"{r.workdir}/result.json", result)
        return code

    monkeypatch.setattr(sweep, "_launch", launch)
    monkeypatch.setattr(grid, "load", lambda: {"mine": fake_sweep()})
    return outcomes, launched


def test_goes_on_after_a_failure_and_says_so(tmp_path, pretend, capsys):
    outcomes, launched = pretend
    outcomes["common-supervised-labels_per_class=5"] = 1
    out = tmp_path / "o"
    assert sweep.main(["mine", "--seeds=0,1", f"--out={out}"]) == 1
    captured = capsys.readouterr()
    assert len(launched) == 6
    assert "2 of 6 runs failed" in captured.err
    assert captured.err.count("labels_per_class=5/seed") == 2
    assert "FAILED with exit code 1" in captured.out
    assert grid.read_record(str(out / "mine.sweep.json"))["seeds"] == [0, 1]


def test_stops_by_itself_and_goes_on(tmp_path, pretend, monkeypatch, capsys):
    """Runs of 60 s in 150 s: the third saves itself after the 30 s that are left."""
    _, launched = pretend
    finish, limits, now = sweep._launch, [], [1000.0]

    def launch(r, seconds):
        limits.append(seconds)
        now[0] += min(seconds, 60.0)
        return finish(r, math.inf) if seconds >= 60 else 75

    monkeypatch.setattr(sweep, "_launch", launch)
    monkeypatch.setattr(sweep.time, "monotonic", lambda: now[0])
    argv = ["mine", "--seeds=0,1", f"--out={tmp_path}", "--minutes=2.5"]
    assert sweep.main(argv) == 75
    printed = capsys.readouterr()
    assert limits == [150, 90, 30] and "4 runs are left" in printed.err
    assert "the same command continues" in printed.err
    assert "FAILED" not in printed.out
    pretend[0][fake_sweep().cells[2].folder()] = 1
    now[0] = 2000.0
    assert sweep.main(argv) == 75
    printed = capsys.readouterr()
    assert limits[3:] == [150, 90, 30] and "1 of 6 runs failed" in printed.err
    assert "seed0.log\n2 runs are left" in printed.err, "the failed one is none of them"
    assert len(launched) == 4


def test_skips_what_is_finished(tmp_path, pretend, capsys):
    _, launched = pretend
    assert sweep.main(["mine", "--seeds=1", f"--out={tmp_path}"]) == 0
    assert sweep.main(["mine", "--seeds=0,1", f"--out={tmp_path}"]) == 0
    assert len(launched) == 6
    assert all("seed0" in folder for folder in launched[3:])
    assert "6 runs; 3 finished already" in capsys.readouterr().out
    assert grid.read_record(str(tmp_path / "mine.sweep.json"))["seeds"] == [0, 1]


def test_other_overrides_in_the_same_folder_are_refused(tmp_path, pretend, capsys):
    assert sweep.main(["mine", "--seeds=0", f"--out={tmp_path}"]) == 0
    argv = ["mine", f"--out={tmp_path}", "--config.train.num_steps=7"]
    assert sweep.main(argv) == 2
    assert "train.num_steps" in capsys.readouterr().err
    argv = ["mine", "--seeds=5", f"--out={tmp_path}", "--config.train.num_steps=7"]
    assert sweep.main(argv) == 2  # no run is there yet, but the record is
    assert "another --out" in capsys.readouterr().err


def test_data_may_lie_elsewhere_at_a_later_start(tmp_path, pretend):
    """As for a single run, and for shards on machines with folders of their own."""
    for seeds, place in [("0", "/a"), ("0,1", "/b")]:
        argv = ["mine", f"--seeds={seeds}", f"--out={tmp_path}"]
        assert sweep.main([*argv, f"--config.data.data_dir={place}"]) == 0
    assert len(pretend[1]) == 6
    argv = ["mine", f"--out={tmp_path}", "--config.data.synthetic_pool=/c"]
    assert sweep.main(argv) == 2  # other pictures, perhaps


def test_runs_that_another_process_trains_are_skipped(tmp_path, pretend, capsys):
    _, launched = pretend
    busy = grid.run_folder(str(tmp_path), fake_sweep().cells[1].folder(), 0)
    with workdir.locked(busy):
        assert sweep.main(["mine", "--seeds=0", f"--out={tmp_path}"]) == 0
    assert len(launched) == 2
    assert busy not in launched
    assert "skipped 1 run that other processes are training" in capsys.readouterr().out


def test_run_that_another_process_began_first_has_not_failed(
    tmp_path, pretend, monkeypatch, capsys
):
    launch = sweep._launch
    with contextlib.ExitStack() as others:

        def overtaken(r, seconds):
            if r.cell.row != fake_sweep().cells[1].row:
                return launch(r, seconds)
            others.enter_context(workdir.locked(r.workdir))
            return 2

        monkeypatch.setattr(sweep, "_launch", overtaken)
        assert sweep.main(["mine", "--seeds=0", f"--out={tmp_path}"]) == 0
    assert "skipped 1 run that other processes are training" in capsys.readouterr().out


def test_records_of_shards_that_start_together(tmp_path):
    """Four writers of four seeds each, as processes are: no seed is lost."""

    def write(shard):
        for seed in range(4 * shard, 4 * shard + 4):
            grid.write_record(str(tmp_path), fake_sweep(), [seed], {})

    with futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    record = grid.read_record(str(tmp_path / "mine.sweep.json"))
    assert record["seeds"] == list(range(16))


@pytest.mark.parametrize("content", ["[1]", '{"status": "fin'])
def test_damaged_result_is_named_with_a_way_out(tmp_path, pretend, capsys, content):
    folder = grid.run_folder(str(tmp_path), fake_sweep().cells[0].folder(), 0)
    os.makedirs(folder)
    config = {**fake_sweep().cells[0].config_dict().to_dict(), "seed": 0}
    files.write_json(f"{folder}/config.json", config)
    with open(f"{folder}/result.json", "w") as f:
        f.write(content)
    assert sweep.main(["mine", "--seeds=0", f"--out={tmp_path}"]) == 2
    printed = capsys.readouterr().err
    assert f"{folder}/result.json cannot be read" in printed
    assert "move it away" in printed


def test_reader_that_has_seen_enough(tmp_path):
    """`| head -1` ends it without a traceback."""
    command = f"{sys.executable} -m rsmatch_jax.sweep table1 --dry_run --out={tmp_path}"
    done = processes.shell(f"{command} | head -1")
    assert done.stdout.startswith("python launch.py ")
    assert "Traceback" not in done.stderr


def _text(path):
    return pathlib.Path(path).read_text() if os.path.exists(path) else ""


def _time_is_up_when_compiled(patch, log):
    """The hour of a sweep is over as soon as its run has compiled the step again."""
    popen, monotonic, passed = subprocess.Popen, time.monotonic, [0.0]

    def compiled():
        return _text(log).count("step compiled in")

    before = compiled()

    class Timed(popen):
        def wait(self, timeout=None):
            if passed[0] or timeout is None:
                return super().wait(timeout)
            assert 0 < timeout <= 3600
            while compiled() == before:
                assert self.poll() is None, "it ended by itself"
                time.sleep(0.02)
            passed[0] = 3600.0
            raise subprocess.TimeoutExpired(self.args, timeout)

    patch.setattr(sweep.child.subprocess, "Popen", Timed)
    patch.setattr(sweep.time, "monotonic", lambda: monotonic() + passed[0])


def test_stopped_twice_and_taken_up_again(tmp_path, monkeypatch, capsys):
    """The real command, stopped by a signal and by --minutes, gives the bits of an
    undisturbed run."""
    small = [
        *("--config.train.num_steps=80", "--config.eval.every_steps=40"),
        *("--config.checkpoint.every_steps=20", "--config.log.every_steps=10"),
        *("--config.train.batch_size=4", "--config.train.unlabeled_ratio=1"),
        *("--config.method.threshold=0.9", "--config.log.tensorboard=False"),
        *("--shard=0/18", "--seeds=0"),
    ]
    command = [sys.executable, "-m", "rsmatch_jax.sweep", "digits", *small]
    command.append(f"--out={tmp_path}")
    cell = grid.load()["digits"].cells[0]
    folder = grid.run_folder(str(tmp_path), cell.folder(), 0)
    monkeypatch.setenv("XLA_FLAGS", xla_flags.with_devices(1))
    process = subprocess.Popen(
        command,
        cwd=config_file.ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    # Before it says so, a signal finds no loop that would write a result.
    while "compiling the step" not in _text(f"{folder}.log"):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert workdir.is_locked(folder)
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=100)
    assert process.returncode == 75
    assert "the same command continues" in printed
    assert workdir.read_result(folder)["status"] == "stopped"
    assert not workdir.is_locked(folder)

    with monkeypatch.context() as patch:
        _time_is_up_when_compiled(patch, f"{folder}.log")
        assert sweep.main([*command[3:], "--minutes=60"]) == 75
    assert "1 run is left after --minutes=60" in capsys.readouterr().err
    assert workdir.read_result(folder)["status"] == "stopped"
    assert not workdir.is_locked(folder)

    done = subprocess.run(command, cwd=config_file.ROOT)
    assert done.returncode == 0
    resumed = workdir.read_result(folder)
    assert resumed["status"] == "finished"
    # Also in a new process, because the number of threads affects rounding.
    undisturbed = f"{tmp_path}/undisturbed"
    command[-1] = f"--out={undisturbed}"
    done = subprocess.run(command, cwd=config_file.ROOT)
    assert done.returncode == 0
    unstopped = workdir.read_result(grid.run_folder(undisturbed, cell.folder(), 0))
    assert resumed["fingerprint"] == unstopped["fingerprint"]
