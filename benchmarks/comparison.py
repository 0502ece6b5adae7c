"""The comparison itself: who is measured on what, in which order, and what came out of it."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

from benchmarks import trials
from benchmarks.ceiling import copy_rate, documents
from benchmarks.contenders import Contender, Entrant, sensorlog
from benchmarks.stage import Stage
from benchmarks.telegraf import CANDIDATES, Parser, TelegrafSettings, telegraf
from benchmarks.workload import Workload
from sensorlog.pipeline import BatchConfig
from support.pipelines import Pipeline

TUNING_ROWS = 1_000_000
"""Settings are tried on so many rows."""

PARSERS: tuple[Parser, ...] = get_args(Parser)

SENSORS_TOPIC = "sensors"


@dataclass
class Comparison:
    """What is compared, and what came out of it so far."""

    stage: Stage
    workloads: Sequence[Workload]
    rounds: int
    kills: int
    raw: list[float] = field(default_factory=list)
    tuning: list[dict[str, Any]] = field(default_factory=list)
    tuned: dict[tuple[int, Parser], TelegrafSettings] = field(default_factory=dict)
    speeds: dict[tuple[int, str], list[trials.Speed]] = field(default_factory=dict)
    outcomes: list[tuple[str, str, trials.Table]] = field(default_factory=list)

    def run(self, *, tune: bool, with_trials: bool) -> Iterator[str]:
        """Do everything, in order; yields what comes next, for a progress display."""
        yield from self.produce()
        yield from self.tune(CANDIDATES if tune else [TelegrafSettings()])
        yield from self.measure_speed()
        if with_trials:
            yield from self.try_kills()
            yield from self.try_poison()
            yield from self.try_large_ids()
            yield from self.try_outage()

    def produce(self) -> Iterator[str]:
        """Fill a topic for each size of messages, which everyone reads."""
        self.stage.broker.create_topic(SENSORS_TOPIC)
        for workload in self.workloads:
            yield f"produce {workload.messages:,} messages of {workload.per_message}"
            workload.produce(self.stage.broker, _topic(workload))

    def tune(self, candidates: Sequence[TelegrafSettings]) -> Iterator[str]:
        """Try Telegraf's settings, with each of its parsers, on a part of each topic and keep the fastest."""
        for workload, parser in itertools.product(self.workloads, PARSERS):
            size = workload.per_message
            rates: dict[TelegrafSettings, float] = {}
            for settings in [replace(candidate, parser=parser) for candidate in candidates]:
                yield f"tune Telegraf: {size} a message, {parser}, batches of {settings.metric_batch_size:,}"
                with self._runner(telegraf(settings, size), _topic(workload)) as (_, contender):
                    rates[settings] = _tuning_rate(contender, workload)
                rate = round(rates[settings])
                self.tuning.append({"readings_per_message": size, **asdict(settings), "rows_per_second": rate})
            self.tuned[size, parser] = max(rates, key=rates.__getitem__)

    def entrants(self, workload: Workload) -> list[Entrant]:
        """Return who is measured on a workload."""
        size = workload.per_message
        return [sensorlog(size), *(telegraf(self.tuned[size, parser], size) for parser in PARSERS)]

    def measure_speed(self) -> Iterator[str]:
        """Measure raw COPY and everyone in alternation; who begins changes from round to round."""
        copies = documents(self.workloads[0], BatchConfig().max_rows, is_sorted=False)
        for number in range(self.rounds):
            for workload in self.workloads:
                yield f"round {number + 1}: raw COPY"
                with self.stage.pipeline((_topic(workload), SENSORS_TOPIC)) as pipeline:
                    self.raw.append(copy_rate(pipeline, copies, workload.rows))
                for entrant in self.entrants(workload)[:: 1 if number % 2 == 0 else -1]:
                    yield f"round {number + 1}: {entrant.name}, {workload.per_message} a message"
                    with self._runner(entrant, _topic(workload)) as (pipeline, contender):
                        run = trials.speed(pipeline, contender, workload)
                    self.speeds.setdefault((workload.per_message, entrant.name), []).append(run)

    def try_kills(self) -> Iterator[str]:
        """Let everyone be killed while it works through the topic."""
        workload = self.workloads[0]
        trial = f"{self.kills} x kill -9"
        for entrant in self.entrants(workload):
            yield f"{trial}: {entrant.name}"
            with self._runner(entrant, _topic(workload)) as (pipeline, contender):
                self.outcomes.append((trial, entrant.name, trials.kills(pipeline, contender, workload, self.kills)))

    def try_poison(self) -> Iterator[str]:
        """Let everyone read malformed messages: one of each kind in a topic of its own, then all of them in one."""
        kinds = {name: [value] for name, value in trials.MALFORMED.items()}
        for number, (name, malformed) in enumerate({**kinds, "all five": list(trials.MALFORMED.values())}.items()):
            topic = trials.produce_poison(self.stage, f"poison-{number}", malformed)
            yield from self._read(f"malformed: {name}", f"poison-{number}", topic)

    def try_large_ids(self) -> Iterator[str]:
        """Let everyone read sensors' numbers that a double cannot hold."""
        topic = trials.produce_large_ids(self.stage, "large-ids")
        yield from self._read("sensor_id above 2^53", "large-ids", topic)

    def _read(self, trial: str, name: str, topic: trials.Topic) -> Iterator[str]:
        workload = min(self.workloads, key=lambda workload: workload.per_message)
        for entrant in self.entrants(workload):
            yield f"{trial}: {entrant.name}"
            with self._runner(entrant, name) as (pipeline, contender):
                self.outcomes.append((trial, entrant.name, trials.reading(pipeline, contender, topic)))

    def try_outage(self) -> Iterator[str]:
        """Take the database away from everyone, and from a Telegraf whose buffer is smaller than what is in flight."""
        workload = self.workloads[0]
        size = workload.per_message
        trial = f"database away for {trials.OUTAGE_SECONDS} s"
        small = telegraf(self.tuned[size, "json_v2"].small_buffer(), size, "small buffer")
        for entrant in (*self.entrants(workload), small):
            yield f"{trial}: {entrant.name}"
            with self._runner(entrant, _topic(workload)) as (pipeline, contender):
                self.outcomes.append((trial, entrant.name, trials.outage(self.stage, pipeline, contender, workload)))

    @contextlib.contextmanager
    def _runner(self, entrant: Entrant, topic: str) -> Iterator[tuple[Pipeline, Contender]]:
        with self.stage.pipeline((topic, SENSORS_TOPIC)) as pipeline:
            yield pipeline, entrant.contender(pipeline)


def _topic(workload: Workload) -> str:
    return f"readings-{workload.per_message}"


def _tuning_rate(contender: Contender, workload: Workload) -> float:
    contender.start()
    try:
        return trials.write_rate(contender, min(TUNING_ROWS, workload.rows))
    finally:
        contender.kill()
