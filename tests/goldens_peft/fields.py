"""Every field of PEFT's configurations, and its default: tests/goldens/peft/fields.json."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import peft

CONFIGS = {
    "LORA": peft.LoraConfig,
    "ADALORA": peft.AdaLoraConfig,
    "LOHA": peft.LoHaConfig,
    "LOKR": peft.LoKrConfig,
    "IA3": peft.IA3Config,
    "LN_TUNING": peft.LNTuningConfig,
    "VERA": peft.VeraConfig,
    "PROMPT_TUNING": peft.PromptTuningConfig,
    "P_TUNING": peft.PromptEncoderConfig,
    "PREFIX_TUNING": peft.PrefixTuningConfig,
}


def defaults(config: Any) -> dict[str, Any]:
    """Returns the default of each field, by its name."""
    fields = {}
    for field in dataclasses.fields(config):
        factory: Any = field.default_factory
        value: Any = field.default if factory is dataclasses.MISSING else factory()
        fields[field.name] = vars(value) if dataclasses.is_dataclass(value) else value
    return fields


def main(folder: Path) -> None:
    """Writes fields.json."""
    every = {name: defaults(config) for name, config in CONFIGS.items()}
    content = {"version": peft.__version__, "configs": every}
    (folder / "fields.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
