"""Fields of PEFT's configurations: each that PEFT has is acted on, refused by name, or said not to matter."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import kpeft
from kpeft.adapter_files import QUANTIZATION
from kpeft.adapters import (
    PEFT_FORMATS,
    adapter_method,
    peft_adalora,
    peft_config,
    peft_ia3,
    peft_layernorm,
    peft_lora,
    peft_prefix,
    peft_vera,
)
from kpeft.adapters.peft_config import PASSED_OVER, PEFT_VERSION, Fields
from kpeft.adapters.peft_lycoris import LoHaFormat, LoKrFormat
from kpeft.adapters.peft_prompt import PromptFormat, PTuningFormat
from tests.adapters.test_files import edit_config, saved
from tests.tiny import tiny_classifier

# Written by tests/goldens_peft/fields.py from the dataclasses of PEFT itself.
EVERY: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "goldens" / "peft" / "fields.json").read_text()
)
FIELDS: dict[str, Fields] = {
    "LORA": peft_lora.FIELDS,
    "ADALORA": peft_adalora.FIELDS,
    "LOHA": LoHaFormat.fields,
    "LOKR": LoKrFormat.fields,
    "IA3": peft_ia3.FIELDS,
    "LN_TUNING": peft_layernorm.FIELDS,
    "VERA": peft_vera.FIELDS,
    "PROMPT_TUNING": PromptFormat.fields,
    "P_TUNING": PTuningFormat.fields,
    "PREFIX_TUNING": peft_prefix.PrefixFormat.fields,
}
METHODS: dict[str, kpeft.Method] = {
    "LORA": kpeft.LoRA(rank=2),
    "ADALORA": kpeft.AdaLoRA(rank=3, target_rank=2),
    "LOHA": kpeft.LoHa(rank=2),
    "LOKR": kpeft.LoKr(rank=1),
    "IA3": kpeft.IA3(),
    "LN_TUNING": kpeft.LayerNorm(),
    "VERA": kpeft.VeRA(rank=4),
    "PROMPT_TUNING": kpeft.Prompt(tokens=2),
    "P_TUNING": kpeft.PTuning(tokens=2),
    "PREFIX_TUNING": kpeft.Prefix(tokens=2),
}
# For each field that kpeft acts on, a value that makes another method or no adapter of this file; beside it, what is
# then said, or the method's field that differs.
OTHERS: dict[str, tuple[Any, str]] = {
    "alpha": (3, "alpha"),
    "beta1": (0.5, "beta1"),
    "beta2": (0.5, "beta2"),
    "decompose_both": (True, "lokr_w1"),
    "decompose_factor": (2, "lokr_w"),
    "deltaT": (3, "delta_t"),
    "init_r": (2, "lora_A has shape"),
    "orth_reg_weight": (0.1, "orth_reg_weight"),
    "target_r": (1, "target_rank"),
    "tfinal": (0.2, "tfinal"),
    "tinit": (0.2, "tinit"),
    "alpha_pattern": ({"query": 3}, "alpha_pattern"),
    "bias": ("all", "lacks"),
    "d_initial": (0.5, "d_initial"),
    "exclude_modules": (["layer.0.attention.self.value", "output.LayerNorm"], "no place for"),
    "feedforward_modules": ([], "ia3_l has shape"),
    "init_lora_weights": ("gaussian", "init"),
    "layers_pattern": ("nothing", "match no layer"),
    "layers_to_transform": ([0], "no place for"),
    "lora_alpha": (3, "alpha"),
    "lora_bias": (True, "lora_B.bias"),
    "lora_dropout": (0.5, "dropout"),
    "modules_to_save": (["pooler"], r"modules_to_save=\['pooler'\] is the pooler without the head"),
    "num_attention_heads": (4, "num_attention_heads=4"),
    "num_layers": (3, "num_layers=3"),
    "num_virtual_tokens": (3, "num_virtual_tokens=3"),
    "peft_type": ("OFT", "peft_type 'OFT'"),
    "projection_prng_key": (7, "projection_prng_key"),
    "prompt_tuning_init": ("SAMPLE_VOCAB", "init"),
    "r": (3, "lora_A.weight has shape|r=3|hada_w1_. has shape|lokr_w"),
    "rank_pattern": ({"query": 1}, "lora_A.weight has shape"),
    "save_projection": (False, "save_projection=False"),
    "target_modules": (["key"], "lacks|is no LayerNorm|no place for"),
    "task_type": ("TOKEN_CLS", "task_type='TOKEN_CLS' is not supported"),
    "token_dim": (3, "token_dim=3"),
    "use_dora": (True, "lora_magnitude_vector"),
    "use_rslora": (True, "use_rslora"),
    "vera_dropout": (0.5, "dropout"),
}


def test_no_format_is_left_out() -> None:
    assert {each.peft_type for each in PEFT_FORMATS} == set(FIELDS) == set(EVERY["configs"])
    assert str(EVERY["version"]) == PEFT_VERSION


@pytest.mark.parametrize("peft_type", FIELDS)
def test_every_field_of_peft_has_one_place(peft_type: str) -> None:
    fields, every = FIELDS[peft_type], EVERY["configs"][peft_type]
    places = [{*fields.read, "peft_type", "task_type", "modules_to_save"}, set(fields.refused), set(fields.passed_over)]
    places.append(set(PASSED_OVER))
    assert sum(map(len, places)) == len(set().union(*places))
    assert set().union(*places) - {QUANTIZATION} == set(every)
    usual = {**fields.refused, "num_transformer_submodules": None}  # PEFT itself puts 1 for None
    assert {name: every[name] for name in fields.refused} == {name: usual[name] for name in fields.refused}


@pytest.mark.parametrize("peft_type", FIELDS)
def test_what_is_refused_is_named(peft_type: str) -> None:
    for field, usual in FIELDS[peft_type].refused.items():
        for value in (usual, None):
            FIELDS[peft_type].check({"peft_type": peft_type, field: value})
        values: tuple[Any, ...] = (2, "x", [1], {"a": 1})
        for value in values:
            with pytest.raises(ValueError, match=f"{field}=.* is not supported"):
                FIELDS[peft_type].check({"peft_type": peft_type, field: value})


@pytest.mark.parametrize("peft_type", FIELDS)
def test_what_is_acted_on_matters(peft_type: str, tmp_path: Path) -> None:
    saved(tmp_path, METHODS[peft_type])
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    model = tiny_classifier("bert")
    own = adapter_method(model, tmp_path)
    for field in {*FIELDS[peft_type].read, "peft_type", "task_type", "modules_to_save"}:
        value, said = OTHERS[field]
        changes = {"layers_to_transform": [0]} if field == "layers_pattern" else {}
        edit_config(tmp_path, **{field: value, **changes})
        if hasattr(own, said):
            assert getattr(adapter_method(model, tmp_path), said) != getattr(own, said), field
        else:
            with pytest.raises(ValueError, match=said):
                kpeft.load_adapter(model, tmp_path)
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    for field in FIELDS[peft_type].read:
        edit_config(tmp_path, **{field: [{"a": "b"}]})
        with pytest.raises(ValueError, match=f"adapter_config.json: {field} must be of type"):
            kpeft.load_adapter(model, tmp_path)
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))


def test_a_field_of_a_newer_release_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peft_config, "_warned", set())
    saved(tmp_path, kpeft.LoRA())
    edit_config(tmp_path, brand_new_option=3, another_one={"a": 1}, off=False, empty=[], none=None)
    with caplog.at_level(logging.WARNING, "kpeft"):
        for _ in range(2):
            kpeft.load_adapter(tiny_classifier("bert"), tmp_path)
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == 2
    assert "not its field brand_new_option=3, which is left out of account" in named[0]
    assert "another_one={'a': 1}" in named[1]


def test_a_misspelt_field_is_no_newer_one(tmp_path: Path) -> None:
    """One flipped bit would otherwise leave alpha at its default, and nothing but a warning."""
    saved(tmp_path, kpeft.LoRA())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["lora_alphb"] = config.pop("lora_alpha")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"lora_alphb is no field of PEFT's; did you mean lora_alpha\?"):
        kpeft.load_adapter(tiny_classifier("bert"), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_type": "CAUSAL_LM", "modules_to_save": None}, None),
        ({"task_type": "FEATURE_EXTRACTION", "modules_to_save": None}, None),
        ({"base_model_name_or_path": "someone/else", "revision": "main", "inference_mode": False}, None),
        ({"task_type": "TOKEN_CLS"}, r"task_type='TOKEN_CLS' is not supported; .* whole rows \(SEQ_CLS\)"),
        ({"task_type": "NEW_TASK"}, "task_type='NEW_TASK' is not supported"),
        ({"task_type": 3}, r"task_type must be of type str \| None. Received: task_type=3"),
        ({"target_modules": "(query"}, r"target_modules='\(query' is no regular expression"),
        ({"rank_pattern": {"(?i)query)": 2}}, "rank_pattern=.* is no regular expression"),
        ({"layers_to_transform": 0, "layers_pattern": "[layer"}, "layers_pattern=.* is no regular expression"),
    ],
)
def test_tasks_and_patterns(changes: dict[str, Any], message: str | None, tmp_path: Path) -> None:
    saved(tmp_path, kpeft.LoRA(train_head="task_type" not in changes or message is not None))
    edit_config(tmp_path, **changes)
    model = tiny_classifier("bert")
    if message is None:
        assert kpeft.load_adapter(model, tmp_path).adapters
        return
    with pytest.raises(ValueError, match=message):
        kpeft.load_adapter(model, tmp_path)
