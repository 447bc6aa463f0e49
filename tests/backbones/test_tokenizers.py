"""Token ids against those that transformers gives, and pinned by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras_hub
import pytest
import sentencepiece

from kpeft.backbones.tokenizer_files import tokenizer_from_folder
from kpeft.backbones.tokenizers import (
    SPECIAL_TOKENS,
    SentencePieceTokenizer,
    TextTokenizer,
    byte_level_bpe,
    from_keras_hub,
    wordpiece,
)

HF = Path(__file__).parents[1] / "goldens" / "hf"
GOLDENS = json.loads((HF / "tokens.json").read_text(encoding="utf-8"))
FAMILY = {"bert_uncased": "bert", "bert_cased": "bert", "roberta": "roberta"}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "naivete", ",", "jose", "and", "cliche", "a", "b", "istanbul"]
WORDS += ["日", "本", "hello", "##llo", "he", "mask", "[", "]", "caf", "##e"]


def bert(*, lowercase: bool = True) -> TextTokenizer:
    return wordpiece(WORDS, SPECIAL_TOKENS["bert"], lowercase=lowercase)


@pytest.mark.parametrize("name", FAMILY)
def test_ids_are_transformers(name: str) -> None:
    tokenizer = tokenizer_from_folder(HF / name, FAMILY[name])
    assert tokenizer.encode_batch(GOLDENS[name]["texts"]) == GOLDENS[name]["ids"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("naiveté, José and cliché", "naivete , jose and cliche"),
        ("NAIVETE\u0301", "naivete"),
        ("a\u200b\u200d\ufeffb", "[UNK]"),
        ("\x00a\x07 \ufffdb\x08", "a b"),
        ("a\tb\nb\u00a0b\u2028b\rb", "a b b b b b"),
        ("a[MASK]b [mask] [SEP]", "a [MASK] b [ mask ] [SEP]"),
        ("İstanbul", "istanbul"),
        ("日本a日", "日 本 a 日"),
        ("hello heLLo 😀", "hello hello [UNK]"),
        ("cafe\u0301 café", "caf ##e caf ##e"),
        ("hehe", "[UNK]"),
        ("a" * 101, "[UNK]"),
        ("", ""),
        (" \t ", ""),
    ],
)
def test_wordpiece_pinned(text: str, tokens: str) -> None:
    # U+200B and its like are format characters: BERT drops them, so that "ab" is one unknown word.
    assert bert().encode_batch([text]) == [[WORDS.index(token) for token in tokens.split()]]


def test_cased_keeps_accents() -> None:
    assert bert(lowercase=False).encode_batch(["Jose jose josé"]) == [[1, WORDS.index("jose"), 1]]


def test_special_ids() -> None:
    tokenizer = bert()
    assert (tokenizer.pad_id, tokenizer.start_ids, tokenizer.separator_ids, tokenizer.end_ids) == (0, (2,), (3,), (3,))
    assert tokenizer.uses_segments
    roberta = tokenizer_from_folder(HF / "roberta", "roberta")
    assert (roberta.pad_id, roberta.start_ids, roberta.separator_ids, roberta.end_ids) == (1, (0,), (2, 2), (2,))
    assert not roberta.uses_segments


def test_tokenizer_json_ignores_its_own_truncation_and_padding(tmp_path: Path) -> None:
    tokenizer = bert()
    inner = tokenizer._tokenizer  # type: ignore[attr-defined]
    inner.enable_truncation(max_length=2)
    inner.enable_padding(length=9)
    inner.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer_from_folder(tmp_path, "bert").encode_batch(["a b a b"]) == [[10, 11, 10, 11]]


def test_keras_hub_bert_and_roberta() -> None:
    uncased = keras_hub.models.BertTokenizer(WORDS, lowercase=True)
    assert from_keras_hub(uncased, "bert").encode_batch(["José [MASK]"]) == bert().encode_batch(["José [MASK]"])
    vocabulary = json.loads((HF / "roberta" / "vocab.json").read_text(encoding="utf-8"))
    merges = (HF / "roberta" / "merges.txt").read_text(encoding="utf-8").splitlines()
    roberta = keras_hub.models.RobertaTokenizer(vocabulary, [line for line in merges if "#version" not in line])
    assert from_keras_hub(roberta, "roberta").encode_batch(GOLDENS["roberta"]["texts"]) == GOLDENS["roberta"]["ids"]
    with pytest.raises(ValueError, match=r"a bert model must have a BertTokenizer. Received: RobertaTokenizer"):
        from_keras_hub(roberta, "bert")


# A unigram model of a few hundred bytes; identity normalisation keeps the character map out of it.
def sentence_piece(tmp_path: Path, **options: Any) -> bytes:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("hello world\njose and cliche\nhello jose\nworld and hello\n" * 5)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / "model"),
        vocab_size=40,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        minloglevel=3,
        **options,
    )
    return (tmp_path / "model.model").read_bytes()


ALBERT: dict[str, Any] = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "pad_piece": "<pad>"}
ALBERT |= {"control_symbols": ["[CLS]", "[SEP]"], "user_defined_symbols": ["[MASK]"]}
DEBERTA = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "[PAD]", "bos_piece": "[CLS]"}
DEBERTA |= {"eos_piece": "[SEP]", "unk_piece": "[UNK]"}


@pytest.mark.parametrize(
    ("family", "options", "keras_class", "special"),
    [
        ("albert", ALBERT, keras_hub.models.AlbertTokenizer, (0, (2,), (3,), (3,), True)),
        ("deberta_v3", DEBERTA, keras_hub.models.DebertaV3Tokenizer, (0, (1,), (2,), (2,), False)),
        (
            "xlm_roberta",
            {"unk_id": 0, "bos_id": 1, "eos_id": 2},
            keras_hub.models.XLMRobertaTokenizer,
            (1, (0,), (2, 2), (2,), False),
        ),
    ],
)
def test_sentence_piece(
    family: str, options: dict[str, Any], keras_class: Any, special: tuple[Any, ...], tmp_path: Path
) -> None:
    proto = sentence_piece(tmp_path, **options)
    theirs = keras_class(proto)
    ours = from_keras_hub(theirs, family)
    assert (ours.pad_id, ours.start_ids, ours.separator_ids, ours.end_ids, ours.uses_segments) == special
    texts = ["hello world", "jose and cliche", "", "hello Z world"]
    expected = [list(map(int, theirs(text))) if text else [] for text in texts]
    if family == "albert":
        expected[3] = list(map(int, theirs("hello z world")))
    assert ours.encode_batch(texts) == expected
    assert max(map(max, expected[:2])) > 4
    if family == "xlm_roberta":
        assert 3 in expected[3], "unknown is fairseq's 3"


def test_albert_is_uncased(tmp_path: Path) -> None:
    tokenizer = SentencePieceTokenizer(sentence_piece(tmp_path, **ALBERT), "albert")
    plain, fancy = tokenizer.encode_batch(["hello jose and cliche", "Hello  JOSÉ and cliche\u0301"])
    assert plain == fancy


@pytest.mark.parametrize(
    ("family", "files", "message"),
    [
        ("bert", {}, r"no vocabulary: expected tokenizer.json or vocab.txt"),
        ("roberta", {"vocab.json": "{}"}, r"expected tokenizer.json or vocab.json and merges.txt"),
        ("roberta", {"vocab.json": "[1]", "merges.txt": ""}, r"must be an object from token to id"),
        (
            "roberta",
            {"vocab.json": '{"a": 0}', "merges.txt": "#version: 0.2\na b"},
            r"merges.txt line 2.*Received: 'a b'",
        ),
        ("bert", {"vocab.txt": "[UNK]\nhello"}, r"vocabulary lacks \[PAD\], \[CLS\], \[SEP\]"),
        ("bert", {"tokenizer.json": "{"}, r"tokenizer.json is not a tokenizer"),
        ("albert", {"spiece.model": "garbage"}, r"not a SentencePiece model"),
        ("bert", {"vocab.txt": "a", "tokenizer_config.json": "3"}, r"tokenizer_config.json must be an object"),
    ],
)
def test_damaged_folders(family: str, files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        tokenizer_from_folder(tmp_path, family)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_literal_specials_without_an_id_are_text() -> None:
    tokenizer = byte_level_bpe(
        {"<s>": 0, "<pad>": 1, "</s>": 2, "<": 3, "m": 4, "a": 5, "s": 6, "k": 7, ">": 8}, [], SPECIAL_TOKENS["roberta"]
    )
    assert tokenizer.encode_batch(["<mask>", "<s>"]) == [[3, 4, 5, 6, 7, 8], [0]]
