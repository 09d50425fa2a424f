"""How sure a difference is that several trainings and a stretch of time have shown."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from flashtrader.arrays import Floats


@dataclass(frozen=True)
class Difference:
    """A score less another's, seed by seed, and its confidence interval."""

    estimate: float
    low: float
    high: float


def paired_difference(scores_S: Floats, stretches_SG: Floats, confidence: float) -> Difference:
    """Return the mean of paired differences over S seeds, with the interval that time and seeds leave open.

    scores_S: each seed's difference on all bars. stretches_SG: the same on G stretches of time alone. Their spread
    over stretches, means over the seeds, gives the error that the sampled time leaves, whatever the dependence from bar
    to bar (Ibragimov & Müller 2010, t-Statistic Based Correlation and Heterogeneity Robust Inference); the spread over
    seeds gives the training's. The variances add, which counts their interaction twice, and the degrees of freedom are
    Satterthwaite's (1946). With one seed the interval holds for that training alone.
    """
    num_seeds, num_stretches = stretches_SG.shape
    variances = [(stretches_SG.mean(axis=0).var(ddof=1) / num_stretches, num_stretches - 1)]
    if num_seeds > 1:
        variances.append((scores_S.var(ddof=1) / num_seeds, num_seeds - 1))
    variance = sum(value for value, _ in variances)
    estimate = float(scores_S.mean())
    if not variance > 0:
        return Difference(estimate, estimate + variance, estimate + variance)
    freedom = variance**2 / sum(value**2 / degrees for value, degrees in variances)
    reach = _student_t(1 - (1 - confidence) / 2, freedom) * math.sqrt(variance)
    return Difference(estimate, estimate - reach, estimate + reach)


def _student_t(probability: float, freedom: float) -> float:
    """Return Student's t at a probability (Abramowitz & Stegun 1964, 26.7.5); from 2 degrees on within 4 %."""
    z = NormalDist().inv_cdf(probability)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
