"""Tells whether a difference is more than chance: intervals over seeds and users, signed-rank tests, Holm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t, wilcoxon

RESAMPLES, LEVEL, SEED = 2000, 0.95, 2020
CHUNK = 10_000_000  # draws at once: bounds memory
DECIMALS = 6  # of a difference: what a score's float32 and a mean over seeds add beyond is rounding


@dataclass(frozen=True)
class Difference:
    """A paired difference over users: its mean, a bootstrap interval, and the chance of it under no difference."""

    mean: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Spread:
    """Values of several seeds: how many, their mean and standard deviation, and Student's 95 % interval of the mean.

    Of one value alone, deviation and interval are NaN.
    """

    count: int
    mean: float
    sd: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return mean, s = standard deviation (n - 1), and mean -+ t(0.975, n - 1) * s / sqrt(n); NaN values make NaN."""
    found = np.asarray(values, dtype=float)
    count = len(found)
    if count < 2:
        return Spread(count, float(found.mean()) if count else float("nan"), *[float("nan")] * 3)
    mean, sd = float(found.mean()), float(found.std(ddof=1))
    half = float(t.ppf(0.5 + LEVEL / 2, count - 1)) * sd / math.sqrt(count)
    return Spread(count, mean, sd, mean - half, mean + half)


def differences(pairs: np.ndarray) -> list[Difference]:
    """Return mean, 95 % interval and Wilcoxon's p, not yet corrected, of paired differences [C, U] over U users."""
    if not pairs.size:
        return [Difference(float("nan"), float("nan"), float("nan"), 1.0) for _ in pairs]
    low, high = interval(pairs)
    means = pairs.mean(axis=1, dtype=float)
    return [Difference(float(m), float(a), float(b), signed_rank(row)) for m, a, b, row in zip(means, low, high, pairs)]


def interval(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds [C] of the mean of each row of `pairs` [C, U]: percentile bootstrap over users, 95 %.

    Every resample draws U users with replacement, the same ones for all rows. The seed is fixed.
    """
    generator = np.random.default_rng(SEED)
    users = pairs.shape[1]
    chunk = max(1, CHUNK // users)
    sizes = [min(chunk, RESAMPLES - start) for start in range(0, RESAMPLES, chunk)]
    means = np.concatenate([pairs.astype(float) @ _counts(generator, size, users).T / users for size in sizes], axis=1)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail], axis=1)
    return low, high


def _counts(generator: np.random.Generator, resamples: int, users: int) -> np.ndarray:
    """Return how often each resample draws each user, [resamples, users]."""
    drawn = generator.integers(users, size=(resamples, users)) + users * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * users).reshape(resamples, users).astype(float)


def signed_rank(pairs: np.ndarray) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; users without a difference are left out, all such: 1.

    Differences that are equal but for rounding share a rank: 1 - 2/3 comes out larger than 1/3 - 0, and would stand
    above it in every user.
    """
    moved = np.round(np.asarray(pairs, dtype=float), DECIMALS)
    moved = moved[moved != 0]
    if not len(moved):
        return 1.0
    return float(wilcoxon(moved).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p corrected for looking at all n: the i-th smallest times n - i + 1, never falling (Holm, 1979)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    factors = len(p) - np.arange(len(p))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected.tolist()


def thirds(values: np.ndarray) -> list[np.ndarray]:
    """Return masks [U] of the lowest, middle and highest third; equal values stay together: one may be empty."""
    if not len(values):
        return [np.zeros(0, dtype=bool)] * 3
    first, second = np.quantile(values, [1 / 3, 2 / 3])
    return [values <= first, (values > first) & (values <= second), values > second]
