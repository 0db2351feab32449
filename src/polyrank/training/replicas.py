"""Copies of a body that share out the sequences of an update.

On a CPU every thread gets a process with a copy of its own: one PyTorch operation on two threads
is hardly faster than on one at the sizes of a small body, and threads of one process wait for each
other between operations. Copies compute in bfloat16 where the processor is quick at it; the
weights that are trained stay float32, in memory that all processes see. A GPU takes one copy in
this process.

Sequences run in batches of few different shapes, since oneDNN compiles its kernels for each.
"""

import copy
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from polyrank.errors import TrainingError
from polyrank.types import Float32Array

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_LENGTH_STEP = 16
_FEW_TOKENS = 512  # a batch of fewer goes along with the next longer ones


def plan_shapes(lengths: Sequence[int], max_tokens: int) -> list[tuple[list[int], int, int]]:
    """Group sequences into batches of few different shapes.

    Args:
        lengths: Tokens of each sequence.
        max_tokens: Tokens of a batch at most, padding included; a longer sequence runs alone.

    Returns:
        Indices, rows and columns of each batch; rows beyond the indices are padding.
    """
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        by_length.setdefault(-(-length // _LENGTH_STEP) * _LENGTH_STEP, []).append(index)
    batches: list[tuple[list[int], int, int]] = []
    waiting: list[int] = []
    for columns in sorted(by_length):
        waiting += by_length[columns]
        most = max(size for size in _SIZES if size * columns <= max(max_tokens, columns))
        while len(waiting) >= most:
            batches.append((waiting[:most], most, columns))
            waiting = waiting[most:]
        if len(waiting) * columns >= _FEW_TOKENS or columns == max(by_length):
            if waiting:
                rows = min(size for size in _SIZES if size >= len(waiting))
                batches.append((waiting, rows, columns))
            waiting = []
    return batches


def share_out(lengths: Sequence[int], num_shares: int) -> list[list[int]]:
    """Share out sequences so that every share has about the same number of tokens."""
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    loads = [0] * num_shares
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        lightest = loads.index(min(loads))
        shares[lightest].append(index)
        loads[lightest] += lengths[index]
    return shares


def mean_rows(body: nn.Module, sequences: Sequence[Sequence[int]], max_tokens: int) -> Tensor:
    """Return the mean of each sequence's token rows, shape (num_sequences, hidden_size).

    Args:
        body: A transformers encoder.
        sequences: Token ids.
        max_tokens: Tokens of a batch, padding included.

    Returns:
        float32, on the body's device, with its graph.
    """
    device = next(body.parameters()).device
    parts: list[Tensor] = []
    order: list[int] = []
    for indices, rows, columns in plan_shapes([len(ids) for ids in sequences], max_tokens):
        ids = np.zeros((rows, columns), np.int64)
        mask = np.zeros((rows, columns), np.int64)
        mask[:, 0] = 1  # rows of padding read one token, or attention would divide by 0
        for row, index in enumerate(indices):
            ids[row, : len(sequences[index])] = sequences[index]
            mask[row, : len(sequences[index])] = 1
        attention_mask = torch.from_numpy(mask).to(device)
        hidden = body(
            input_ids=torch.from_numpy(ids).to(device), attention_mask=attention_mask
        ).last_hidden_state
        weighted = hidden.float() * attention_mask[..., None]
        means = weighted.sum(1) / attention_mask.sum(1, keepdim=True)
        parts.append(means[: len(indices)])
        order += indices
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(parts)[back.to(device)]


class Replicas(Protocol):
    """Computes pooled rows and, from their gradients, those of the weights."""

    def forward(self, sequences: Sequence[Sequence[int]]) -> Float32Array:
        """Return the mean row of each sequence, shape (num_sequences, hidden_size)."""
        ...

    def start_backward(self, gradients: Float32Array) -> None:
        """Begin to compute the gradients of the weights from those of the rows."""
        ...

    def finish_backward(self) -> None:
        """Wait for the gradients and put them into the parameters' `grad`."""
        ...

    def close(self) -> None:
        """End the processes, if there are any."""
        ...


def trained(body: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a body that training changes, in their order."""
    return [parameter for parameter in body.parameters() if parameter.requires_grad]


class LocalReplica:
    """One copy, the body itself, in this process."""

    def __init__(self, body: nn.Module, *, is_bfloat16: bool, max_tokens: int) -> None:
        self._body, self._is_bfloat16, self._max_tokens = body, is_bfloat16, max_tokens
        self._device = next(body.parameters()).device
        self._rows: Tensor | None = None

    def forward(self, sequences: Sequence[Sequence[int]]) -> Float32Array:
        """Return the mean row of each sequence, shape (num_sequences, hidden_size)."""
        for parameter in trained(self._body):
            parameter.grad = None
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_bfloat16):
            self._rows = mean_rows(self._body, sequences, self._max_tokens)
        return np.asarray(self._rows.detach().cpu().numpy())

    def start_backward(self, gradients: Float32Array) -> None:
        """Compute the gradients of the weights from those of the rows."""
        assert self._rows is not None
        torch.autograd.backward(self._rows, torch.from_numpy(gradients).to(self._device))
        self._rows = None

    def finish_backward(self) -> None:
        """Do nothing: the gradients are there."""

    def close(self) -> None:
        """Do nothing: there are no processes."""


class _Narrowed(nn.Module):
    """Embeddings in float32 whose rows go on in bfloat16."""

    def __init__(self, embeddings: nn.Module) -> None:
        super().__init__()
        self.embeddings = embeddings

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        rows: Tensor = self.embeddings(*args, **kwargs)
        return rows.to(torch.bfloat16)


def _serve(
    body: Any,
    gradients: list[Tensor],
    connection: Connection,
    core: int | None,
    is_bfloat16: bool,
    max_tokens: int,
) -> None:
    """Answer forward and backward calls until the other side closes or sends None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    torch.set_num_threads(1)
    if core is not None:
        os.sched_setaffinity(0, {core})
    shared = trained(body)
    own = copy.deepcopy(body.encoder)
    body.encoder = own.to(torch.bfloat16) if is_bfloat16 else own
    if is_bfloat16:
        body.embeddings = _Narrowed(body.embeddings)
    copies = trained(body.encoder)
    try:
        while (sequences := connection.recv()) is not None:
            with torch.no_grad():
                for own_weight, weight in zip(copies, shared, strict=True):
                    own_weight.copy_(weight)
                    own_weight.grad = None
            rows = mean_rows(body, sequences, max_tokens) if sequences else torch.empty(0)
            connection.send(rows.detach().numpy())
            upstream = connection.recv()
            if upstream is None:
                return
            if sequences:
                torch.autograd.backward(rows, torch.from_numpy(upstream))
            with torch.no_grad():
                for own_weight, gradient in zip(copies, gradients, strict=True):
                    if own_weight.grad is None:
                        gradient.zero_()
                    else:
                        gradient.copy_(own_weight.grad)
            connection.send(True)
    except (EOFError, BrokenPipeError):
        return


class ProcessReplicas:
    """A process for each thread."""

    def __init__(
        self, body: Any, num_processes: int, *, is_bfloat16: bool, max_tokens: int
    ) -> None:
        """Start the processes.

        Args:
            body: The body; only its encoder's parameters may be trained. Its memory becomes
                shared.
            num_processes: How many.
            is_bfloat16: Whether copies compute in bfloat16.
            max_tokens: Tokens of a batch, padding included.
        """
        context = torch.multiprocessing.get_context("spawn")
        body.share_memory()
        self._parameters = trained(body)
        self._gradients = [
            [_shared_zeros(p) for p in self._parameters] for _ in range(num_processes)
        ]
        self._connections: list[Any] = []
        self._processes: list[Any] = []
        self._shares: list[list[int]] = []
        for number, core in enumerate(_cores(num_processes)):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(body, self._gradients[number], there, core, is_bfloat16, max_tokens),
                daemon=True,
            )
            process.start()
            there.close()
            self._connections.append(here)
            self._processes.append(process)

    def forward(self, sequences: Sequence[Sequence[int]]) -> Float32Array:
        """Return the mean row of each sequence, shape (num_sequences, hidden_size)."""
        self._shares = share_out([len(ids) for ids in sequences], len(self._connections))
        for connection, share in zip(self._connections, self._shares, strict=True):
            self._send(connection, [sequences[i] for i in share])
        rows: Float32Array | None = None
        for connection, share in zip(self._connections, self._shares, strict=True):
            own = self._receive(connection)
            if share:
                if rows is None:
                    rows = np.empty((len(sequences), own.shape[1]), np.float32)
                rows[share] = own
        assert rows is not None
        return rows

    def start_backward(self, gradients: Float32Array) -> None:
        """Begin to compute the gradients of the weights from those of the rows."""
        for connection, share in zip(self._connections, self._shares, strict=True):
            self._send(connection, gradients[share])

    def finish_backward(self) -> None:
        """Wait for the gradients and put their sums into the parameters' `grad`."""
        for connection in self._connections:
            self._receive(connection)
        for place, parameter in enumerate(self._parameters):
            parameter.grad = sum(
                (own[place] for own in self._gradients[1:]), self._gradients[0][place]
            )

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            with suppress(BrokenPipeError, OSError):
                connection.send(None)
            connection.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.terminate()

    def _send(self, connection: Any, message: Any) -> None:
        try:
            connection.send(message)
        except (BrokenPipeError, OSError) as exc:
            raise self._death() from exc

    def _receive(self, connection: Any) -> Any:
        try:
            return connection.recv()
        except (EOFError, OSError) as exc:
            raise self._death() from exc

    def _death(self) -> TrainingError:
        codes = [p.exitcode for p in self._processes if p.exitcode]
        return TrainingError(
            f"a training process ended with code {codes[0] if codes else 'unknown'}; its message "
            "stands above. -9 mostly means that memory ran out: lower --batch-size or "
            "--max-batch-tokens. --resume goes on from the last checkpoint."
        )


def _shared_zeros(like: Tensor) -> Tensor:
    zeros = torch.zeros_like(like.data)
    zeros.share_memory_()  # type: ignore[no-untyped-call]
    return zeros


def _cores(num_processes: int) -> list[int | None]:
    """A core for each process, where there is one for each; else None: they may run anywhere."""
    if not hasattr(os, "sched_getaffinity"):
        return [None] * num_processes
    cores = sorted(os.sched_getaffinity(0))
    return list(cores) if len(cores) == num_processes else [None] * num_processes
