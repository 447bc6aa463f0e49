"""The tokenizer of a Hugging Face folder: tokenizer.json if there is one, else the family's vocabulary files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from kpeft.backbones.tokenizers import (
    SPECIAL_TOKENS,
    FastTokenizer,
    SentencePieceTokenizer,
    TextTokenizer,
    byte_level_bpe,
    wordpiece,
)

VOCABULARY_FILES: dict[str, tuple[str, ...]] = {
    "bert": ("vocab.txt",),
    "roberta": ("vocab.json", "merges.txt"),
    "distilbert": ("vocab.txt",),
    "electra": ("vocab.txt",),
    "albert": ("spiece.model",),
    "deberta_v3": ("spm.model",),
    "xlm_roberta": ("sentencepiece.bpe.model",),
}


def tokenizer_from_folder(folder: Path, family: str) -> TextTokenizer:
    """Reads the tokenizer of a Hugging Face folder.

    Args:
        folder: The folder.
        family: Name of the model's family.

    Raises:
        ValueError: If the folder has no vocabulary of this family, or a file of it cannot be read.
    """
    special = SPECIAL_TOKENS[family]
    paths = [folder / name for name in VOCABULARY_FILES[family]]
    whole = folder / "tokenizer.json"
    try:
        if whole.is_file():
            return FastTokenizer(_parse(whole), special)
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise ValueError(f"no vocabulary: expected tokenizer.json or {' and '.join(path.name for path in paths)}")
        if family in ("albert", "deberta_v3", "xlm_roberta"):
            return SentencePieceTokenizer(paths[0].read_bytes(), family)
        if family == "roberta":
            return _byte_level_bpe(paths[0], paths[1])
        options = _options(folder / "tokenizer_config.json")
        return wordpiece(
            _lines(paths[0]),
            special,
            lowercase=bool(options.get("do_lower_case", True)),
            strip_accents=options.get("strip_accents"),
            split_chinese=bool(options.get("tokenize_chinese_chars", True)),
        )
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder}: {error}") from error


def _parse(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the package raises a bare Exception
        raise ValueError(f"{path.name} is not a tokenizer ({error})") from error


def _byte_level_bpe(vocabulary: Path, merges: Path) -> TextTokenizer:
    ids = json.loads(vocabulary.read_text(encoding="utf-8"))
    if not isinstance(ids, dict) or not all(isinstance(index, int) for index in ids.values()):
        raise ValueError(f"{vocabulary.name} must be an object from token to id")
    pairs = []
    for number, line in enumerate(_lines(merges), start=1):
        if line.startswith("#version"):
            continue
        first, _, second = line.partition(" ")
        if first not in ids or second not in ids or first + second not in ids:
            raise ValueError(
                f"{merges.name} line {number}: not a pair of tokens of {vocabulary.name}. Received: {line!r}"
            )
        pairs.append((first, second))
    return byte_level_bpe(ids, pairs, SPECIAL_TOKENS["roberta"])


def _lines(path: Path) -> list[str]:
    # Not splitlines(): a vocabulary may hold U+2028 and its like as tokens.
    text = path.read_text(encoding="utf-8").removesuffix("\n")
    return [line.removesuffix("\r") for line in text.split("\n")]


def _options(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    options = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(options, dict):
        raise ValueError(f"{path.name} must be an object")
    return options
