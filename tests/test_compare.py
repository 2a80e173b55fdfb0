"""Does a grid of runs hold together: named, killed, gone on with, failed, and summed up as the formulas say?"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from recbole_rawp.cli.main import main
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation import statistics
from recbole_rawp.jobs import train
from recbole_rawp.jobs.comparison import grid
from recbole_rawp.jobs.comparison.begun import check_begun
from recbole_rawp.jobs.comparison.compare import compare
from recbole_rawp.report.comparison import paired_tests, pareto


def options(settings, model="NeuMF", **overrides):
    own = {"epochs": 1, "attack_radii": [0.1, 0.3], "attack_batches": 1, "attack": ["noise", "fgsm"]}
    given = settings(model, **own, valid_metric="NDCG@10", metrics=["NDCG"], topk=[10], **overrides)
    return {key: value for key, value in given.items() if key not in ("model", "dataset")}


def run(settings, folder, *, models="NeuMF", defenses="none,rawp_reference", seeds=1, **overrides):
    return compare(models, "toy", defenses, seeds, config_dict=options(settings, **overrides), folder=folder)


def timeless(folder):
    """Return what a comparison wrote of numbers, without times."""
    rows = pd.read_csv(Path(folder, "runs.csv")).drop(columns="seconds")
    return [rows, *(pd.read_csv(Path(folder, name)) for name in ("comparison.csv", "tests.csv"))]


@pytest.mark.parametrize(
    ("value", "seeds"),
    [
        (3, (7, 8, 9)),
        (2020, (2020,)),
        ((2020, 2021), (2020, 2021)),
        ([1, 2, 1], (1, 2)),
        (None, (7, 8, 9)),
    ],
)
def test_a_small_number_counts_seeds_and_others_are_seeds(value, seeds):
    assert grid.numbers(value, 7) == seeds


@pytest.mark.parametrize("value", [0, -1, "abc", True, [], [1, "x"], 1.5])
def test_what_is_no_seed_is_refused(value):
    with pytest.raises(InputError, match="^seeds: "):
        grid.numbers(value, 7)


def test_names_stand_between_commas_or_in_lists_each_once():
    for value in ("none,rawp_reference,none", "[none, rawp_reference]", ["none", "rawp_reference"]):
        assert grid.names("defenses", value) == ("none", "rawp_reference")
    with pytest.raises(InputError, match="^defenses: 'none,' has an empty name"):
        grid.names("defenses", "none,")


def test_a_config_file_may_be_for_one_model_data_set_or_defense(settings):
    Path("all.yaml").write_text("epochs: 4\nrawp_radius: 0.2\n")
    Path("own.yaml").write_text("rawp_radius: 0.7\n")
    rest = {key: value for key, value in options(settings).items() if key != "epochs"}
    made = grid.read("NeuMF,DMF", "toy", "awp,rawp_reference", [5], ["all.yaml", "rawp_reference:own.yaml"], rest)
    found = {(c.model, c.defense): made.settings(c, {}) for c in made.cells()}
    assert {key: config["rawp_radius"] for key, config in found.items()} == {
        (model, defense): 0.7 if defense == "rawp_reference" else 0.2
        for model in ("NeuMF", "DMF")
        for defense in ("awp", "rawp_reference")
    }
    assert all(config["epochs"] == 4 and config["seed"] == 5 for config in found.values())
    with pytest.raises(
        InputError, match="no model, data set or defense 'rwap_reference' is compared. Did you mean 'rawp"
    ):
        made = grid.read("NeuMF", "toy", "rawp_reference", 1, ["rwap_reference:own.yaml"], rest)
        made.settings(made.cells()[0], {})


def test_a_comparison_killed_in_its_second_run_goes_on_and_ends_equal(settings, monkeypatch):
    whole = run(settings, "whole", seeds=2)
    begun = []

    def killed_once(folder, *, argv, go_on=train.continue_run):
        begun.append(Path(folder).name)
        if len(begun) == 2:
            with monkeypatch.context() as patch:
                patch.setattr("recbole_rawp.jobs.train.attack", interrupt)
                return go_on(folder, argv=argv)
        return go_on(folder, argv=argv)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "continue_run", killed_once)
    with pytest.raises(KeyboardInterrupt):
        run(settings, "killed", seeds=2)
    assert begun == ["NeuMF-toy-none-2020", "NeuMF-toy-rawp_reference-2020"]
    assert pd.read_csv("killed/runs.csv")["folder"].tolist() == begun[:1] and not Path("killed/report.md").exists()
    result = compare(folder="killed")  # nothing but the folder
    assert begun[2:] == ["NeuMF-toy-rawp_reference-2020", "NeuMF-toy-none-2021", "NeuMF-toy-rawp_reference-2021"]
    for one, other in zip(timeless("whole"), timeless("killed")):
        pd.testing.assert_frame_equal(one, other)
    assert [line.split("|")[:-3] for line in result["table"].splitlines()] == [
        line.split("|")[:-3] for line in whole["table"].splitlines()
    ]
    before = Path("killed/report.md").read_bytes()
    run(settings, "killed", seeds=2)  # the whole command again
    assert len(begun) == 5 and Path("killed/report.md").read_bytes() == before


def test_a_comparison_may_grow_and_neither_shrink_nor_change(settings):
    run(settings, "cmp", defenses="none", seeds=[1])
    with pytest.raises(InputError, match=r"^epochs: 2, but the run in 'cmp/NeuMF-toy-none-1' has 1\."):
        compare(folder="cmp", config_dict={"epochs": 2})
    with pytest.raises(InputError, match=r"^seeds: 1 missing, which the comparison"):
        compare(seeds=[2], folder="cmp")
    trained = Path("cmp/NeuMF-toy-none-1/model.pth").stat().st_mtime_ns
    assert [row["seed"] for row in compare(seeds=[1, 2], folder="cmp")["rows"]] == [1, 2]
    assert Path("cmp/NeuMF-toy-none-1/model.pth").stat().st_mtime_ns == trained
    Path("other").mkdir()
    Path("other/thesis.txt").touch()
    with pytest.raises(InputError, match="in use"):
        run(settings, "other")
    with pytest.raises(InputError, match="holds no comparison.yaml"):
        check_begun("nowhere")


def test_a_suite_that_was_edited_does_not_mix_with_what_ran_under_it(settings):
    own = options(settings) | {"attack": "mine.yaml", "attack_radii": None}
    Path("mine.yaml").write_text("- {methods: [noise, fgsm], target: hidden, radii: [0.1]}\n")
    compare("NeuMF", "toy", "none", 1, config_dict=own, folder="cmp")
    Path("mine.yaml").write_text("- {methods: [noise, fgsm], target: hidden, granularity: row, radii: [0.1]}\n")
    with pytest.raises(InputError, match="^attack: '.*mine.yaml' holds other threats than 'cmp/NeuMF-toy-none-2020/"):
        compare(folder="cmp", defenses="none,rawp_reference")


def test_threats_that_name_their_weights_leave_nothing_to_the_defense(settings):
    Path("mixed.yaml").write_text("- {methods: [noise], target: hidden, radii: [0.1]}\n- {methods: [bf16]}\n")
    own = options(settings) | {"attack": "mixed.yaml", "attack_radii": None}
    compare("NeuMF", "toy", "none,apr", 1, config_dict=own, folder="cmp")
    for name in ("none", "apr"):
        suite = yaml.safe_load(Path("cmp", f"NeuMF-toy-{name}-2020", "suite.yaml").read_text())
        assert [(entry["methods"], entry["target"]) for entry in suite] == [(["noise"], "hidden"), (["bf16"], "all")]
    assert "attack_target=" not in Path("cmp/report.md").read_text()


@pytest.mark.parametrize("line", ["user_inter_num_interval: '[13,inf)'", "repeatable: true", "threshold: {rating: 4}"])
def test_defenses_on_other_data_are_not_compared(line, settings):
    Path("own.yaml").write_text(line + "\n")
    with pytest.raises(InputError, match=f"^{line.partition(':')[0]}: .* Runs that are compared are measured alike"):
        compare("NeuMF", "toy", "none,rawp_reference", 1, ["rawp_reference:own.yaml"], options(settings), folder="cmp")
    assert not Path("cmp").exists()


def test_what_cannot_work_is_a_row_and_the_rest_goes_on(settings):
    result = run(settings, "cmp", models="BPR,NeuMF", defenses="none,apr,rawp_reference")
    status = {row["folder"]: row["status"] for row in result["rows"]}
    assert [name for name, word in status.items() if word == "failed"] == ["BPR-toy-rawp_reference-2020"] and len(
        status
    ) == 6
    assert "BPR has no hidden weight" in result["failed"]["BPR-toy-rawp_reference-2020"]
    targets = {name: yaml.safe_load(Path("cmp", name, "suite.yaml").read_text())[0]["target"] for name in status if
               status[name] == "finished"}  # fmt: skip
    assert set(targets.values()) == {"hidden", "embeddings"}
    assert all((target == "embeddings") == name.startswith("BPR") for name, target in targets.items())
    report = Path("cmp/report.md").read_text()
    assert "5 of 6 runs finished" in report and "FAILED BPR-toy-rawp_reference-2020: " in report
    with pytest.raises(InputError, match="no hidden weight"):  # nothing could work
        run(settings, "none", models="BPR", defenses="rawp_reference")
    assert not Path("none").exists()


def test_a_run_that_breaks_is_a_row_with_its_trace_and_is_tried_again(settings, monkeypatch):
    def broken(folder, *, argv, go_on=train.continue_run):
        if "rawp_reference" in folder:
            raise MemoryError("too big")
        return go_on(folder, argv=argv)

    with monkeypatch.context() as patch:
        patch.setattr(train, "continue_run", broken)
        result = run(settings, "cmp")
    assert result["failed"] == {
        "NeuMF-toy-rawp_reference-2020": "MemoryError: too big (see cmp/NeuMF-toy-rawp_reference-2020/failure.txt)"
    }
    assert "Traceback" in Path("cmp/NeuMF-toy-rawp_reference-2020/failure.txt").read_text()
    result = compare(folder="cmp")
    assert not result["failed"] and not Path("cmp/NeuMF-toy-rawp_reference-2020/failure.txt").exists()


def test_runs_rank_the_same_candidates_and_the_report_has_its_files(settings, capsys):
    sampled = {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "uni20"}}
    run(settings, "cmp", models="NeuMF,DMF", seeds=2, defenses="none", attack_target="all", **sampled)
    rows = pd.read_csv("cmp/runs.csv")
    asked = [yaml.safe_load(Path("cmp", name, "settings.yaml").read_text()) for name in rows["folder"]]
    assert {each["attack_candidates"] for each in asked} == {"../candidates-toy.npz"}
    first = dict(np.load("cmp/candidates-toy.npz"))
    for name in rows["folder"]:
        theirs = dict(np.load(Path("cmp", name, "candidates.npz")))
        assert all(np.array_equal(first[key], theirs[key]) for key in first)
    for model in ("NeuMF", "DMF"):
        files = {path.name for path in Path(f"cmp/reports/{model}-toy").iterdir()}
        assert files >= {"pareto.png", "pareto.svg", "robustness.png", "report.md"}
    assert Path("cmp/table.tex").read_text().count(r"\toprule") == 2
    assert Path("cmp/report.html").read_text().count("<img") == 4
    capsys.readouterr()
    compare(folder=str(Path("cmp").resolve()))  # the same folder, named otherwise
    begun = capsys.readouterr().out.splitlines()
    assert len(begun) == 4 and all(line.endswith("finished before") for line in begun)


def test_a_comparison_goes_on_wherever_it_was_moved(settings, monkeypatch, tmp_path):
    """Killed when its second run was trained; with sampled candidates, a config file, a defense of one's own."""
    Path("mine.yaml").write_text("rawp_radius: 0.3\n")
    Path("all.yaml").write_text("topk: [10]\n")
    sampled = {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "uni20"}}
    Path("suite.yaml").write_text("- {methods: [noise, fgsm], target: hidden, radii: [0.1, 0.3]}\n")
    given = {key: value for key, value in options(settings, **sampled).items() if key != "topk"}
    given |= {"attack": "suite.yaml", "attack_radii": None}
    asked = ("NeuMF", "toy", "none,./mine.yaml", 1, ["all.yaml"], given)
    compare(*asked, folder="whole")

    def killed(trainer, *rest, go_on=train.attack):
        if trainer.defense == "mine":
            raise KeyboardInterrupt
        go_on(trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(train, "attack", killed)
        with pytest.raises(KeyboardInterrupt):
            compare(*asked, folder="cmp")
    Path("elsewhere").mkdir()
    Path("cmp").rename("elsewhere/moved")
    Path("mine.yaml").unlink()
    monkeypatch.chdir("elsewhere")
    rows = compare(folder="moved")["rows"]
    assert [row["folder"] for row in rows] == ["NeuMF-toy-none-2020", "NeuMF-toy-mine-2020"]
    assert {row["status"] for row in rows} == {"finished"}
    for one, other in zip(timeless(tmp_path / "whole"), timeless("moved")):
        pd.testing.assert_frame_equal(one, other)
    first = dict(np.load("moved/candidates-toy.npz"))
    theirs = dict(np.load("moved/NeuMF-toy-mine-2020/candidates.npz"))
    assert all(np.array_equal(first[key], theirs[key]) for key in first)


def test_a_run_that_finds_its_radius_goes_on_from_the_plain_run_of_its_seed(settings, capsys):
    mine = options(settings, ft_rounds=0) | {"epochs": 2}
    result = compare("NeuMF", "toy", "none,rawp", 1, [], mine, folder="cmp")
    assert not result["failed"]
    assert "NeuMF-toy-rawp-2020: begins, from the model of NeuMF-toy-none-2020" in capsys.readouterr().out
    plain, hardened = Path("cmp/NeuMF-toy-none-2020"), Path("cmp/NeuMF-toy-rawp-2020")
    assert (hardened / train.ORIGINAL).read_bytes() == (plain / "model.pth").read_bytes()
    assert not (hardened / "model-plain.pth").exists() and (hardened / "radius.csv").exists()
    seconds = {row["defense"]: row["seconds"] for row in result["rows"]}
    assert seconds["rawp"] > seconds["none"]
    assert set(pd.read_csv(hardened / "records.csv")["defense"]) == {"rawp"}


def test_a_run_of_other_settings_trains_its_own_plain_model(settings, capsys):
    Path("other.yaml").write_text("learning_rate: 0.01\n")
    compare(
        "NeuMF",
        "toy",
        "none,rawp",
        1,
        ["rawp:other.yaml"],
        options(settings, ft_rounds=0) | {"epochs": 2},
        folder="cmp",
    )
    assert "from the model of" not in capsys.readouterr().out
    assert Path("cmp/NeuMF-toy-rawp-2020/model-plain.pth").exists()


def test_two_defenses_of_one_name_are_not_compared():
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "mine.yaml").write_text("rawp_steps: 2\n")
    with pytest.raises(InputError, match=r"^defenses: 'a/mine.yaml' and 'b/mine.yaml' have the same name"):
        compare("NeuMF", "toy", "a/mine.yaml,b/mine.yaml")
    with pytest.raises(InputError, match=r"^defenses: there is no file 'c/mine.yaml'"):
        compare("NeuMF", "toy", "none,c/mine.yaml")


def test_the_table_is_means_deviations_and_students_interval_of_the_rows(settings):
    result = run(settings, "cmp", defenses="none", seeds=3)
    clean = [row["clean"] for row in result["rows"]]
    mean, sd = np.mean(clean), np.std(clean, ddof=1)
    half = 4.302652729911275 * sd / math.sqrt(3)  # t(0.975) of two degrees of freedom
    assert f"| {mean:.4f} ± {sd:.4f} [{mean - half:.4f}, {mean + half:.4f}] |" in result["table"]
    records = pd.read_csv("cmp/NeuMF-toy-none-2020/records.csv")
    at = records[(records["metric"] == "ndcg@10") & (records["threat"] == "fgsm")].groupby("level")["value"].min()
    row = result["rows"][0]
    assert (row["clean"], row["robust@0.3"]) == (at[0.0], at[0.3]) and row["kept@0.3"] == at[0.3] / at[0.0]


def test_a_spread_is_the_textbooks():
    found = statistics.spread([1.0, 2.0, 3.0, 4.0])
    assert (found.count, found.mean) == (4, 2.5) and found.sd == pytest.approx(math.sqrt(5 / 3))
    assert found.high - found.mean == pytest.approx(3.182446305284263 * math.sqrt(5 / 3) / 2)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    alone = statistics.spread([2.0])
    assert alone.mean == 2.0 and math.isnan(alone.sd) and math.isnan(alone.low)


def test_the_front_holds_what_nothing_beats_in_both():
    points = np.array([[3, 1], [2, 2], [1, 3], [2, 1], [1, 1], [2, 2], [9, np.nan]])
    assert pareto.front(points, bigger=True).tolist() == [True, True, True, False, False, True, False]
    assert pareto.front(points, bigger=False).tolist() == [False, False, False, False, True, False, False]
    loop = np.random.default_rng(0).normal(size=(40, 2))
    slow = [not any((other >= point).all() and (other > point).any() for other in loop) for point in loop]
    assert pareto.front(loop, bigger=True).tolist() == slow and sum(slow) > 1


@pytest.mark.parametrize("bigger", [True, False])
def test_the_stairs_run_along_what_the_front_beats(bigger):
    """Every point of the drawn line is just beaten by a point of the front, and nothing beyond it is."""
    sign = 1 if bigger else -1
    points = {name: sign * np.array([place], float) for name, place in zip("abc", [(1, 5), (3, 3), (4, 1)])}
    assert pareto.on_front(points, bigger=bigger) == ["c", "b", "a"]
    means = np.concatenate([points[name] for name in "cba"])
    drawn = pareto.stairs(means, sign * np.zeros((1, 2))) * sign
    for (x, y), (after, _) in zip(drawn[1:], drawn[2:]):
        middle = np.array([(x + after) / 2, y])
        assert (sign * means >= middle).all(axis=1).any()
        assert not (sign * means >= middle + 1e-6).all(axis=1).any()


def test_users_are_paired_within_a_seed_and_averaged_over_seeds():
    def users(**scores):
        return pd.Series({int(name[1:]): value for name, value in scores.items()})

    scores = {
        ("none", 1): {0.0: users(u1=0.5, u2=0.1, u3=0.0)},
        ("rawp_reference", 1): {0.0: users(u1=0.7, u2=0.1, u3=0.3)},
        ("none", 2): {0.0: users(u2=0.3, u1=0.1, u4=1.0)},  # another split: other users, another order
        ("rawp_reference", 2): {0.0: users(u2=0.4, u1=0.1, u4=0.0)},
        ("rawp_reference", 3): {0.0: users(u1=9.0)},  # no such run of plain
    }
    (row,) = paired_tests.within_place(scores)
    assert (row["against"], row["defense"], row["seeds"], row["users"]) == ("none", "rawp_reference", 2, 2)
    assert row["before"] == pytest.approx((0.3 + 0.2) / 2) and row["mean"] == pytest.approx((0.1 + 0.05) / 2)


def test_a_radius_at_which_scores_were_nan_is_not_tested():
    fine = {0.0: pd.Series([0.1, 0.2], [1, 2]), 0.1: pd.Series([0.1, 0.3], [1, 2])}
    broken = fine | {0.1: pd.Series([math.nan, math.nan], [1, 2])}
    scores = {("none", 1): fine, ("none", 2): fine, ("rawp_reference", 1): fine, ("rawp_reference", 2): broken}
    assert [(row["level"], row["users"]) for row in paired_tests.within_place(scores)] == [(0.0, 2)]


def test_all_are_compared_with_plain_and_the_rest_with_rawp_ft():
    assert paired_tests.pairings(["rawp_ft", "awp", "none"]) == [
        ("none", "rawp_ft"),
        ("none", "awp"),
        ("rawp_ft", "awp"),
    ]
    assert paired_tests.pairings(["sam", "awp"]) == []


def test_p_values_are_corrected_for_all_radii(settings):
    run(settings, "cmp", defenses="none,awp,rawp_ft", ft_epochs=1)
    tests = pd.read_csv("cmp/tests.csv")
    assert len(tests) == 3 * 3 and tests["p_holm"].tolist() == pytest.approx(statistics.holm(tests["p"].tolist()))


def test_a_failed_self_check_stands_before_everything(settings, monkeypatch):
    monkeypatch.setattr(
        "recbole_rawp.core.losses.attack_loss.gradients",
        lambda loss, weights: {n: torch.zeros_like(w) for n, w in weights.items()},
    )
    run(settings, "cmp", defenses="none")
    words = Path("cmp/report.md").read_text().splitlines()[2]
    assert words.startswith("**Do not trust these numbers: self-checks failed in 1 run** (NeuMF-toy-none-2020: the att")


LINE = ["compare", "--model=NeuMF", "-d", "toy", "--epochs=1", "--state=error", "--show_progress=False"]


def test_the_command_line_goes_from_grid_to_table_and_says_what_failed_by_status_1(data_path, capsys, monkeypatch):
    words = [*LINE, f"--data_path={data_path}", "--attack_radii=[0.1]", "--attack_batches=1", "--seeds=2020,2021"]
    assert main([*words, "--defenses=none", "--rawp_output_dir=cmp"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\| plain +\| 2 ", out) and "[2/2] NeuMF-toy-none-2021: finished" in out
    assert "report:  cmp/report.md" in out
    assert main(["compare", "--resume=cmp"]) == 0 and "finished before" in capsys.readouterr().out
    monkeypatch.setattr(train, "continue_run", lambda folder, **_: 1 / 0)
    assert main([*words, "--defenses=none", "--rawp_output_dir=broken"]) == 1
    err = capsys.readouterr().err
    assert err == "recbole-rawp: 2 runs failed: NeuMF-toy-none-2020, NeuMF-toy-none-2021\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--defenses: missing"),
        (["--defenses=none,rwap"], "defenses: no file properties/defense/rwap.yaml. Did you mean 'rawp"),
        (["--defenses=none", "--models=NueMF"], "model: RecBole has no model 'NueMF'. Did you mean 'NeuMF'?"),
        (["--defenses=none", "--seeds=x"], "seeds: 'x' is not valid"),
        (["--defenses=none", "--datasets=no-such-data"], "Put no-such-data.inter into it"),
        (["--defenses=none", "--rawp_raduis=1"], "rawp_raduis: no such option"),
        (["--defenses=none", "--defense=rawp_reference"], "--defense: compare takes several"),
        (["--defenses=none", "--baseline"], "--baseline: goes with train, not with compare"),
        (
            ["--defenses=none,rawp_reference", "--config_files=rawp_reference:own.yaml"],
            "topk: [5, 10] in NeuMF-toy-rawp_reference-2020, but",
        ),
        (["--resume=nowhere"], "resume: 'nowhere' holds no comparison.yaml"),
    ],
)
def test_bad_input_is_one_line_and_status_2_before_any_training(words, message, data_path, capsys, monkeypatch):
    def offline(*_, **__):
        raise OSError("download denied")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("recbole_rawp.training.trainer.RAWPTrainer._train_epoch", lambda *_: pytest.fail("trained"))
    Path("own.yaml").write_text("topk: [5, 10]\n")
    status = main([*LINE, f"--data_path={data_path}", *words])
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("recbole-rawp: ")]
    assert status == 2 and len(lines) == 1 and message in lines[0], captured.err
    assert not Path("comparisons").exists()


def test_seeds_are_of_compare_alone(capsys):
    assert main(["train", "-m", "NeuMF", "-d", "toy", "--seeds=3"]) == 2
    assert "--seeds: goes with compare, not with train" in capsys.readouterr().err
