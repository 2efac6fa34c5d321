"""Do two samples come from one distribution? Tests of two samples, each as one probability.

A p-value here is the chance to see two samples of one distribution that are at least as different.
Every function may be given whole numbers too: it is exact or conservative for ties, or says what it
does about them.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.errors import ConfigError

Float64 = npt.NDArray[np.float64]

LEAST = 20
"""Values that a sample must have to be compared."""
_FUNCTION = 0.99  # rank correlation of what is a function of one another on both sides
_EXPECTED = 5.0  # of a cell of a contingency table; rarer categories are taken together


def scipy_stats() -> Any:
    """Returns the module `scipy.stats`.

    Raises:
        ConfigError: SciPy is not installed.
    """
    try:
        from scipy import stats
    except ImportError:
        raise ConfigError(
            "comparing draws needs scipy, which is not installed; run "
            "`pip install 'yolodata[parity]'`, or leave the comparison out with --draws 0"
        ) from None
    return stats


def compare_numbers(a: Float64, b: Float64) -> tuple[float, str]:
    """Compares two samples of a number by location, spread, shape and range.

    Location is Mann and Whitney's test, spread Levene's (by medians), shape Kolmogorov and
    Smirnov's, range `range_p`. The four are one test by Bonferroni's correction.

    Args:
        a: (N,), and b: (M,), finite values in any order.

    Returns:
        the p-value, and the name of what differs most.
    """
    stats = scipy_stats()
    if a.min() == a.max() and b.min() == b.max():
        return float(a[0] == b[0]), "range"
    found = {
        "range": range_p(a, b),
        "location": stats.mannwhitneyu(a, b, method="asymptotic").pvalue,
        "spread": stats.levene(a, b, center="median").pvalue,
        "shape": stats.ks_2samp(a, b, method="asymp").pvalue,
    }
    name = min(found, key=found.__getitem__)
    return min(1.0, len(found) * float(found[name])), name


def range_p(a: Float64, b: Float64) -> float:
    """Compares the ranges of two samples: how many values of one lie beyond all of the other.

    The most sensitive test of the limits of a uniform number. That the largest k of all N + M
    values are all of one sample has the probability N / (N + M) · (N - 1) / (N + M - 1) · …

    Args:
        a: (N,), and b: (M,).

    Returns:
        the p-value of the most extreme of the four ends.
    """
    ends = [
        (len(x), len(y), int(beyond.sum()))
        for x, y in ((a, b), (b, a))
        for beyond in (x > y.max(), x < y.min())
    ]
    chances = []
    for own, other, beyond in ends:
        i = np.arange(beyond)
        chances.append(float(np.exp(np.sum(np.log(own - i) - np.log(own + other - i)))))
    return min(1.0, len(ends) * min(chances))


def compare_categories(a: Float64, b: Float64) -> float:
    """Compares how often each value occurs, by a chi-squared test of a contingency table.

    Args:
        a: (N,), and b: (M,), numbers of categories.

    Returns:
        the p-value.
    """
    values = np.unique(np.concatenate([a, b]))
    counts = np.array([(np.searchsorted(np.sort(x), values, "right")) for x in (a, b)])
    counts = np.diff(counts, axis=1, prepend=0)
    expected = counts.sum(0) * min(len(a), len(b)) / (len(a) + len(b))
    rare = expected < _EXPECTED
    if rare.any():
        counts = np.column_stack([counts[:, ~rare], counts[:, rare].sum(1)])
    if counts.shape[1] < 2:
        return 1.0
    return float(scipy_stats().chi2_contingency(counts, correction=False).pvalue)


def compare_dependence(
    a: dict[str, Float64], b: dict[str, Float64]
) -> tuple[float, int, tuple[str, str], tuple[float, float]]:
    """Compares Spearman's rank correlation of every pair of columns.

    Two numbers drawn from one source would be alike on their own, but not together.

    Args:
        a: columns (N,) by name, and b: columns (M,) of the same names. NaN stands for no value.

    Returns:
        the p-value of the pair that differs most, corrected for the number of pairs; that number;
        the pair; and its correlations on both sides.
    """
    (ranks_a, there_a), (ranks_b, there_b) = _ranks(a), _ranks(b)
    corr_a, n_a, var_a = _correlations(ranks_a, there_a)
    corr_b, n_b, var_b = _correlations(ranks_b, there_b)
    names = list(a)
    pairs = [
        (i, j)
        for i, j in itertools.combinations(range(len(names)), 2)
        if min(n_a[i, j], n_b[i, j]) >= LEAST
        and min(abs(corr_a[i, j]), abs(corr_b[i, j])) < _FUNCTION
    ]
    if not pairs:
        return 1.0, 0, ("", ""), (0.0, 0.0)
    at = tuple(np.array(pairs).T)
    apart = _fisher(corr_a[at], n_a[at]) - _fisher(corr_b[at], n_b[at])
    z = np.abs(apart) / np.sqrt(var_a[at] + var_b[at])
    first = int(z.argmax())
    i, j = pairs[first]
    p = min(1.0, len(pairs) * 2 * float(scipy_stats().norm.sf(z[first])))
    return p, len(pairs), (names[i], names[j]), (float(corr_a[i, j]), float(corr_b[i, j]))


def _fisher(correlations: Float64, n: npt.NDArray[np.int64]) -> Float64:
    """Fisher's transformation; of a correlation of 1, n rows show no more than that it is near."""
    most = 1 - 1 / n
    clipped: Float64 = correlations.clip(-most, most)
    return np.arctanh(clipped)


def _ranks(columns: dict[str, Float64]) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """Ranks (N, K) of columns, with mean 0 and 0 where there is no value; and where one is."""
    stats = scipy_stats()
    values = np.column_stack(list(columns.values()))
    there = np.isfinite(values)
    ranks = np.zeros(values.shape)
    for k in range(values.shape[1]):
        found = stats.rankdata(values[there[:, k], k])
        ranks[there[:, k], k] = found - found.mean() if len(found) else found
    return ranks, there


def _correlations(
    ranks: Float64, there: npt.NDArray[np.bool_]
) -> tuple[Float64, npt.NDArray[np.int64], Float64]:
    """Correlations (K, K) over the rows that have both values, how many these are, and variances.

    The variances are those of Fisher's transformation of each, and the larger of two: that of
    numbers without ties, and the one that the rows themselves show (the delta method). Where one
    column is nearly a function of another, as the number of different images is of whether there is
    a mosaic, a few rows decide, and the second is much larger. The factor 1.06 is Fieller, Hartley
    and Pearson's, for ranks.
    """
    weight = there.astype(np.float64)
    count = weight.T @ weight
    powers = [ranks**k for k in range(5)]
    powers[0] = weight

    def moments(i: int, j: int) -> Float64:
        """Means of the i-th power of a column times the j-th of another, where both have values."""
        found: Float64 = (powers[i].T @ powers[j]) / count
        return found

    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = moments(2, 0), moments(0, 2)
        r = moments(1, 1) / np.sqrt(x * y)
        cubes = (moments(3, 1) / x + moments(1, 3) / y) / np.sqrt(x * y)
        squares = moments(2, 2) / (x * y)
        fourths = moments(4, 0) / x**2 + moments(0, 4) / y**2
        shown = squares - r * cubes + r**2 / 4 * (fourths + 2 * squares)
        variances = 1.06 * np.fmax(1 / (count - 3), shown / count / (1 - r**2) ** 2)
    return np.nan_to_num(r), count.astype(int), variances
