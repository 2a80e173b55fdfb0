"""Do intervals, tests and groups of users say what textbooks say?"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap, norm

from recbole_rawp.evaluation import statistics


def test_a_constant_difference_has_an_interval_of_no_width():
    low, high = statistics.interval(np.full((2, 30), 0.25))
    np.testing.assert_allclose([low, high], 0.25)


def test_the_interval_is_the_normal_one_for_many_users():
    users = 4000
    pairs = np.random.default_rng(0).normal(0.1, 1.0, (1, users))
    low, high = statistics.interval(pairs)
    half = norm.ppf(0.975) * pairs.std() / np.sqrt(users)
    assert low[0] == pytest.approx(pairs.mean() - half, abs=0.1 * half)
    assert high[0] == pytest.approx(pairs.mean() + half, abs=0.1 * half)


def test_the_interval_is_that_of_a_loop_over_resamples():
    pairs = np.random.default_rng(1).exponential(size=(3, 25)).astype(np.float32)
    generator = np.random.default_rng(statistics.SEED)
    drawn = generator.integers(25, size=(statistics.RESAMPLES, 25))
    for row, low, high in zip(pairs, *statistics.interval(pairs)):
        means = sorted(np.mean([float(row[user]) for user in resample]) for resample in drawn)
        np.testing.assert_allclose([low, high], np.percentile(means, [2.5, 97.5]), rtol=1e-9)


def test_the_interval_agrees_with_scipys():
    pairs = np.random.default_rng(2).normal(size=(1, 200))
    theirs = bootstrap((pairs[0],), np.mean, n_resamples=20_000, method="percentile", random_state=3)
    ours = np.ravel(statistics.interval(pairs))
    np.testing.assert_allclose(ours, theirs.confidence_interval, atol=0.1 * theirs.standard_error * 2)


def test_drawing_in_chunks_changes_nothing(monkeypatch):
    pairs = np.random.default_rng(4).normal(size=(2, 20))
    whole = statistics.interval(pairs)
    monkeypatch.setattr(statistics, "CHUNK", 20 * 300)
    np.testing.assert_allclose(statistics.interval(pairs), whole)


def test_five_users_who_all_lose_have_p_of_one_in_sixteen():
    assert statistics.signed_rank(np.array([-1, -2, -3, -4, -5.0])) == pytest.approx(2 / 2**5)


def test_users_without_a_difference_do_not_count_and_none_with_one_gives_one():
    assert statistics.signed_rank(np.array([-1, 0, -2, -3, 0, -4, -5.0])) == pytest.approx(2 / 2**5)
    assert statistics.signed_rank(np.zeros(10, dtype=np.float32)) == 1.0


@pytest.mark.parametrize("kind", [float, np.float32])
def test_differences_that_only_rounding_parts_share_a_rank(kind):
    """Hits in three seeds: as many users rise by one as fall by one, so nothing speaks for either side."""
    before, after = (np.repeat(np.array(hits, kind) / kind(3), 100).astype(float) for hits in ([2, 1], [3, 0]))
    assert len(set(abs(after - before))) > 1  # 1 - 2/3 and 1/3 - 0
    assert statistics.signed_rank(after - before) == 1.0
    assert statistics.signed_rank(np.array([0.1 + 0.2 - 0.3, -1, -2, -3, -4, -5])) == pytest.approx(2 / 2**5)


def test_holm_multiplies_the_smallest_by_all_and_never_falls():
    assert statistics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert statistics.holm([0.5, 0.6]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_a_difference_reports_mean_bounds_and_p():
    (found,) = statistics.differences(np.array([[-1, -2, -3, -4, -5.0]]))
    assert found.mean == -3 and -5 <= found.low < -3 < found.high <= -1 and found.p == pytest.approx(1 / 16)


def test_nobody_to_compare_is_not_an_error():
    (found,) = statistics.differences(np.zeros((1, 0)))
    assert np.isnan(found.mean) and found.p == 1.0


def test_thirds_part_the_users_and_keep_equals_together():
    values = np.array([5, 1, 1, 1, 9, 7, 3, 2, 1.0])
    groups = statistics.thirds(values)
    assert (np.sum(groups, axis=0) == 1).all()
    assert values[groups[0]].tolist() == [1, 1, 1, 1] and sorted(values[groups[2]]) == [5, 7, 9]
    assert [group.sum() for group in statistics.thirds(np.ones(4))] == [4, 0, 0]
