"""Do several processes on one comparison do what one does: each run once, and a dead one's run again?"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

from recbole_rawp.cli.main import main
from recbole_rawp.errors import Busy
from recbole_rawp.jobs import output_folder, train
from recbole_rawp.jobs.comparison import compare as comparisons
from recbole_rawp.jobs.comparison import rows, workers
from recbole_rawp.jobs.comparison.compare import compare
from recbole_rawp.jobs.comparison.grid import Cell
from tests.test_compare import LINE, options, run, timeless

HOLD = """if True:
    import pathlib, sys, time
    from recbole_rawp.jobs.output_folder import held
    with held(pathlib.Path(sys.argv[1])):
        print(flush=True)
        time.sleep(99)
"""


@pytest.fixture
def elsewhere():
    """Return a function that lets another process work in a folder until it is killed."""
    started = []

    def begin(folder):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
        process.stdout.readline()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_three_workers_find_what_one_does_and_share_the_runs(settings):
    run(settings, "one", seeds=3)
    given = options(settings)
    result = compare("NeuMF", "toy", "none,rawp_reference", 3, config_dict=given, folder="three", workers=3)
    assert not result["failed"]
    one, three = timeless("one"), timeless("three")
    one[0], three[0] = (rows_of.sort_values("folder", ignore_index=True) for rows_of in (one[0], three[0]))
    for mine, theirs in zip(one, three):
        pd.testing.assert_frame_equal(mine, theirs)
    logs = [Path(f"three/worker-{number}.log").read_text() for number in (2, 3)]
    assert any(": begins" in log for log in logs)
    assert sum(log.count(": begins") for log in logs) < 6  # this process did some, and nobody did one again


def test_a_folder_is_made_ready_for_others(settings, capsys):
    given = options(settings)
    assert compare("NeuMF", "toy", "none", 2, config_dict=given, folder="ready", workers=0) == {"output_dir": "ready"}
    assert not list(Path("ready").rglob("*.pth"))
    assert main(["compare", "--resume=ready"]) == 0
    assert capsys.readouterr().out.count(": finished") == 2
    assert main(["compare", "--resume=ready", "--workers=0"]) == 0
    assert "Nothing is trained yet. Any number of processes may: recbole-rawp compare --resume=ready" in (
        capsys.readouterr().out
    )


def test_a_comparison_whose_runs_all_failed_goes_on(settings):
    rows.put(rows.failure(Cell("NeuMF", "toy", "none", 2020), "x"), Path())
    assert rows.read_rows(Path())["NeuMF-toy-none-2020"]["reason"] == "x"


def test_the_run_of_a_process_that_dies_is_waited_for_and_done(settings, elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(comparisons, "PAUSE", 0.1)
    run(settings, "cmp", defenses="none")
    folder = Path("cmp/NeuMF-toy-none-2020")
    Path("cmp/runs.csv").unlink()
    other = elsewhere(folder)
    with pytest.raises(Busy):
        workers.check_idle(folder)
    threading.Timer(1.0, other.kill).start()
    assert not compare(folder="cmp")["failed"]
    out = capsys.readouterr().out
    assert out.count("Waits for NeuMF-toy-none-2020: another process is at work there.") == 1
    assert "[1/1] NeuMF-toy-none-2020: finished" in out.rpartition("Waits for")[2]


def test_a_run_waits_for_the_plain_run_that_it_goes_on_from(settings, elsewhere, monkeypatch):
    plain, hardened = (Cell("NeuMF", "toy", name, 2020) for name in ("none", "rawp"))
    Path(plain.name).mkdir()
    monkeypatch.setattr(comparisons, "plain_run", lambda cell, *_: plain if cell is hardened else None)
    monkeypatch.setattr(comparisons, "run", lambda cell, *_: rows.failure(cell, "x"))
    made = type("Plan", (), {"impossible": {}})()
    other = elsewhere(Path(plain.name))
    with pytest.raises(Busy):
        comparisons.attend(hardened, made, Path(), [], 0.0, "name")
    other.kill()
    other.wait()
    assert comparisons.attend(hardened, made, Path(), [], 0.0, "name") == "failed: x"  # it trains its own


def test_what_failed_in_another_process_is_not_tried_again_here_but_by_the_next_command(settings, monkeypatch):
    cell, tried = Cell("NeuMF", "toy", "none", 2020), []
    made = type("Plan", (), {"impossible": {}})()
    monkeypatch.setattr(comparisons, "plain_run", lambda *_: None)
    monkeypatch.setattr(train, "continue_run", lambda folder, **_: tried.append(folder) or 1 / 0)
    Path(cell.name).mkdir()
    begun = workers.time_there(Path())
    assert comparisons.attend(cell, made, Path(), [], begun, "name").startswith("failed: ZeroDivisionError")
    assert comparisons.attend(cell, made, Path(), [], begun, "name").startswith(
        "failed in another process: ZeroDivision"
    )
    assert len(tried) == 1
    later = (Path(cell.name) / workers.TRACE).stat().st_mtime + 1
    comparisons.attend(cell, made, Path(), [], later, "name")
    assert len(tried) == 2


def test_rows_of_two_processes_are_kept(monkeypatch):
    first, second = (rows.failure(Cell("M", "D", name, 1), "x") for name in ("none", "rawp"))
    threads = [threading.Thread(target=rows.put, args=(row, Path())) for row in (first, second) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(rows.read_rows(Path())) == {first["folder"], second["folder"]}


def test_one_waits_for_a_folder_or_does_not(elsewhere, tmp_path):
    other = elsewhere(tmp_path)
    with pytest.raises(Busy), output_folder.held(tmp_path, patience=0.2):
        pass
    threading.Timer(0.5, other.kill).start()
    with output_folder.held(tmp_path, patience=output_folder.FOREVER):
        assert other.wait() != 0


@pytest.mark.parametrize("value", ["-1", "two", "1.5"])
def test_a_number_of_workers_that_is_none_is_one_line(value, capsys):
    assert main([*LINE, "--defenses=none", f"--workers={value}"]) == 2
    err = capsys.readouterr().err
    assert value in err and "expected how many processes, or 0 for none yet." in err and err.count("\n") == 1
