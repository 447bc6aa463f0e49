"""Blocks of a text and the tokens in them to guess."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kpeft.backbones.tokenizers import SPECIAL_TOKENS, TextTokenizer, wordpiece
from kpeft.masked_text import TextBlocks

WORDS = [f"w{n}" for n in range(400)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tokenizer(special: list[str] = SPECIAL) -> TextTokenizer:
    return wordpiece([*special, *WORDS], SPECIAL_TOKENS["bert"], lowercase=True)


def test_blocks_are_the_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("\n".join(" ".join(WORDS[start : start + 7]) for start in range(0, 63, 7)), encoding="utf-8")
    blocks = TextBlocks.read(path, tokenizer(), 12)
    assert len(blocks) == 6  # of 10 words each; three of the 63 are left out
    inputs = blocks.masked(np.arange(6), np.random.default_rng(0))
    tokens = inputs["token_ids"].copy()
    np.put_along_axis(tokens, inputs["positions"], inputs["labels"], axis=1)
    np.testing.assert_array_equal(tokens[:, 1:-1].ravel(), np.arange(60) + len(SPECIAL))
    np.testing.assert_array_equal(tokens[:, [0, -1]], [[2, 3]] * 6)
    assert len(blocks.part(slice(4, None))) == 2


def test_masks_are_bert_s(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text(" ".join(WORDS), encoding="utf-8")
    blocks = TextBlocks.read(path, tokenizer(), 102)
    rows = np.zeros(2000, int)
    inputs = blocks.masked(rows, np.random.default_rng(0))
    assert inputs["positions"].shape == (2000, 15)
    assert all(len(set(row)) == 15 for row in inputs["positions"])
    assert inputs["positions"].min() == 1
    assert inputs["positions"].max() == 100
    shown = np.take_along_axis(inputs["token_ids"], inputs["positions"], axis=1)
    assert np.mean(shown == 4) == pytest.approx(0.8, abs=0.01)
    assert np.mean(shown == inputs["labels"]) == pytest.approx(0.1, abs=0.01)
    untouched = np.ones_like(inputs["token_ids"], bool)
    np.put_along_axis(untouched, inputs["positions"], False, axis=1)
    whole = np.concatenate([[2], np.arange(100) + len(SPECIAL), [3]])
    np.testing.assert_array_equal(inputs["token_ids"][untouched], np.tile(whole, (2000, 1))[untouched])
    assert (inputs["padding_mask"] == 1).all()
    assert (inputs["segment_ids"] == 0).all()
    assert {value.dtype.name for value in inputs.values()} == {"int32"}


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text(" ".join(WORDS[:19]), encoding="utf-8")
    with pytest.raises(ValueError, match="has 19 tokens, and 20 are needed"):
        TextBlocks.read(path, tokenizer(), 12)
    with pytest.raises(ValueError, match="needs a mask token"):
        TextBlocks.read(path, tokenizer(SPECIAL[:-1]), 5)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no text in UTF-8"):
        TextBlocks.read(path, tokenizer(), 12)
    with pytest.raises(ValueError, match="cannot be read"):
        TextBlocks.read(tmp_path, tokenizer(), 12)
