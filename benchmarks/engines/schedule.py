"""The order of measurement: what each engine does best, then all engines turn by turn."""

from collections.abc import Callable
from dataclasses import dataclass, field

from engines.adapter import Peer
from engines.batching import DEFAULT, Batching
from engines.registry import PEERS
from engines.workers import Bench, StoppedError, Worker, first_score, memory


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: Turns of each engine at the XQuAD job; half as many at the log-normal one.
        search_rounds: Turns of each engine at each query.
        starts: Fresh processes of each engine.
        num_queries: Queries by number of documents.
        is_searching: Whether batchings are tried; else each engine's `usual` is taken.
        lanes: Lanes tried.
        budgets: Budgets tried; None tries all.
        with_default: Whether batches of 32 as they come are timed too.
    """

    rounds: int
    search_rounds: int
    starts: int
    num_queries: dict[int, int]
    is_searching: bool
    lanes: tuple[int, ...] = (1, 2)
    budgets: tuple[int, ...] | None = None
    with_default: bool = True


@dataclass(slots=True)
class Record:
    """All that was measured of one engine.

    Attributes:
        key: Its name in `PEERS`.
        best: Batching by job kind, "natural" and "search".
        tried: Seconds by job kind and batching.
        seconds: Seconds of every turn by job; of the same length in all engines, so that turns
            pair up.
        others: Seconds of the machine's cores that other processes took in each of these turns.
        logits: Logits of the last turn by job.
        starts: Seconds from process start to first score.
        memory: MiB of a fresh process (see `workers.memory`).
        tokenize: Seconds of tokenising alone, where the engine takes texts.
        has_asked_for_amx: Whether it asked for AMX.
        note: Why it is missing or its times are not shown; "" if all is well.
    """

    key: str
    best: dict[str, Batching] = field(default_factory=dict)
    tried: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    others: dict[str, list[float]] = field(default_factory=dict)
    logits: dict[str, list[float]] = field(default_factory=dict)
    starts: list[float] = field(default_factory=list)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    tokenize: list[float] = field(default_factory=list)
    has_asked_for_amx: bool = False
    note: str = ""

    @property
    def kind(self) -> type[Peer]:
        """The adapter."""
        return PEERS[self.key]


class Run:
    """One benchmark over several engines."""

    def __init__(self, bench: Bench, plan: Plan, say: Callable[[str], None]) -> None:
        self.bench = bench
        self.plan = plan
        self.say = say
        self.records: dict[str, Record] = {}
        self.workers: dict[str, Worker] = {}

    def drop(self, key: str, reason: str) -> None:
        """Leave an engine out from here on."""
        self.records[key].note = reason
        self.say(f"{key} is left out: {reason}")
        if worker := self.workers.pop(key, None):
            worker.close()

    def each(self, do: Callable[[str, Worker], None]) -> None:
        """Give every engine its turn; one that fails is dropped."""
        for key, worker in list(self.workers.items()):
            try:
                do(key, worker)
            except StoppedError as exc:
                self.drop(key, str(exc))

    def start(self, keys: list[str]) -> None:
        """Start the engines and warm them up at their best batchings."""
        for key in keys:
            self.records[key] = Record(key)
            try:
                self.workers[key] = Worker(key, self.bench)
            except StoppedError as exc:
                self.drop(key, str(exc))
        self.each(self._choose)

    def _choose(self, key: str, worker: Worker) -> None:
        record = self.records[key]
        for kind, job in (("natural", "try"), ("search", "search-20-0")):
            if not self.plan.is_searching:
                usual = record.kind.usual
                lanes = usual.lanes if usual.lanes in self.plan.lanes else 1
                record.best[kind] = Batching(usual.budget, lanes)
                continue
            tried = self._try(record.kind, worker, job)
            record.best[kind] = min(tried, key=lambda batching: tried[batching])
            record.tried[kind] = {str(batching): seconds for batching, seconds in tried.items()}
            self.say(f"{key}, {kind}: best is {record.best[kind]}")

    def _try(self, kind: type[Peer], worker: Worker, job: str) -> dict[Batching, float]:
        """Time every budget in one lane, then the best two of these in more lanes."""

        def seconds(batching: Batching) -> float:
            worker.run(job, batching)  # an engine may compile for every new shape
            return min(float(worker.run(job, batching)["seconds"]) for _ in range(2))

        wanted = self.plan.budgets or kind.budgets()
        budgets = [budget for budget in kind.budgets() if budget in wanted] or kind.budgets()
        tried = {batching: seconds(batching) for batching in map(Batching, budgets)}
        best = sorted(tried, key=lambda batching: tried[batching])[:2]
        for lanes in kind.lane_choices:
            if lanes > 1 and lanes in self.plan.lanes:
                more = [Batching(batching.budget, lanes) for batching in best]
                tried |= {batching: seconds(batching) for batching in more}
        return tried

    def batching(self, record: Record, job: str) -> Batching:
        """Return how an engine runs a job at its best."""
        if job.startswith("search-1-"):
            return DEFAULT if record.kind.takes_texts else Batching(1)
        if job.startswith("search") and not job.startswith("search-100-"):
            return record.best["search"]
        return record.best["natural"]

    def throughput(self) -> None:
        """Time the large jobs, turn by turn."""
        for turn in range(-1, self.plan.rounds):
            self._turn("natural", turn)
            if turn < (self.plan.rounds + 1) // 2:
                self._turn("lognormal", turn)
            self.say(f"throughput, turn {turn + 1} of {self.plan.rounds}")
        if self.plan.with_default:
            self.each(self._time_default)
        self.each(self._time_tokenizing)

    def latency(self) -> None:
        """Time single queries, turn by turn."""
        for turn in range(-1, self.plan.search_rounds):
            for documents, count in self.plan.num_queries.items():
                for at in range(count):
                    self._turn(f"search-{documents}-{at}", turn)
            self.say(f"latency, turn {turn + 1} of {self.plan.search_rounds}")

    def _turn(self, job: str, turn: int) -> None:
        self.each(lambda key, worker: self._time(key, worker, job, turn))

    def _time(self, key: str, worker: Worker, job: str, turn: int) -> None:
        record = self.records[key]
        answer = worker.run(job, self.batching(record, job))
        if turn >= 0:  # the first is for warming up
            record.seconds.setdefault(job, []).append(answer["seconds"])
            record.others.setdefault(job, []).append(answer["others"])
            record.logits[job] = answer["logits"]

    def _time_default(self, key: str, worker: Worker) -> None:
        record = self.records[key]
        if not record.key.startswith("polyrank"):  # which sorts whatever it is given
            seconds = worker.run("natural", DEFAULT)["seconds"]
            record.seconds.setdefault("natural, 32 as they come", []).append(seconds)

    def _time_tokenizing(self, key: str, worker: Worker) -> None:
        record = self.records[key]
        if record.kind.takes_texts:
            for _ in range(3):
                record.tokenize.append(worker.ask(do="tokenize", job="natural")["seconds"])

    def finish(self) -> None:
        """Ask for what only a process that has run can tell, and end the processes."""

        def ask(key: str, worker: Worker) -> None:
            self.records[key].has_asked_for_amx = worker.ask(do="amx")["has_asked_for_amx"]

        self.each(ask)
        for worker in self.workers.values():
            worker.close()

    def starts(self) -> None:
        """Time fresh processes, turn by turn, and measure memory in one more of each."""
        for turn in range(self.plan.starts):
            for key in list(self.workers):
                try:
                    self.records[key].starts.append(first_score(self.bench, key))
                    if turn == 0:
                        batching = self.records[key].best["natural"]
                        self.records[key].memory = memory(self.bench, key, batching)
                except StoppedError as exc:
                    self.drop(key, str(exc))
            self.say(f"starts, turn {turn + 1} of {self.plan.starts}")
