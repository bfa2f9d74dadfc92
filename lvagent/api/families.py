"""Metric families out of rows: values of labels, and a number. The library writes them down, and escapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from lvagent.spec.metrics import Key, Spread

Rows = Iterable[tuple[Sequence[str], float | None]]
"""Values of the labels, and a number; None: it is not known, and the row is left out."""


def gauge(name: str, text: str, labels: Sequence[str], rows: Rows) -> Metric:
    """What goes up and down."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in rows:
        if number is not None:
            family.add_metric(values, float(number))
    return family


def counter(name: str, text: str, labels: Sequence[str], rows: Rows) -> Metric:
    """What only grows, until what counts it begins anew. The name ends in ``_total``."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, number in rows:
        if number is not None:
            family.add_metric(values, float(number))
    return family


def histogram(name: str, text: str, labels: Sequence[str], spreads: Mapping[Key, Spread]) -> Metric:
    """How long things took. The name ends in ``_seconds``."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, spread in spreads.items():
        bounds = (*map(str, spread.bounds), "+Inf")
        family.add_metric(values, list(zip(bounds, accumulate(spread.counts), strict=True)), spread.total)
    return family


def single(number: float | None) -> Rows:
    """The one row of a family without labels."""
    return [((), number)]
