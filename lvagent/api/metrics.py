"""GET /metrics: what is measured, for Prometheus."""

from __future__ import annotations

from http import HTTPStatus

from lvagent.api.contract import Answer, Call, Reply, Route
from lvagent.api.exposition import CONTENT_TYPE, exposition
from lvagent.spec.access import Role


def metrics(call: Call) -> Answer:
    """GET /metrics"""
    return Answer(HTTPStatus.OK, exposition(call.agent.metrics()), CONTENT_TYPE)


ROUTE = Route(
    "GET",
    "/metrics",
    "metrics",
    Role.READ,
    "What is measured, in Prometheus' text format. A token that is limited to VPCs gets what is of these alone.",
    metrics,
    (Reply(200, "Samples, with their meaning in HELP.", media=CONTENT_TYPE),),
)
