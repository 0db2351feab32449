"""What all frameworks are asked, and what the library itself answers."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from polyrank import Embedder, Reranker

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TEXTS = [
    json.loads(line)["text"]
    for line in (EXAMPLES / "cats.jsonl").read_text(encoding="utf8").splitlines()
]
QUESTION = "How long do cats live?"
EMBEDDER, RERANKER = Embedder(), Reranker()
HITS = RERANKER.rank(QUESTION, TEXTS)
BEST = [TEXTS[hit.index] for hit in HITS]
DOCUMENT_VECTORS = EMBEDDER.encode(TEXTS, input_type="document")
QUERY_VECTOR = EMBEDDER.encode([QUESTION], input_type="query")[0]


def run_beside_clock(make: Callable[[], Awaitable[Any]]) -> Any:
    """Return what an awaitable gives, having seen that the event loop went on meanwhile."""

    async def main() -> Any:
        ticks, done = 0, asyncio.Event()

        async def clock() -> None:
            nonlocal ticks
            while not done.is_set():
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(clock())
        await asyncio.sleep(0.01)
        before, start = ticks, time.monotonic()
        result = await make()
        ticked, spent = ticks - before, time.monotonic() - start
        done.set()
        await ticking
        # a blocked loop cannot tick more than once before and once after
        assert ticked > 5 or spent < 0.02, (ticked, spent)
        return result

    return asyncio.run(main())
