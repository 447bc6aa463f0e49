"""Loads adapters with Hugging Face PEFT, computes, and saves them again: half of tests/adapters/test_round_trips.

    PYTHON tests/peft_round_trip.py FOLDER

with a Python that has torch, transformers and peft. For each folder in FOLDER with a job.json, which names the base, it
reads `adapter/` and inputs.npz, and writes `again/` and logits.npy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import peft
import torch
import transformers


def main(folder: Path) -> None:
    """Does all jobs."""
    transformers.logging.set_verbosity_error()
    for job in sorted(folder.glob("*/job.json")):
        here, base = job.parent, json.loads(job.read_text())["base"]
        model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
        model = peft.PeftModel.from_pretrained(model, here / "adapter").eval()
        inputs = {name: torch.tensor(value).long() for name, value in np.load(here / "inputs.npz").items()}
        with torch.no_grad():
            np.save(here / "logits.npy", model(**inputs).logits.numpy())
        model.save_pretrained(here / "again")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
