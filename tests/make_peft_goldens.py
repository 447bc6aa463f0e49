# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "numpy==2.4.6",
#   "peft==0.21.2",
#   "safetensors==0.8.0",
#   "torch==2.13.0",
#   "transformers==5.23.0",
# ]
# ///
"""Writes tests/goldens/peft: adapters by Hugging Face PEFT for the models of tests/goldens/hf, and their logits.

    uv run tests/make_peft_goldens.py

makes an environment of its own with the releases named above, which made the files that are here: `git diff` then shows
nothing, or what another processor rounds otherwise in the logits. Any other Python with these packages does as well.
"""

from __future__ import annotations

import json
from pathlib import Path

import transformers
from goldens_peft import adalora, combine, fields, formats, lora, lycoris, sequence

FOLDER = Path(__file__).parent / "goldens" / "peft"
SETS = ("exclude_modules", "feedforward_modules", "target_modules")


def settle(path: Path) -> None:
    """Takes out of a configuration what differs from run to run: the order of sets, and where the base lies."""
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = Path(config["base_model_name_or_path"]).name
    config |= {name: sorted(config[name]) for name in SETS if isinstance(config.get(name), list)}
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def main() -> None:
    """Writes all of them."""
    transformers.logging.set_verbosity_error()
    FOLDER.mkdir(exist_ok=True)
    for part in (adalora, combine, fields, formats, lora, lycoris, sequence):
        part.main(FOLDER / "combine" if part is combine else FOLDER)
    for path in FOLDER.rglob("adapter_config.json"):
        settle(path)
    for path in FOLDER.rglob("README.md"):  # PEFT's cards
        path.unlink()


if __name__ == "__main__":
    main()
