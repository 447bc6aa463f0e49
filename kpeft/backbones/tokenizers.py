"""Text to token ids in bulk, without TensorFlow, as Hugging Face's tokenizers do it."""

from __future__ import annotations

import abc
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import sentencepiece
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """The tokens that a family puts around and between sentences: `start A end`, or `start A separator B end`.

    Args:
        start: Before the first sentence.
        separator: Between the two sentences.
        end: After the last sentence.
        pad: Fills a row up to the batch's length.
        others: Further tokens that stay whole where they stand literally in a text.
        segments: Whether the model tells the two sentences apart by segment ids.
    """

    start: tuple[str, ...]
    separator: tuple[str, ...]
    end: tuple[str, ...]
    pad: str
    others: tuple[str, ...]
    segments: bool

    @property
    def all(self) -> tuple[str, ...]:
        """Each special token once."""
        return tuple(dict.fromkeys((self.pad, *self.others, *self.start, *self.separator, *self.end)))


def _bert(*, pad: str = "[PAD]", unknown: str = "[UNK]", segments: bool = True) -> SpecialTokens:
    return SpecialTokens(
        start=("[CLS]",), separator=("[SEP]",), end=("[SEP]",), pad=pad, others=(unknown, "[MASK]"), segments=segments
    )


_ROBERTA = SpecialTokens(
    start=("<s>",), separator=("</s>", "</s>"), end=("</s>",), pad="<pad>", others=("<unk>", "<mask>"), segments=False
)
SPECIAL_TOKENS: dict[str, SpecialTokens] = {
    "bert": _bert(),
    "roberta": _ROBERTA,
    "distilbert": _bert(segments=False),
    "electra": _bert(),
    "albert": _bert(pad="<pad>", unknown="<unk>"),
    "deberta_v3": _bert(segments=False),
    "xlm_roberta": _ROBERTA,
}


class TextTokenizer(abc.ABC):
    """Turns texts into token ids, and says which ids go around them.

    Args:
        special: The family's special tokens.
        ids: Id of each special token that the vocabulary holds.

    Attributes:
        pad_id: Id that fills a row up.
        start_ids: Ids before the first sentence.
        separator_ids: Ids between the two sentences; they belong to the first one's segment.
        end_ids: Ids after the last sentence.
        mask_id: Id of the token that stands for a hidden one, or `None` where the vocabulary has none.
        uses_segments: Whether the model takes segment_ids.

    Raises:
        ValueError: If the vocabulary lacks one of the tokens that every row needs.
    """

    def __init__(self, special: SpecialTokens, ids: Mapping[str, int]) -> None:
        needed = (special.pad, *special.start, *special.separator, *special.end)
        missing = [token for token in dict.fromkeys(needed) if token not in ids]
        if missing:
            raise ValueError(f"the tokenizer's vocabulary lacks {', '.join(missing)}, which this kind of model needs")
        self.pad_id = ids[special.pad]
        self.start_ids = tuple(ids[token] for token in special.start)
        self.separator_ids = tuple(ids[token] for token in special.separator)
        self.end_ids = tuple(ids[token] for token in special.end)
        self.mask_id = next((ids[token] for token in ("[MASK]", "<mask>") if token in ids), None)
        self.uses_segments = special.segments

    @property
    @abc.abstractmethod
    def vocabulary_size(self) -> int:
        """Number of ids, added tokens aside."""

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns each text's token ids, with no special tokens around them and nothing cut off."""


@final
class FastTokenizer(TextTokenizer):
    """WordPiece, byte-level BPE or any tokenizer.json, through the `tokenizers` package."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, special: SpecialTokens) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        found = {token: tokenizer.token_to_id(token) for token in special.all}
        super().__init__(special, {token: index for token, index in found.items() if index is not None})
        self._tokenizer = tokenizer

    @property
    def vocabulary_size(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=False))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


@final
class SentencePieceTokenizer(TextTokenizer):
    """A SentencePiece model, its ids mapped as the family's own tokenizer maps them.

    Special tokens that stand literally in a text are ordinary text here.

    Args:
        proto: The serialised SentencePiece model.
        family: "albert" (texts are lower-cased and lose their accents first), "deberta_v3" or "xlm_roberta" (ids are
            fairseq's: shifted by one, unknown is 3).

    Raises:
        ValueError: If the bytes are no SentencePiece model.
    """

    def __init__(self, proto: bytes, family: str) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
        except (RuntimeError, ValueError) as error:
            raise ValueError("not a SentencePiece model") from error
        size = int(self._processor.vocab_size())
        self._fairseq = family == "xlm_roberta"
        self._uncased = family == "albert"
        if self._fairseq:
            ids = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": size + 1}
        else:
            ids = {self._processor.id_to_piece(i): i for i in range(size)}
        self._size = size + self._fairseq
        super().__init__(SPECIAL_TOKENS[family], ids)

    @property
    def vocabulary_size(self) -> int:
        return self._size

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        prepared = [_without_case(text) for text in texts] if self._uncased else list(texts)
        rows: list[list[int]] = self._processor.encode(prepared, out_type=int)
        return [[index + 1 if index else 3 for index in row] for row in rows] if self._fairseq else rows


def _without_case(text: str) -> str:
    """Returns what ALBERT's tokenizer makes of a text before SentencePiece sees it."""
    text = " ".join(text.split()).replace("``", '"').replace("''", '"')
    text = unicodedata.normalize("NFKD", text)
    return "".join(c for c in text if not unicodedata.combining(c)).lower()


def wordpiece(
    vocabulary: Sequence[str],
    special: SpecialTokens,
    *,
    lowercase: bool,
    strip_accents: bool | None = None,
    split_chinese: bool = True,
) -> FastTokenizer:
    """Builds BERT's tokenizer.

    Args:
        vocabulary: Tokens in the order of their ids.
        special: The family's special tokens.
        lowercase: Whether the vocabulary is uncased.
        strip_accents: Whether é becomes e. Defaults to `lowercase`.
        split_chinese: Whether each Chinese character is a word.
    """
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _add_special(tokenizer, special, ids)
    return FastTokenizer(tokenizer, special)


def byte_level_bpe(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], special: SpecialTokens
) -> FastTokenizer:
    """Builds RoBERTa's tokenizer.

    Args:
        vocabulary: Id of each token.
        merges: Pairs to merge, first ones first.
        special: The family's special tokens.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE(dict(vocabulary), list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    _add_special(tokenizer, special, vocabulary)
    return FastTokenizer(tokenizer, special)


def _add_special(tokenizer: tokenizers.Tokenizer, special: SpecialTokens, ids: Mapping[str, int]) -> None:
    # Only those that have an id: an unknown one would be given a new id beyond the embedding table.
    known = [token for token in special.all if token in ids]
    tokenizer.add_special_tokens([tokenizers.AddedToken(t, lstrip=t == "<mask>", normalized=False) for t in known])


_KERAS_HUB = {
    "bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "ElectraTokenizer",
    "albert": "AlbertTokenizer",
    "deberta_v3": "DebertaV3Tokenizer",
    "xlm_roberta": "XLMRobertaTokenizer",
}


def from_keras_hub(tokenizer: Any, family: str) -> TextTokenizer:
    """Builds the tokenizer from the vocabulary of a KerasHub one, so that its ids are Hugging Face's.

    Args:
        tokenizer: A KerasHub tokenizer of the family.
        family: Name of the family.

    Raises:
        ValueError: If the tokenizer is of another family, as some multilingual BERTs' are.
    """
    name = type(tokenizer).__name__
    if name != _KERAS_HUB[family]:
        raise ValueError(f"a {family} model must have a {_KERAS_HUB[family]}. Received: {name}")
    special = SPECIAL_TOKENS[family]
    if family in ("albert", "deberta_v3", "xlm_roberta"):
        return SentencePieceTokenizer(tokenizer.proto, family)
    if family == "roberta":
        lines = [line for line in map(str, tokenizer.merges) if "#version:" not in line]
        return byte_level_bpe(tokenizer.vocabulary, [_pair(line) for line in lines], special)
    return wordpiece(tokenizer.get_vocabulary(), special, lowercase=tokenizer.lowercase)


def _pair(line: str) -> tuple[str, str]:
    first, second = line.split(" ")
    return first, second
