"""Encoded rows against a plain implementation and against transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kpeft.backbones.tokenizer_files import tokenizer_from_folder
from kpeft.backbones.tokenizers import SPECIAL_TOKENS, TextTokenizer
from kpeft.glue.rows import Rows
from kpeft.glue.tokens import EncodedRows, encode, truncated_lengths

HF = Path(__file__).parents[1] / "goldens" / "hf"
GOLDENS = json.loads((HF / "tokens.json").read_text(encoding="utf-8"))


class Letters(TextTokenizer):
    """Each letter is a token: a is 10, b is 11, …"""

    vocabulary_size = 40

    def __init__(self, family: str = "bert") -> None:
        special = SPECIAL_TOKENS[family]
        super().__init__(special, {token: index for index, token in enumerate(special.all)})

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(letter) - ord("a") + 10 for letter in text] for text in texts]


def rows(*columns: list[str]) -> Rows:
    return Rows(texts=columns, labels=np.arange(len(columns[0]), dtype=np.int32))


def row(encoded: EncodedRows, index: int) -> list[int]:
    return encoded.tokens[encoded.offsets[index] : encoded.offsets[index + 1]].tolist()


def one_by_one(first: int, second: int, budget: int) -> tuple[int, int]:
    """Longest first, as first defined: take single tokens off the longer text, or off one of two equals."""
    longer_first = first > second
    while first + second > budget:
        if first > second or (first == second and not longer_first):
            first -= 1
        else:
            second -= 1
    return first, second


def test_pair_pinned() -> None:
    encoded = encode(rows(["abc", "", "a"], ["de", "f", ""]), Letters(), 16)
    assert (Letters().pad_id, Letters().start_ids, Letters().end_ids) == (0, (3,), (4,))
    assert [row(encoded, i) for i in range(3)] == [[3, 10, 11, 12, 4, 13, 14, 4], [3, 4, 15, 4], [3, 10, 4, 4]]
    assert encoded.segments is not None
    assert encoded.segments.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 1]
    assert encoded.lengths.tolist() == [8, 4, 4]
    dtypes = [str(array.dtype) for array in (encoded.tokens, encoded.segments, encoded.offsets)]
    assert dtypes == ["int32", "int8", "int64"]
    assert encoded.labels.tolist() == [0, 1, 2]


def test_single_pinned() -> None:
    encoded = encode(rows(["abcdef", ""]), Letters(), 5)
    assert [row(encoded, i) for i in range(2)] == [[3, 10, 11, 12, 4], [3, 4]]
    assert encoded.segments is not None
    assert not encoded.segments.any()


def test_roberta_has_two_separators_and_no_segments() -> None:
    encoded = encode(rows(["ab"], ["c"]), Letters("roberta"), 16)
    start, end = Letters("roberta").start_ids[0], Letters("roberta").end_ids[0]
    assert row(encoded, 0) == [start, 10, 11, end, end, 12, end]
    assert encoded.segments is None


@pytest.mark.parametrize("budget", range(2, 12))
def test_truncation_equals_taking_one_token_at_a_time(budget: int) -> None:
    pairs = np.array([(a, b) for a in range(13) for b in range(13)])
    kept = truncated_lengths([pairs[:, 0], pairs[:, 1]], budget)
    expected = [one_by_one(a, b, budget) for a, b in pairs.tolist()]
    assert list(zip(kept[0].tolist(), kept[1].tolist(), strict=True)) == expected
    assert all(min(k) >= 1 for k, (a, b) in zip(expected, pairs.tolist(), strict=True) if min(a, b) >= 1)


@pytest.mark.parametrize(("name", "family"), [("bert_uncased", "bert"), ("bert_cased", "bert"), ("roberta", "roberta")])
def test_pairs_are_transformers(name: str, family: str) -> None:
    tokenizer = tokenizer_from_folder(HF / name, family)
    cut = 0
    for pair in GOLDENS[name]["pairs"]:
        encoded = encode(rows([pair["texts"][0]], [pair["texts"][1]]), tokenizer, pair["max_length"])
        assert row(encoded, 0) == pair["ids"], pair
        cut += len(pair["ids"]) == pair["max_length"]
    assert cut > 10


@pytest.mark.parametrize(
    ("columns", "family", "least"), [(1, "bert", 3), (2, "bert", 5), (1, "roberta", 3), (2, "roberta", 6)]
)
def test_max_length_too_small(columns: int, family: str, least: int) -> None:
    texts = rows(*[["abc"]] * columns)
    assert encode(texts, Letters(family), least).lengths.tolist() == [least]
    with pytest.raises(ValueError, match=rf"need at least {least}. Received: max_length={least - 1}"):
        encode(texts, Letters(family), least - 1)


def test_batch_pads() -> None:
    encoded = encode(rows(["abc", "d", "ee"], ["f", "gg", "h"]), Letters("albert"), 16)
    batch = encoded.batch([2, 0], 8, batch_size=3)
    assert list(batch) == ["token_ids", "padding_mask", "segment_ids"]
    assert {a.dtype for a in batch.values()} == {np.dtype("int32")}
    assert batch["token_ids"].tolist() == [[3, 14, 14, 4, 17, 4, 0, 0], [3, 10, 11, 12, 4, 15, 4, 0], [0] * 8]
    assert batch["padding_mask"].tolist() == [[1] * 6 + [0] * 2, [1] * 7 + [0], [0] * 8]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1, 0], [0] * 8]


def test_batch_pads_with_the_models_own_id() -> None:
    tokenizer = tokenizer_from_folder(HF / "roberta", "roberta")
    batch = encode(rows(["a"]), tokenizer, 8).batch(np.array([0]), 5)
    assert batch["token_ids"].shape == (1, 5)
    assert batch["token_ids"][0, 3:].tolist() == [1, 1]
    assert "segment_ids" not in batch


def test_batch_too_small() -> None:
    encoded = encode(rows(["abc", "d"]), Letters(), 16)
    with pytest.raises(ValueError, match=r"2 x 4 does not hold these rows. Received: rows=2, longest=5"):
        encoded.batch([0, 1], 4)
    with pytest.raises(ValueError, match=r"rows=2"):
        encoded.batch([0, 1], 8, batch_size=1)


def test_take() -> None:
    encoded = encode(rows(["abc", "d", ""], ["f", "gg", "h"]), Letters(), 16)
    taken = encoded.take([2, 0, 2])
    assert len(taken) == 3
    assert [row(taken, i) for i in range(3)] == [row(encoded, i) for i in (2, 0, 2)]
    assert taken.labels.tolist() == [2, 0, 2]
    for name, array in taken.batch([1], 8).items():
        np.testing.assert_array_equal(array, encoded.batch([0], 8)[name])
    assert len(encoded.take([])) == 0


def test_many_rows_cross_the_chunks() -> None:
    texts = ["ab" * (i % 7) for i in range(40_000)]
    encoded = encode(rows(texts), Letters(), 8)
    assert len(encoded) == 40_000
    assert encoded.lengths.tolist() == [2 + min(6, len(text)) for text in texts]
    assert row(encoded, 39_999) == [3, *Letters().encode_batch([texts[-1]])[0][:6], 4]
