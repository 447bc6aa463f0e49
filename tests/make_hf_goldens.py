"""Writes tests/goldens/hf: tiny Hugging Face classifiers, their logits and their tokenizers' answers.

Run it once, in an environment of its own that has torch and transformers:

    python -m venv /tmp/hf && /tmp/hf/bin/pip install torch transformers sentencepiece
    /tmp/hf/bin/python tests/make_hf_goldens.py

The files under tests/goldens/hf were written with torch 2.13.0 and transformers 5.23.0.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

GOLDENS = Path(__file__).parent / "goldens" / "hf"
VOCABULARY, POSITIONS, LENGTH = 32, 16, 12
COMMON = {"vocab_size": VOCABULARY, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
COMMON |= {"intermediate_size": 12, "max_position_embeddings": POSITIONS}

# What a checkpoint may say and KerasHub's own converters drop: activation, epsilon, dropouts, token types.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", COMMON | {"hidden_act": "relu", "layer_norm_eps": 1e-3, "attention_probs_dropout_prob": 0.2}),
    "roberta": ("Roberta", COMMON | {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "classifier_dropout": 0.3}),
    "xlm_roberta": ("XLMRoberta", COMMON | {"type_vocab_size": 1, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5}),
    "distilbert": (
        "DistilBert",
        {"vocab_size": VOCABULARY, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12, "attention_dropout": 0.0}
        | {"max_position_embeddings": POSITIONS},
    ),
    "electra": ("Electra", COMMON | {"embedding_size": 6, "classifier_dropout": 0.25}),
    "albert": (
        "Albert",
        COMMON | {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 1, "embedding_size": 6},
    ),
    "deberta_v3": (
        "DebertaV2",
        COMMON
        | {"relative_attention": True, "position_buckets": 4, "norm_rel_ebd": "layer_norm", "share_att_key": True}
        | {
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
            "max_relative_positions": -1,
        },
    ),
}

TRICKY = [
    "naiveté, José and cliché",
    "NAIVETÉ O\u0308sterreich İstanbul ﬁne",
    "a\u200bzero\u200dwidth \ufeffmark and a\u0000null\ufffd\u0007bell",
    "a literal [MASK] and [mask] [SEP]",
    "日本語 mixed 汉字 text",
    "emoji 😀👍🏽 and ₤5 \u2013 “quotes” … it's can't",
    "tabs\tand\nnew\r\nlines\u00a0nbsp\u2028separator",
    "",
    "   ",
    "x" * 101 + " short",
    "it 's a  double  space .",
]


def random_model(architecture: str, kind: str, options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**options)
    model = getattr(transformers, architecture)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4)
        for key, parameter in model.named_parameters():
            if "LayerNorm.weight" in key or "layer_norm.weight" in key:
                parameter.add_(1.0)
    return model


def write_masked_lm(name: str, kind: str, options: dict[str, Any]) -> None:
    """Writes one random model for masked language modelling, and its logits for a batch without padding."""
    model = random_model(f"{kind}ForMaskedLM", kind, options)
    folder = GOLDENS / "masked_lm" / name
    model.save_pretrained(folder)
    tokens = np.random.default_rng(0).integers(5, VOCABULARY, (3, LENGTH)).astype("int32")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(tokens)).logits.numpy()
    np.savez(folder / "expected.npz", token_ids=tokens, logits=logits)


def write_classifier(name: str, kind: str, options: dict[str, Any]) -> None:
    """Writes one random classifier of three classes, and its logits for a padded batch."""
    model = random_model(f"{kind}ForSequenceClassification", kind, {"num_labels": 3, **options})
    model.save_pretrained(GOLDENS / name)
    config = model.config

    rng = np.random.default_rng(0)
    lengths = np.array([LENGTH, 9, 5, 2])
    mask = (np.arange(LENGTH) < lengths[:, None]).astype("int32")
    pad = config.pad_token_id or 0
    tokens = np.where(mask == 1, rng.integers(5, VOCABULARY, mask.shape), pad).astype("int32")
    segments = (mask * (np.arange(LENGTH) >= lengths[:, None] // 2)).astype("int32")
    inputs = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(mask)}
    if name in ("bert", "electra", "albert"):
        inputs["token_type_ids"] = torch.tensor(segments)
    with torch.no_grad():
        logits = model(**inputs).logits.numpy()
    np.savez(GOLDENS / name / "expected.npz", token_ids=tokens, padding_mask=mask, segment_ids=segments, logits=logits)


def words(texts: list[str]) -> list[str]:
    """Returns a WordPiece vocabulary that knows some of the words and every ASCII letter as a piece."""
    letters = [chr(c) for c in range(33, 127)]
    known = [
        "naivete",
        "jose",
        "cliche",
        "istanbul",
        "literal",
        "and",
        "zero",
        "##width",
        "mark",
        "null",
        "bell",
        "short",
        "it",
    ]
    known += [
        "日",
        "本",
        "汉",
        "mask",
        "quotes",
        "emoji",
        "text",
        "mixed",
        "is",
        "double",
        "space",
        "new",
        "##line",
        "Jose",
    ]
    return list(dict.fromkeys([*SPECIAL, *known, *letters, *("##" + letter for letter in letters)]))


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def byte_pairs(folder: Path) -> None:
    """Writes a small byte-level BPE vocabulary."""
    import tokenizers

    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(TRICKY, trainer)
    tokenizer.model.save(str(folder))


def pairs(tokenizer: Any) -> list[dict[str, Any]]:
    """Returns what the tokenizer makes of pairs at several lengths, longest first."""
    texts = [t for t in TRICKY if t.strip() and "\u0000" not in t]
    cases = [(a, b, n) for a, b in zip(texts, reversed(texts), strict=True) for n in (7, 10, 16, 33)]
    return [
        {"texts": [a, b], "max_length": n, "ids": tokenizer(a, b, truncation=True, max_length=n)["input_ids"]}
        for a, b, n in cases
    ]


def write_tokens(name: str, tokenizer: Any) -> dict[str, Any]:
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TRICKY]
    return {"texts": TRICKY, "ids": ids, "pairs": pairs(tokenizer)}


def main() -> None:
    for name, (kind, options) in CASES.items():
        write_classifier(name, kind, options)
        write_masked_lm(name, kind, options)
    answers = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, lowercase in (("bert_uncased", True), ("bert_cased", False)):
            folder = GOLDENS / name
            folder.mkdir(exist_ok=True)
            (folder / "vocab.txt").write_text("\n".join(words(TRICKY)) + "\n", encoding="utf-8")
            (folder / "tokenizer_config.json").write_text(
                json.dumps({"do_lower_case": lowercase}) + "\n", encoding="utf-8"
            )
            tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"), do_lower_case=lowercase)
            answers[name] = write_tokens(name, tokenizer)
        folder = GOLDENS / "roberta"
        byte_pairs(folder)
        tokenizer = transformers.RobertaTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
        answers["roberta"] = write_tokens("roberta", tokenizer)
        del temporary
    (GOLDENS / "tokens.json").write_text(json.dumps(answers, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
