"""Plain text in blocks of tokens, some of them masked: BERT's pretraining (Devlin et al., 2019, arXiv 1810.04805)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import final

import numpy as np

from kpeft.backbones.tokenizers import TextTokenizer

MASKED, AS_MASK, AS_ANY = 0.15, 0.8, 0.1
"""Share of tokens to guess; of those, the shares that the mask token and any other token stand in for."""


@final
class TextBlocks:
    """Blocks of a text, all of one length, as inputs with masked tokens.

    The texts of all lines are one stream of tokens, which is cut into blocks; what does not fill the last is left out.

    Args:
        blocks: Token ids, special tokens around each block included, int32 (n, length).
        tokenizer: Whose ids they are.
    """

    def __init__(self, blocks: np.ndarray, tokenizer: TextTokenizer) -> None:
        if tokenizer.mask_id is None:
            raise ValueError("--text needs a mask token, and this preset's tokenizer has none.")
        self._blocks = blocks
        self._tokenizer = tokenizer
        self._mask: int = tokenizer.mask_id
        self._first = len(tokenizer.start_ids)
        self._inner = blocks.shape[1] - self._first - len(tokenizer.end_ids)

    @classmethod
    def read(cls, path: Path, tokenizer: TextTokenizer, length: int) -> TextBlocks:
        """Reads a file of plain text.

        Args:
            path: A file in UTF-8.
            tokenizer: The model's.
            length: Tokens of a block.

        Raises:
            ValueError: If the file cannot be read, or has not enough text for two blocks.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ValueError(f"--text {path} cannot be read ({error.strerror}).") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"--text {path} is no text in UTF-8 ({error}).") from error
        start, end = tokenizer.start_ids, tokenizer.end_ids
        inner = length - len(start) - len(end)
        tokens = np.fromiter((token for ids in tokenizer.encode_batch(lines) for token in ids), np.int32)
        count = len(tokens) // inner
        if count < 2:
            raise ValueError(f"--text {path} has {len(tokens)} tokens, and {2 * inner} are needed at least.")
        blocks = np.empty((count, length), np.int32)
        blocks[:, : len(start)], blocks[:, length - len(end) :] = start, end
        blocks[:, len(start) : length - len(end)] = tokens[: count * inner].reshape(count, inner)
        return cls(blocks, tokenizer)

    @property
    def digest(self) -> str:
        """A fingerprint of the blocks."""
        return hashlib.sha256(np.ascontiguousarray(self._blocks).data).hexdigest()

    def __len__(self) -> int:
        return len(self._blocks)

    def part(self, rows: slice) -> TextBlocks:
        """Returns some of the blocks."""
        return TextBlocks(self._blocks[rows], self._tokenizer)

    def masked(self, rows: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Returns blocks with 15 % of their tokens to guess: 80 % of those masked, 10 % any token, 10 % as they are.

        Args:
            rows: Which blocks, (b,).
            rng: Decides what is masked.

        Returns:
            token_ids, padding_mask[, segment_ids], (b, length); positions and labels of the tokens to guess, (b, p);
            all int32.
        """
        tokens = self._blocks[rows]
        count = max(1, round(MASKED * self._inner))
        positions = self._first + np.argsort(rng.random((len(rows), self._inner)), axis=1)[:, :count]
        labels = np.take_along_axis(tokens, positions, axis=1)
        kind = rng.random(labels.shape)
        anything = rng.integers(0, self._tokenizer.vocabulary_size, labels.shape)
        shown = np.where(kind < AS_MASK, self._mask, np.where(kind < AS_MASK + AS_ANY, anything, labels))
        np.put_along_axis(tokens, positions, shown.astype(np.int32), axis=1)
        inputs = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
        if self._tokenizer.uses_segments:
            inputs["segment_ids"] = np.zeros_like(tokens)
        return {**inputs, "positions": positions.astype(np.int32), "labels": labels}
