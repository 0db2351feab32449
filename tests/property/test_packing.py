"""Packing loses nothing, keeps to its budget, and selecting undoes it."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polyrank.engine.packing import plan_batches
from polyrank.types import PackedBatch

lengths_lists = st.lists(st.integers(1, 600), max_size=60)


@given(lengths=lengths_lists, budget=st.integers(1, 2000), is_padding=st.booleans())
def test_every_sequence_once_within_budget(
    lengths: list[int], budget: int, is_padding: bool
) -> None:
    array = np.array(lengths, np.int32)
    batches = plan_batches(array, budget, is_padding=is_padding)
    flat = np.concatenate(batches) if batches else np.array([], int)
    assert sorted(flat.tolist()) == list(range(len(lengths)))
    for batch in batches:
        chosen = array[batch]
        cost = chosen.max() * len(chosen) if is_padding else chosen.sum()
        assert cost <= budget or len(chosen) == 1


@given(lengths=lengths_lists.filter(bool), budget=st.integers(600, 2000))
def test_batches_are_as_full_as_their_order_allows(lengths: list[int], budget: int) -> None:
    array = np.array(lengths, np.int32)
    batches = plan_batches(array, budget, is_padding=True)
    for batch, following in pairwise(batches):
        # one more sequence would have gone over the budget
        assert array[batch].max() * (len(batch) + 1) > budget
        assert array[batch].min() >= array[following].max()


@given(
    sequences=st.lists(
        st.lists(st.tuples(st.integers(0, 99), st.integers(0, 1)), min_size=1, max_size=9),
        min_size=1,
        max_size=9,
    ),
    seed=st.integers(0, 99),
)
def test_select_takes_whole_sequences(sequences: list[list[tuple[int, int]]], seed: int) -> None:
    cu_seqlens = np.cumsum([0, *map(len, sequences)]).astype(np.int32)
    flat = [token for sequence in sequences for token in sequence]
    batch = PackedBatch(
        np.array([token[0] for token in flat], np.int32),
        cu_seqlens,
        np.array([token[1] for token in flat], np.int32),
    )
    indices = np.random.default_rng(seed).permutation(len(sequences))
    part = batch.select(indices)
    assert part.token_type_ids is not None
    for at, index in enumerate(indices):
        span = slice(part.cu_seqlens[at], part.cu_seqlens[at + 1])
        found = list(zip(part.input_ids[span], part.token_type_ids[span], strict=True))
        assert found == sequences[index]
