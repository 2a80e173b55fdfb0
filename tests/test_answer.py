"""Does the answer say what the numbers say: fragile from where on, what hardening bought and cost, what comes next?"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from recbole_rawp.evaluation.records import COLUMNS, FAILED, PASSED, Check
from recbole_rawp.evaluation.self_checks import BUDGET, UNDERTRAINED
from recbole_rawp.report.answer import answer
from recbole_rawp.report.comparison.merging import merge
from recbole_rawp.report.run_files import Run
from recbole_rawp.report.scores import shares_kept
from recbole_rawp.report.sections import model_card, radius_search
from recbole_rawp.report.tables import listed
from recbole_rawp.report.verdict import distrust, verdict
from recbole_rawp.training.radius.rule import RadiusSearch, Validation
from recbole_rawp.training.stage2.criticality import ModuleCriticality
from recbole_rawp.training.stage2.progress import Progress
from tests.test_report import SETTING, users_of

PLAIN = {"noise": (0.2, 0.2, 0.198, 0.19), "apgd": (0.2, 0.16, 0.02, 0.0)}
HARD = {"noise": (0.196, 0.196, 0.196, 0.196), "apgd": (0.196, 0.196, 0.18, 0.147)}
FACTS = {"settings": {}, "notes": [], "environment": ""}
LEVELS = (0.0, 0.05, 0.1, 0.2)


def run_of(curves, *, checks=(), metric="ndcg@10", bigger=True, users=True, **given):
    rows = [
        dict.fromkeys(COLUMNS, "")
        | {"model": "M", "dataset": "D", "defense": defense, "stage": 1, "seed": 1, "split": "test", "steps": 1}
        | (SETTING | given | {"threat": threat, "level": level, "metric": metric, "value": value})
        for defense, threats in curves.items()
        for threat, values in threats.items()
        for level, value in zip(LEVELS, values)
    ]
    own = {"universal": users_of(rows)} if users else {}
    return Run("run", pd.DataFrame(rows), list(checks), own, {"metric": metric, "bigger": bigger})


def test_a_fragile_plain_model_alone_says_from_where_on_and_to_harden_it():
    first, last = answer(run_of({"none": PLAIN}))
    assert first == (
        "**plain** is fragile from radius 0.1 on: there it keeps 10% of its NDCG@10 under apgd (80% at "
        "0.05); noise of the same norm leaves 99%."
    )
    assert last == "Next: `recbole-rawp harden CHECKPOINT` hardens it."


def test_what_hardening_bought_and_cost_stands_with_its_interval_over_users():
    run = run_of({"none": PLAIN, "rawp_ft": HARD})
    _, hard, paid, last = answer(run)
    assert hard == (
        "**rawp_ft** is not fragile up to radius 0.2: it keeps 75% or more of its NDCG@10 under apgd; "
        "noise of the same norm leaves 100%."
    )
    values = run.users["universal"].values[:, 0]
    lost = (values[0] - values[8]).astype(float)  # of rows in order, those at level 0
    generator = np.random.default_rng(2020)
    drawn = generator.integers(len(lost), size=(2000, len(lost)))
    low, high = np.percentile(lost[drawn].mean(axis=1), [2.5, 97.5]) / 0.2
    assert paid == (
        f"Hardening costs 2.0% of the clean NDCG@10 (0.2000 to 0.1960; 95% interval of the cost over users "
        f"{low:.1%} to {high:.1%}); it keeps 92% instead of 10% at 0.1."
    )
    assert last.endswith("--attack=strongest` tries harder.")


def test_a_better_clean_score_is_a_gain_and_less_of_a_log_loss_too():
    better = {name: tuple(1.05 * v for v in values) for name, values in HARD.items()}
    assert "Hardening gains 2.9% of the clean NDCG@10" in answer(run_of({"none": PLAIN, "rawp_ft": better}))[2]
    losses = {"none": {"apgd": (0.5, 0.6, 0.8, 2.0)}, "rawp_ft": {"apgd": (0.51, 0.52, 0.53, 0.6)}}
    lines = answer(run_of(losses, metric="logloss", bigger=False, users=False))
    assert "Hardening costs 2.0% of the clean LOGLOSS (0.5000 to 0.5100; no interval, for it is no mean" in lines[2]
    assert "keeps 85% instead of 25% at 0.2" in lines[2]


def test_modules_that_the_model_ranks_without_are_named():
    rows = [
        ModuleCriticality(f"m{n}", f"m{n}.weight", 4, 1.0, 1.0 + rise, rise, rise) for n, rise in enumerate([0.1, 1e-7])
    ]
    progress = Progress(0, ranking=[replace(row, round=0, repaired=row.module == "m0") for row in rows])
    trainer = SimpleNamespace(state=SimpleNamespace(progress=progress, search=None))
    *_, stage2, unused, _ = answer(run_of({"none": PLAIN, "rawp_ft": HARD}), trainer)
    assert stage2.startswith("Stage 2 found nothing")
    assert unused == "**The model does without `m1`**: no small change there moves loss or ranking."


def test_nothing_bought_and_nothing_to_buy_are_told_apart():
    assert "**it buys nothing at these levels**" in answer(run_of({"none": PLAIN, "rawp_ft": PLAIN}))[2]
    calm = {"apgd": (0.2, 0.2, 0.199, 0.197)}
    assert "there was nothing to buy" in answer(run_of({"none": calm, "rawp_ft": calm}))[2]


@pytest.mark.parametrize(("changed", "words"), [(True, "Stage 2 repaired the"), (False, "found nothing to repair")])
def test_stage_2_says_whether_it_changed_anything(changed, words):
    trainer = SimpleNamespace(state=SimpleNamespace(progress=SimpleNamespace(changed=lambda: changed, ranking=[])))
    assert words in answer(run_of({"none": PLAIN, "rawp_ft": HARD}), trainer)[3]


def test_a_budget_that_was_not_kept_and_too_little_training_are_said_and_the_former_is_no_reason_to_distrust():
    checks = [Check("rawp_ft", BUDGET, FAILED, ""), Check("none", UNDERTRAINED, FAILED, "")]
    text = listed(answer(run_of({"none": PLAIN, "rawp_ft": HARD}, checks=checks)))
    assert "- **Hardening did not keep the clean budget** (rawp_clean_budget)" in text
    assert "- **The model ranks no better than popularity**" in text
    assert distrust(checks[:1]) == "" and "1 self-check failed" in distrust(checks)


def test_the_search_has_a_check_of_its_budget():
    search = RadiusSearch(0.01, True, 1.0, plain=[0.5], best=0)
    trainer = SimpleNamespace(state=SimpleNamespace(search=search), valid_metric="ndcg@10", defense="rawp_ft")
    assert radius_search.checks(trainer) == []
    for score, passed, detail in ((0.496, True, ""), (0.4, False, "valid ndcg@10 0.4000, 0.4950 wanted")):
        search.path = [Validation(7, 0.1, score, passed, chosen=True)]
        status = PASSED if passed else FAILED
        assert radius_search.checks(trainer) == [Check("rawp_ft", BUDGET, status, detail)]


def test_several_models_and_scores_without_a_share_have_no_answer():
    run = run_of({"none": PLAIN})
    other = run.frame.assign(model="N")
    assert answer(Run("r", pd.concat([run.frame, other]), [], {}, run.facts)) == []
    assert answer(run_of({"none": {"apgd": (0.0, 0.0, 0.0, 0.0)}})) == [
        "**plain** ranks no better than chance by NDCG@10, so there is nothing to lose.",
        "Next: train it for longer, or look at its settings.",
    ]


def test_each_model_is_judged_by_all_that_it_met_itself():
    plain = {"fgsm": (0.3, 0.29, 0.27, 0.25), "pgd": (0.3, 0.2, 0.02, 0.0)}
    first, second, paid, _ = answer(run_of({"none": plain, "rawp": {"fgsm": plain["fgsm"]}}, users=False))
    assert first.startswith("**plain** is fragile from radius 0.1 on: there it keeps 7% of its NDCG@10 under the worst")
    assert second.startswith("**rawp** is not fragile up to radius 0.2: it keeps 83% or more of its NDCG@10 under fgsm")
    assert paid.endswith("it keeps 90% instead of 7% at 0.1.")


def test_scores_of_nan_under_attack_are_lost_and_hide_no_level():
    first, *_ = answer(run_of({"none": {"apgd": (0.3, np.nan, 0.29, 0.28)}}, users=False))
    assert first.startswith("**plain** is fragile from radius 0.05 on: there it keeps 0% of its NDCG@10")


def test_the_worst_of_several_seeds_is_the_mean_of_each_seeds_worst():
    seeds = [{"fgsm": (0.3, 0.06), "pgd": (0.3, 0.24)}, {"fgsm": (0.3, 0.24), "pgd": (0.3, 0.06)}]
    frame = pd.concat([run_of({"none": curves}).frame.assign(seed=n) for n, curves in enumerate(seeds)])
    assert shares_kept(frame, "ndcg@10", bigger=True)[1].loc["none", 0.05] == pytest.approx(0.2)
    frame.loc[(frame["seed"] == 1) & (frame["level"] == 0), "value"] = 0.0  # nothing to lose there
    assert all(found.loc["none"].isna().all(axis=None) for found in shares_kept(frame, "ndcg@10", bigger=True))


def test_the_verdict_names_what_only_the_hardened_model_met():
    curves = {"none": {"fgsm": (0.3, 0.2)}, "rawp": {"fgsm": (0.3, 0.29), "transfer": (0.3, 0.05)}}
    said = verdict(run_of(curves).frame, "ndcg@10", bigger=True)
    assert "carried over from the plain twin" in said.partition("**")[0] and "**rawp** keeps 17%" in said


def test_runs_that_measured_one_thing_otherwise_are_told_apart_whatever_their_losses():
    one, other = (run_of({"none": {"apgd": values}}, loss="ranking") for values in ((0.3, 0.1), (0.3, 0.01)))
    training = run_of({"none": {"apgd": (0.3, 0.2)}}, loss="training").frame
    one = replace(one, name="a", frame=pd.concat([one.frame, training]))
    for runs in ((one, replace(other, name="b")), (replace(other, name="b"), one)):
        runs = [replace(run, users={}, facts=run.facts | FACTS) for run in runs]
        assert set(merge(runs).frame["defense"]) == {"none [a]", "none [b]"}


def test_seeds_of_models_that_were_hardened_otherwise_are_not_averaged():
    def ran(name, seed, radius, defense="rawp"):
        run = run_of({defense: {"apgd": (0.3, 0.1)}})
        facts = run.facts | FACTS | {"settings": {"rawp_radius": radius, "rawp_output_dir": name}}
        return replace(run, name=name, frame=run.frame.assign(seed=seed), users={}, facts=facts)

    assert set(merge([ran("a", 1, 0.1), ran("b", 2, 0.1)]).frame["defense"]) == {"rawp"}
    assert set(merge([ran("a", 1, 0.1), ran("b", 2, 1.0)]).frame["defense"]) == {"rawp [a]", "rawp [b]"}
    assert set(merge([ran("a", 1, 0.1, "none"), ran("b", 2, 1.0, "none")]).frame["defense"]) == {"none"}


def test_where_hardening_harms_is_said_too_and_each_hardened_model_has_its_line():
    curves = {"rawp": (0.2, 0.2, 0.19, 0.18), "none": (0.3, 0.15, 0.24, 0.24), "awp": (0.3, 0.159, 0.03, 0.24)}
    lines = answer(run_of({name: {"apgd": values} for name, values in curves.items()}, users=False))
    assert lines[3:5] == [
        "Hardening by **rawp** costs 33.3% of the clean NDCG@10 (0.3000 to 0.2000; no interval, for it is no mean over "
        "users); it keeps 100% instead of 50% at 0.05.",
        "Hardening by **awp** gains 0.0% of the clean NDCG@10 (0.3000 to 0.3000; no interval, for it is no mean over "
        "users); it keeps 53% instead of 50% at 0.05, and **loses: 10% instead of 80% at 0.1**.",
    ]


def test_a_plain_model_that_scores_0_has_no_share_that_hardening_costs():
    run = run_of({"none": {"apgd": (0.0, 0.0, 0.0, 0.0)}, "rawp": {"apgd": (0.1, 0.1, 0.1, 0.1)}}, users=False)
    assert "Hardening leaves a clean NDCG@10 of 0.1000, where the plain model has 0." in answer(run)


def test_the_card_tells_clean_scores_of_all_items_from_those_among_candidates():
    curves = {"universal": (0.06, 0.1), "per_user": (0.4, 0.1)}
    everyone, each = (run_of({"rawp": {"fgsm": curves[s]}}, scope=s, users=False) for s in curves)
    assert "0.4000" in model_card.clean(each) and "Among the candidates of attacks per user." in model_card.clean(each)
    both = model_card.clean(replace(each, frame=pd.concat([each.frame, everyone.frame])))
    assert "0.0600" in both and "0.4000" not in both and "candidates" not in both
    hard = run_of({"none": {"fgsm": (0.4, 0.1)}, "rawp": {"fgsm": (0.3, 0.1)}}, scope="per_user", users=False)
    assert "Hardening costs 25.0% of the clean NDCG@10 among sampled candidates (" in answer(hard)[2]


def test_a_score_that_rose_under_attack_is_told_to_be_no_robustness():
    warning = "A share above 100% is no robustness: the attack raised its loss, and not the errors of the ranking."
    assert warning in answer(run_of({"none": PLAIN | {"apgd": (0.2, 0.21, 0.22, 0.19)}}))
    assert warning not in answer(run_of({"none": PLAIN}))
