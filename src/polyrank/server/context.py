"""What is known of one request while it is served: for answers, logs, metrics and traces."""

import time
from dataclasses import dataclass, field
from math import inf

from polyrank.engine.fair_queue import Flow
from polyrank.engine.scheduler import Ran
from polyrank.inference.computations import Prepared
from polyrank.server.tracing import NO_TRACE, Trace


@dataclass(slots=True)
class RequestContext:
    """What is known of one request while it is served.

    Attributes:
        request_id: Its id in logs and answers.
        flow: Its place in the scheduler's queue.
        begun: When it came, on the monotonic clock.
        num_characters: Characters of its texts.
        num_tokens: Tokens of its items; a query whose vector serves many documents counts once.
        num_texts: Texts or pairs in it.
        num_truncated: Of those, how many were cut.
        num_values: Numbers that its reply will hold, as far as is known.
        tokenization_s: Seconds of tokenising.
        submitted: When its first sequences were queued.
        inference_begun: When its first batch began.
        inference_ended: When its last batch ended.
        model: Name of the model that served it.
        task: "rerank", "predict" or "embed", as metrics name it.
        trace: What its steps are told.
    """

    request_id: str = ""
    flow: Flow = field(default_factory=Flow)
    begun: float = field(default_factory=time.monotonic)
    num_characters: int = 0
    num_tokens: int = 0
    num_texts: int = 0
    num_truncated: int = 0
    num_values: int = 0
    tokenization_s: float = 0.0
    submitted: float = inf
    inference_begun: float = inf
    inference_ended: float = -inf
    model: str = ""
    task: str = ""
    trace: Trace = NO_TRACE

    @property
    def queue_s(self) -> float:
        """Seconds until its first batch began."""
        return max(self.inference_begun - self.submitted, 0.0) if self._has_run else 0.0

    @property
    def inference_s(self) -> float:
        """Seconds from its first batch's begin to its last one's end."""
        return self.inference_ended - self.inference_begun if self._has_run else 0.0

    @property
    def _has_run(self) -> bool:
        return self.inference_ended > -inf

    def note_tokenized(self, begin: float, prepared: Prepared) -> None:
        """Keep how long it took to tokenise some of its texts, up to now."""
        end = time.monotonic()
        self.tokenization_s += end - begin
        facts = {"texts": len(prepared.num_tokens), "tokens": prepared.batch.total_tokens}
        self.trace.add("tokenize", begin, end, facts)

    def note_run(self, ran: Ran) -> None:
        """Keep when some of its sequences were run."""
        facts = {"sequences": len(ran.rows)}
        self.trace.add("queue", ran.submitted, ran.begun, facts)
        self.trace.add("encode", ran.begun, ran.ended, facts)
        self.submitted = min(self.submitted, ran.submitted)
        self.inference_begun = min(self.inference_begun, ran.begun)
        self.inference_ended = max(self.inference_ended, ran.ended)
