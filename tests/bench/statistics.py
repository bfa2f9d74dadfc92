"""Paired differences with a bootstrap interval. These machines are noisy: a median alone says little."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Paired:
    """Two variants measured in turns, milliseconds; ``low`` and ``high``: 95 % bootstrap interval of the difference."""

    pairs: int
    ours: float
    bare: float
    ratio: float
    difference: float
    low: float
    high: float


def paired(ours: Sequence[float], bare: Sequence[float], seed: int = 1) -> Paired:
    """Compare two series of the same length, pair by pair.

    The interval is the percentile bootstrap of the median of the differences (Efron and Tibshirani, 1993).
    """
    differences = [a - b for a, b in zip(ours, bare, strict=True)]
    chance = random.Random(seed)
    medians = sorted(statistics.median(chance.choices(differences, k=len(differences))) for _ in range(RESAMPLES))
    return Paired(
        pairs=len(differences),
        ours=round(statistics.median(ours), 1),
        bare=round(statistics.median(bare), 1),
        ratio=round(statistics.median(ours) / statistics.median(bare), 3),
        difference=round(statistics.median(differences), 1),
        low=round(medians[int(0.025 * RESAMPLES)], 1),
        high=round(medians[int(0.975 * RESAMPLES) - 1], 1),
    )
