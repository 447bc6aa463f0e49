"""Rows of text to one flat array of token ids, tokenised once and cut as Hugging Face's fast tokenizers cut pairs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from kpeft.backbones.tokenizers import TextTokenizer
    from kpeft.glue.rows import Rows

IntArray = npt.NDArray[np.integer]

# Texts per call of the tokenizer: Python lists of ids take ten times the memory of the arrays they become.
_CHUNK = 16_384


@dataclass(frozen=True, kw_only=True)
class EncodedRows:
    """Token ids of many rows, end to end.

    Args:
        tokens: int32, all rows' token ids with their special tokens and without padding.
        segments: int8, 0 for the first sentence and 1 for the second, as long as `tokens`; or None.
        offsets: int64 (n + 1,); row i is `tokens[offsets[i]:offsets[i + 1]]`.
        labels: (n,), int32 classes or float32 targets; (n, 1 + C) float32 with a teacher's logits after the class.
        pad_id: Fills a row up to the batch's length.
    """

    tokens: npt.NDArray[np.int32]
    segments: npt.NDArray[np.int8] | None
    offsets: npt.NDArray[np.int64]
    labels: npt.NDArray[np.generic]
    pad_id: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, int64 (n,)."""
        return np.diff(self.offsets)

    def take(self, indices: Sequence[int] | IntArray) -> EncodedRows:
        """Returns the named rows in the order given.

        Args:
            indices: Row numbers, repeats allowed.
        """
        rows = np.asarray(indices, dtype=np.int64)
        lengths = self.lengths[rows]
        source = _ranges(self.offsets[:-1][rows], lengths)
        return EncodedRows(
            tokens=self.tokens[source],
            segments=None if self.segments is None else self.segments[source],
            offsets=_offsets(lengths),
            labels=self.labels[rows],
            pad_id=self.pad_id,
        )

    def batch(
        self, indices: Sequence[int] | IntArray, length: int, batch_size: int | None = None
    ) -> dict[str, npt.NDArray[np.int32]]:
        """Returns the named rows as a model's inputs.

        Args:
            indices: Row numbers.
            length: Columns; at least the longest row named.
            batch_size: Rows of the arrays; those past the last row named are all padding. Defaults to `len(indices)`.

        Returns:
            token_ids, padding_mask and, where the model has them, segment_ids: int32 (batch_size, length).

        Raises:
            ValueError: If a row is longer than `length` or there are more rows than `batch_size`.
        """
        rows = np.asarray(indices, dtype=np.int64)
        size = len(rows) if batch_size is None else batch_size
        lengths = self.lengths[rows]
        if len(rows) > size or (len(rows) and int(lengths.max()) > length):
            longest = int(lengths.max()) if len(rows) else 0
            raise ValueError(
                f"a batch of {size} x {length} does not hold these rows. Received: rows={len(rows)}, longest={longest}"
            )
        source = _ranges(self.offsets[:-1][rows], lengths)
        target = _ranges(np.arange(len(rows)) * length, lengths)
        columns: dict[str, npt.NDArray[np.signedinteger]] = {
            "token_ids": self.tokens[source],
            "padding_mask": np.ones(len(source), dtype=np.int32),
        }
        if self.segments is not None:
            columns["segment_ids"] = self.segments[source]
        batch = {}
        for name, values in columns.items():
            flat = np.full(size * length, self.pad_id if name == "token_ids" else 0, dtype=np.int32)
            flat[target] = values
            batch[name] = flat.reshape(size, length)
        return batch


def encode(rows: Rows, tokenizer: TextTokenizer, max_length: int) -> EncodedRows:
    """Tokenises rows of one or two texts: `start A end`, or `start A separator B end`.

    A row above max_length loses tokens from the end of its longer text until both are equally long, then from both, an
    odd token staying with the text that was longer, or with the second: token for token what Hugging Face's fast
    tokenizers do with `truncation=True`. Each text keeps at least one token of those it has.

    Args:
        rows: Texts and labels.
        tokenizer: The model's tokenizer.
        max_length: Most tokens in a row, special tokens included.

    Raises:
        ValueError: If max_length has no room for the special tokens and one token of each text.
    """
    count = len(rows.texts)
    around = (tokenizer.start_ids, *(tokenizer.separator_ids,) * (count - 1), tokenizer.end_ids)
    budget = max_length - sum(map(len, around))
    if budget < count:
        raise ValueError(
            f"max_length is too small: {sum(map(len, around))} special tokens and {count} texts need at least "
            f"{sum(map(len, around)) + count}. Received: max_length={max_length}"
        )
    columns = [_tokenize(texts, tokenizer) for texts in rows.texts]
    kept = truncated_lengths([lengths for _, lengths in columns], budget)
    lengths = sum(kept) + sum(map(len, around))
    offsets = _offsets(np.asarray(lengths, dtype=np.int64))
    tokens = np.empty(int(offsets[-1]), dtype=np.int32)
    segments = np.zeros(len(tokens), dtype=np.int8) if tokenizer.uses_segments else None
    cursor = offsets[:-1].copy()
    for number, ids in enumerate(around):
        if number == count and number > 1 and segments is not None:
            # The end token belongs to the second text's segment.
            segments[_ranges(cursor, np.full(len(cursor), len(ids)))] = 1
        for token in ids:
            tokens[cursor] = token
            cursor += 1
        if number < count:
            flat, full = columns[number]
            target = _ranges(cursor, kept[number])
            tokens[target] = flat[_ranges(_offsets(full)[:-1], kept[number])]
            if number and segments is not None:
                segments[target] = 1
            cursor += kept[number]
    return EncodedRows(tokens=tokens, segments=segments, offsets=offsets, labels=rows.labels, pad_id=tokenizer.pad_id)


def truncated_lengths(lengths: Sequence[npt.NDArray[np.int64]], budget: int) -> list[npt.NDArray[np.int64]]:
    """Returns how many tokens each text keeps, longest first.

    Args:
        lengths: Tokens of the texts, one int64 array (n,) for each of the one or two fields.
        budget: Most tokens that a row's texts may have together.
    """
    if len(lengths) == 1:
        return [np.minimum(lengths[0], budget)]
    first, second = lengths
    short, long = np.minimum(first, second), np.maximum(first, second)
    fits = short + long <= budget
    only_long = short <= budget - short
    new_short = np.where(fits | only_long, short, budget // 2)
    new_long = np.where(fits, long, budget - new_short)
    swapped = first > second
    return [np.where(swapped, new_long, new_short), np.where(swapped, new_short, new_long)]


def _tokenize(texts: Sequence[str], tokenizer: TextTokenizer) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Returns all texts' ids end to end, and the number of each text's."""
    flat, lengths = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int64)]
    for start in range(0, len(texts), _CHUNK):
        ids = tokenizer.encode_batch(texts[start : start + _CHUNK])
        lengths.append(np.fromiter(map(len, ids), dtype=np.int64, count=len(ids)))
        flat.append(np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32, count=int(lengths[-1].sum())))
    return np.concatenate(flat), np.concatenate(lengths)


def _offsets(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def _ranges(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns range(start, start + length) of every pair, end to end."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
