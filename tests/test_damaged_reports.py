"""Is a run's folder that was damaged or edited one line, and never a report on what it does not say?"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from recbole_rawp.errors import InputError
from recbole_rawp.evaluation.records import Check
from recbole_rawp.evaluation.users import Users, read_users, write_users
from recbole_rawp.jobs import report
from recbole_rawp.jobs.comparison.rows import read_rows
from recbole_rawp.report import run_files
from recbole_rawp.report.run_files import Run
from tests.test_report import COLUMNS, measured, users_of

FACTS = {"metric": "ndcg@10", "bigger": True, "settings": {}, "notes": ["a"], "environment": "here"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The folder of a sound run."""
    folder, records = tmp_path_factory.mktemp("run"), measured()
    run = Run("run", pd.DataFrame(records, columns=COLUMNS), [Check("none", "c", "passed", "")], {}, FACTS)
    run_files.write_run(folder, run)
    write_users(folder / "users.npz", {"universal": users_of(records)})
    np.savez(folder / "candidates.npz", a=np.arange(3))
    return folder


def cell(name, value, rows=slice(None)):
    def damage(folder):
        frame = pd.read_csv(folder / "records.csv", dtype=str, keep_default_na=False)
        frame.loc[frame.index[rows], name] = value
        frame.to_csv(folder / "records.csv", index=False)

    return damage


def rows(change):
    def damage(folder):
        frame = pd.read_csv(folder / "records.csv", keep_default_na=False)
        change(frame).to_csv(folder / "records.csv", index=False)

    return damage


def edited(file, change):
    def damage(folder):
        value = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(change(value)))

    return damage


def users(**changes):
    def damage(folder):
        with np.load(folder / "users.npz") as file:
            arrays = dict(file)
        for name, change in changes.items():
            arrays[f"universal/{name}"] = np.asarray(change(arrays[f"universal/{name}"]))
        np.savez(folder / "users.npz", **arrays)

    return damage


def conditions(change):
    return users(conditions=lambda text: json.dumps(change(json.loads(str(text)))))


def flipped(folder):
    content = bytearray((folder / "users.npz").read_bytes())
    content[200:-400:97] = bytes(byte ^ 255 for byte in content[200:-400:97])
    (folder / "users.npz").write_bytes(content)


def written(file, content):
    return lambda folder: (folder / file).write_bytes(content)


def array(folder):
    with open(folder / "users.npz", "wb") as file:
        np.save(file, np.zeros(3))


ONE = slice(3, 4)
DAMAGE = {
    "radius -1": (cell("level", "-1", ONE), "records.csv': line 5: level is '-1.0', not a number >= 0"),
    "radius inf": (cell("level", "inf", ONE), "line 5: level is 'inf'"),
    "no radius": (cell("level", "", ONE), "could not convert"),
    "doubled rows": (rows(lambda frame: pd.concat([frame, frame])), "line 26 measures what a line above it does"),
    "two values": (rows(lambda frame: pd.concat([frame, frame.assign(value=0.5)])), "line 26 measures what"),
    "no clean model": (rows(lambda frame: frame[frame["level"] > 0]), "not measured at level 0, the clean model"),
    "seed 1.5": (cell("seed", "1.5", ONE), "line 5: seed is '1.5', not a whole number from 0"),
    "no seed": (cell("seed", "", ONE), "line 5: seed is ''"),
    "stage 7": (cell("stage", "7"), "line 2: stage is '7'"),
    "steps -3": (cell("steps", "-3", ONE), "line 5: steps is '-3'"),
    "no defense": (cell("defense", ""), "line 2: defense is '', not a name"),
    "two lines": (cell("model", "M\n# x"), "model is 'M\\n# x', not a name"),
    "no metric": (cell("metric", "", ONE), "metric is '', not a name"),
    "other loss": (cell("loss", "zzz"), "loss is 'zzz', not training or ranking"),
    "other scope": (cell("scope", "zzz"), "scope is 'zzz'"),
    "other split": (cell("split", "zzz"), "split is 'zzz'"),
    "binary": (written("records.csv", bytes(range(256))), "records.csv"),
    "checks null": (edited("checks.json", lambda _: None), "checks.json': not a list"),
    "checks of words": (edited("checks.json", lambda _: ["a"]), "check 1 has other fields than"),
    "a check's field": (edited("checks.json", lambda rows: [rows[0] | {"z": 1}]), "check 1 has other fields"),
    "a check of lists": (
        edited("checks.json", lambda rows: [rows[0] | {"detail": []}]),
        "check 1 holds what is no text",
    ),
    "a great check": (edited("checks.json", lambda rows: [rows[0] | {"status": "great"}]), "status 'great'"),
    "checks binary": (written("checks.json", b"\xff\xfe\x00"), "checks.json"),
    "report null": (edited("report.json", lambda _: None), "report.json': not a mapping"),
    **{
        f"{name} {value}": (edited("report.json", lambda facts, n=name, v=value: facts | {n: v}), f"{name} is ")
        for name, value in {
            "metric": [],
            "bigger": "no",
            "settings": None,
            "notes": 5,
            "environment": [1],
        }.items()
    },
    "notes of numbers": (edited("report.json", lambda facts: facts | {"notes": [5]}), "notes hold what is no text"),
    "report deep": (written("report.json", b"[" * 100_000), "recursion"),
    "users k": (users(k=lambda _: "x"), "users.npz': invalid literal"),
    "users k -1": (users(k=lambda _: -1), "of the top -1"),
    "users NaN": (users(values=lambda values: values * np.nan), "its values are all NaN"),
    "users text": (users(activity=lambda values: values.astype(str)), "activity: holds no numbers"),
    "users short": (users(values=lambda values: values[:-1]), "values: shape"),
    "users overlap": (users(overlap=lambda values: values + 7), "overlap: no shares"),
    "users fractions": (users(user=lambda values: values + 0.5), "user: holds no numbers"),
    "users metrics": (users(metrics=lambda _: "5"), "metrics: 5 are no names"),
    "users radius": (conditions(lambda rows: [row | {"level": row["level"] + 1} for row in rows]), "conditions that"),
    "users words": (conditions(lambda rows: [rows[0] | {"level": "much"}, *rows[1:]]), "it tells of conditions that"),
    "users twice": (conditions(lambda rows: [rows[0]] * len(rows)), "conditions: one is there twice"),
    "users flipped": (flipped, "users.npz"),
    "users empty": (written("users.npz", b""), "users.npz"),
    "users array": (array, "users.npz"),
    "candidates": (written("candidates.npz", b"x"), "candidates.npz"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_one_line_with_file_and_reason(name, sound, tmp_path):
    damage, reason = DAMAGE[name]
    folder = shutil.copytree(sound, tmp_path / "run")
    damage(folder)
    with pytest.raises(InputError) as error:
        run_files.read_run(folder)
    assert reason in str(error.value) and "\n" not in str(error.value) and str(folder) in str(error.value)


def test_users_that_lack_what_the_records_have_are_told(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "run")
    part = read_users(folder / "users.npz")["universal"]
    fewer = vars(part) | {name: getattr(part, name)[:-1] for name in ("conditions", "values", "overlap")}
    write_users(folder / "users.npz", {"universal": Users(**fewer)})
    with pytest.raises(InputError, match="it lacks conditions of records.csv"):
        run_files.read_run(folder)


def test_a_run_of_nan_alone_has_no_report(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "run")
    cell("value", "nan")(folder)
    with pytest.raises(InputError, match="each value of these runs is NaN"):
        report.combine([str(folder)], str(tmp_path / "both"))
    assert not (tmp_path / "both").exists()


def test_a_run_of_nan_alone_is_left_out_of_a_report_on_several(sound, tmp_path, caplog):
    folder = shutil.copytree(sound, tmp_path / "run")
    cell("value", "nan")(folder)
    both = report.combine([str(folder), str(sound)], str(tmp_path / "both"))
    assert len(both["records"]) == len(run_files.read_run(sound).frame)
    assert "'run' is left out: each of its values is NaN" in caplog.text


def test_a_sound_folder_is_read_and_single_scores_may_be_nan(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "run")
    cell("value", "nan", ONE)(folder)
    users(values=lambda values: np.where(np.arange(values.shape[-1]) == 2, np.nan, values))(folder)
    run = run_files.read_run(folder)
    assert run.frame["value"].isna().sum() == 1 and run.facts["notes"] == ["a"] and len(run.checks) == 1
    for file in ("checks.json", "report.json", "users.npz", "candidates.npz"):
        (folder / file).unlink()
    assert run_files.read_run(folder).facts == {}


@pytest.mark.parametrize(
    "text",
    [
        "folder,status,seconds\na,finished,1\na,finished,2\n",
        "folder,status,seconds\na,done,1\n",
        "folder,status,seconds\na,finished,long\n",
        "folder\na\n",
        "\x00",
        "",
    ],
)
def test_rows_of_a_comparison_that_were_damaged_are_one_line(text, tmp_path):
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(InputError, match="^resume: cannot read '.*runs.csv': .*Remove it") as error:
        read_rows(tmp_path)
    assert "\n" not in str(error.value)
