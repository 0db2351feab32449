"""What an engine must offer to be measured: token ids in, logits out.

`Peer` cuts and pads batches and runs them side by side; engines that do this themselves override
`run`. Subclasses import their libraries when loaded, so that one process holds one engine.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from engines.batching import BUDGETS, Batching, Tokens, pad, plan

Logits = NDArray[np.float32]
Pair = tuple[str, str]

THREADS = 2


class Peer:
    """An engine that takes padded batches.

    Attributes:
        name: What it is called in tables.
        precision: Of its matrix products.
        needs: The converted model it reads, a path whose first part is a key of
            `convert.MAKERS`, or "" for the checkpoint.
        takes_texts: Whether it tokenises by itself; then `run_texts` stands for `run`.
        lane_choices: How many batches side by side are tried.
        usual: Batching that full runs found best, for the quick mode.
    """

    name: ClassVar[str]
    precision: ClassVar[str]
    needs: ClassVar[str] = ""
    takes_texts: ClassVar[bool] = False
    lane_choices: ClassVar[tuple[int, ...]] = (1, THREADS)
    usual: ClassVar[Batching] = Batching(1024)

    def __init__(self, lanes: int = 1) -> None:
        self.lanes = lanes
        self.threads = THREADS // lanes
        self.pad_id = 0
        self._pool = ThreadPoolExecutor(lanes)

    @classmethod
    def budgets(cls) -> tuple[int, ...]:
        """Return the batch budgets that are tried (see `Batching`)."""
        return (1, *BUDGETS)

    def prepare(self, folder: Path, converted: Path) -> None:
        """Load the checkpoint, or what was converted from it."""
        self.pad_id = json.loads((folder / "config.json").read_text("utf8"))["pad_token_id"]
        self.load(folder, converted / self.needs if self.needs else folder)

    def load(self, folder: Path, source: Path) -> None:
        """Load `source`; `folder` is the checkpoint it came from."""
        raise NotImplementedError

    def forward(self, ids: Tokens, mask: Tokens) -> Logits:
        """Return the logits of one padded batch, shape (batch,)."""
        raise NotImplementedError

    def run(self, sequences: Sequence[Tokens], batching: Batching) -> Logits:
        """Return logits in input order, shape (num_sequences,)."""
        logits = np.empty(len(sequences), np.float32)

        def one(indices: NDArray[np.intp]) -> None:
            ids, mask = pad([sequences[i] for i in indices], self.pad_id)
            logits[indices] = self.forward(ids, mask)

        batches = plan([len(tokens) for tokens in sequences], batching)
        if self.lanes == 1 or len(batches) == 1:
            for indices in batches:
                one(indices)
        else:
            list(self._pool.map(one, batches))
        return logits

    def first_score(self, folder: Path, converted: Path, pair: Pair) -> float:
        """Load everything, tokenizer included, and return the logit of one pair."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.prepare(folder, converted)
        return float(self.run([np.array(tokenizer.encode(*pair).ids)], Batching(1))[0])
