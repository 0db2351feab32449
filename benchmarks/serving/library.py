"""The library in a process of its own, which times itself. Usage: library.py FOLDER THREADS TYPE.

Reads a request a line as JSON, ``{"query", "documents"}``, and answers a line with the ranking
and the seconds of the call. Knows nothing of servers.
"""

import json
import sys
import time

from polyrank import Reranker


def main() -> None:
    """Rank until the input ends."""
    folder, threads, compute_dtype = sys.argv[1:]
    reranker = Reranker(folder, num_threads=int(threads), compute_dtype=compute_dtype)  # type: ignore[arg-type] # checked there
    for line in sys.stdin:
        body = json.loads(line)
        begin = time.perf_counter()
        hits = reranker.rank(body["query"], body["documents"])
        seconds = time.perf_counter() - begin
        answer = {"seconds": seconds, "hits": [(hit.index, hit.score) for hit in hits]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
