"""What is measured, in the text format that Prometheus reads (version 0.0.4, which every scraper takes).

Names: base units, ``_total`` for what only grows. Labels are ids and words of ours, and paths of routes as the document
has them; nothing that a caller chose. Each scrape has a registry of its own, so what is gone is gone from the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from lvagent import __version__
from lvagent.api import exposition_vms, exposition_vpcs
from lvagent.api.families import counter, gauge, histogram, single
from lvagent.spec.metrics import Counted, HostMetrics, Metrics, ProcessMetrics

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def exposition(metrics: Metrics) -> bytes:
    """The text."""
    registry = CollectorRegistry(auto_describe=False, support_collectors_without_names=True)
    registry.register(_Scrape(metrics))
    return generate_latest(registry)


class _Scrape:
    """A collector of what was measured already."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return families(self._metrics)


def families(metrics: Metrics) -> Iterator[Metric]:
    """All metric families of these metrics."""
    yield gauge("lvagent_build_info", "The version of the agent; always 1.", ("version",), [((__version__,), 1)])
    if metrics.host is not None:
        yield from _host(metrics.host, metrics.at)
        yield from _counted(metrics.host.counted)
        if metrics.host.process is not None:
            yield from _process(metrics.host.process)
    yield from exposition_vpcs.families(metrics)
    yield from exposition_vms.families(metrics.vms)


def _host(host: HostMetrics, at: float) -> Iterator[Metric]:
    yield gauge("lvagent_ready", "Whether the agent can serve, as /readyz says.", (), single(host.ready))
    stale = host.stale_since is not None
    text = "Whether libvirt cannot be read: states of VMs are then those that were seen last."
    yield gauge("lvagent_libvirt_stale", text, (), single(stale))
    age = max(0.0, at - host.stale_since) if host.stale_since is not None else 0.0
    yield gauge("lvagent_libvirt_stale_seconds", "For how long libvirt could not be read; 0: it can.", (), single(age))
    yield gauge(
        "lvagent_sweep_last_success_timestamp_seconds",
        "Unix time at which the last sweep ended that was done.",
        (),
        single(host.swept_at),
    )
    yield gauge(
        "lvagent_sweep_last_success_duration_seconds", "How long that sweep took.", (), single(host.swept_seconds)
    )
    text = "Whether the last sweep removed nothing, because it would have been too much (sweep.removals)."
    yield gauge("lvagent_sweep_removals_held", text, (), single(host.held))
    yield gauge(
        "lvagent_stray_processes", "qemu processes that nobody wants, as of the last sweep.", (), single(host.strays)
    )
    yield counter("lvagent_events_total", "Events that were told to who follows them.", (), single(host.news))
    yield gauge("lvagent_event_streams", "Open event streams.", (), single(len(host.streams)))
    text = "Events that wait in the stream in which most do; one with 1024 is ended."
    yield gauge("lvagent_event_stream_backlog", text, (), single(max(host.streams, default=0)))
    yield gauge("lvagent_transit_slots", "Uplinks for which the pools have addresses.", (), single(host.slots))
    yield gauge("lvagent_transit_slots_used", "Uplinks that have addresses of the pools.", (), single(host.slots_used))
    yield gauge("lvagent_floating_addresses", "Floating addresses that are led to VMs.", (), single(host.floating))


def _counted(counted: Counted) -> Iterator[Metric]:
    yield histogram("lvagent_sweep_duration_seconds", "Sweeps, by outcome: done, failed.", ("outcome",), counted.sweeps)
    yield counter(
        "lvagent_sweep_repairs_total",
        "Objects of networks that sweeps found missing, or not as wanted, and made.",
        (),
        single(counted.repaired),
    )
    yield counter(
        "lvagent_filter_heals_total",
        "Times that somebody changed a filter of ours, which was brought back at once: in a vpc, in root, in fabric.",
        ("where",),
        counted.healed.items(),
    )
    yield histogram(
        "lvagent_operation_duration_seconds",
        "Operations on VMs: done; refused, for what was asked; failed, for what the host did. "
        "restart: by the agent itself.",
        ("operation", "outcome"),
        counted.operations,
    )
    yield histogram(
        "lvagent_http_request_duration_seconds",
        "HTTP requests until their answer was ready (of a stream: until it began), by the path in the document.",
        ("route", "method"),
        counted.requests,
    )
    yield counter(
        "lvagent_http_requests_total",
        "HTTP requests that were answered, by class of their status. Without those that were no proper HTTP.",
        ("route", "method", "status"),
        counted.answers.items(),
    )
    yield counter("lvagent_timeline_entries_total", "Entries of timelines of VMs.", ("kind",), counted.happened.items())


def _process(process: ProcessMetrics) -> Iterator[Metric]:
    """The names that Prometheus' own clients use."""
    usage = process.usage
    yield counter("process_cpu_seconds_total", "User and system CPU time.", (), single(usage.cpu_seconds))
    yield gauge("process_resident_memory_bytes", "Resident memory.", (), single(usage.resident_bytes))
    yield gauge("process_virtual_memory_bytes", "Virtual memory.", (), single(process.virtual_bytes))
    yield gauge("process_start_time_seconds", "Unix time of the agent's start.", (), single(process.started_at))
    yield gauge("process_open_fds", "Open file descriptors.", (), single(process.files))
    yield gauge("process_max_fds", "File descriptors that may be open.", (), single(process.most_files))
    yield gauge("process_threads", "Threads.", (), single(process.threads))
