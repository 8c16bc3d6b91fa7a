"""The counters of several processes as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_ALIKE = {"imp_kv_tokens", "imp_asleep"}  # every worker says the same
_LASTING = ("counter", "histogram")  # what a process leaves behind when it has ended


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: what kind, what it tells, and the value of each of its samples by name and labels."""

    kind: str
    told: str
    values: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True, slots=True, eq=False)
class Samples(Collector):
    """Metrics by name."""

    families: Mapping[str, Family] = field(default_factory=dict)

    @staticmethod
    def of(registry: CollectorRegistry) -> Samples:
        """What a registry holds now."""
        found = {}
        for metric in registry.collect():
            values = {(each.name, tuple(sorted(each.labels.items()))): each.value for each in metric.samples}
            found[metric.name] = Family(metric.type, metric.documentation, values)
        return Samples(found)

    @staticmethod
    def sum(several: Iterable[Samples]) -> Samples:
        """All together: numbers add up, but times at which something began, of which the first counts."""
        found: dict[str, Family] = {}
        for samples in several:
            for name, family in samples.families.items():
                before = found.get(name, Family(family.kind, family.told, {})).values
                values = dict(before)
                for key, value in family.values.items():
                    values[key] = _together(name, key[0], before[key], value) if key in before else value
                found[name] = Family(family.kind, family.told, values)
        return Samples(found)

    def lasting(self) -> Samples:
        """What counts on when the process has ended."""
        return Samples({name: each for name, each in self.families.items() if each.kind in _LASTING})

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client wants it."""
        for name, family in self.families.items():
            metric = Metric(name, family.told, family.kind)
            for (sample, labels), value in family.values.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric


def _together(family: str, sample: str, one: float, other: float) -> float:
    if family in _ALIKE:
        return max(one, other)
    if sample.endswith(("_created", "_start_time_seconds")):
        return min(one, other)
    return one + other
