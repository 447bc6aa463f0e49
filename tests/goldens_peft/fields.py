"""Every field of PEFT's configurations, and its default: tests/goldens/peft/fields.json."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import peft

CONFIGS = (
    peft.LoraConfig,
    peft.IA3Config,
    peft.LNTuningConfig,
    peft.VeraConfig,
    peft.PromptTuningConfig,
    peft.PromptEncoderConfig,
    peft.PrefixTuningConfig,
)


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
    every = {config().peft_type.value: defaults(config) for config in CONFIGS}
    content = {"version": peft.__version__, "configs": every}
    (folder / "fields.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
