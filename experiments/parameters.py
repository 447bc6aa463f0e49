"""How many parameters do the course reports' runs train?

    python -m experiments.parameters

Builds BERT-base and RoBERTa-base with random weights, puts each method of bitfit_vs_lora, rank_sweep, roberta_cost and
query_lora on the preset that its recipe takes, and counts; beside them all parameters, the head alone and (IA)^3
without a head. Needs no download. Writes parameters.json and parameters.md into `--output`. The runs on DeBERTa train
all of it and are left out.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

from experiments import bitfit_vs_lora, query_lora, rank_sweep, roberta_cost
from experiments.flags import parse
from experiments.recipe import runs_of
from kpeft import runtime
from kpeft.config import RunConfig
from kpeft.files import replacing, write_json
from kpeft.glue.tasks import get_task
from kpeft.methods import LoRA, Method
from kpeft.results import installed_versions
from kpeft.run import make_config, make_parser

RECIPES = {
    bitfit_vs_lora: ("sst2", "stsb"),
    rank_sweep: ("mrpc", "sst2"),
    roberta_cost: ("sst2", "rte"),
    query_lora: ("sst2", "mrpc"),
}
MODELS = {"bert_base_en_uncased": ("BertBackbone", 30_522), "roberta_base_en": ("RobertaBackbone", 50_265)}
OTHERS = ("full", "head", "ia3 --train-head false")
BASE = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "intermediate_dim": 3072}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.parameters", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("experiments/results/parameters"))
    output = parser.parse_args().output
    runtime.prepare()
    found: dict[tuple[str, int, str], dict[str, Any]] = {}
    for recipe, config in configs():
        classes, method = get_task(config.task).num_classes, config.method
        assert method is not None
        key = (config.preset, classes, said(method))
        if key not in found:
            counts = count(config.preset, classes, method)
            found[key] = {**dict(zip(("preset", "labels", "method"), key, strict=True)), **counts, "recipes": []}
        if recipe and recipe not in found[key]["recipes"]:
            found[key]["recipes"].append(recipe)
    rows = sorted(found.values(), key=lambda row: (row["preset"], row["labels"], row["trainable"]))
    output.mkdir(parents=True, exist_ok=True)
    made = {"command": "python -m experiments.parameters", "versions": installed_versions(), "rows": rows}
    write_json(output / "parameters.json", made)
    with replacing(output / "parameters.md") as temporary:
        temporary.write_text(table(rows), encoding="utf-8")
    sys.stdout.write(table(rows))


def configs() -> list[tuple[str, RunConfig]]:
    """Returns the runs of the recipes on presets that are counted, with the recipe's name; others without one."""
    found = []
    for recipe, tasks in RECIPES.items():
        options = parse("", tasks, seeds=(0,), arguments=("--data-dir", "any"))
        for sweep in recipe.sweeps(options):
            found += [(recipe.__name__.rpartition(".")[2], run.config()) for run in runs_of(sweep, options)]
    for preset, flags in itertools.product(MODELS, OTHERS):
        arguments = f"--task mrpc --preset {preset} --method {flags}".split()
        found.append(("", make_config(make_parser().parse_args(arguments))))
    return [(name, config) for name, config in found if config.preset in MODELS]


def count(preset: str, classes: int, method: Method) -> dict[str, int]:
    """Returns the trained and all parameters of a method on KerasHub's model."""
    import keras_hub

    import kpeft
    from kpeft.backbones.classifier import classifier_from_backbone

    name, vocabulary = MODELS[preset]
    model = classifier_from_backbone(getattr(keras_hub.models, name)(vocabulary_size=vocabulary, **BASE), classes)
    counts = kpeft.adapt(model, method).parameter_counts()
    return {"trainable": counts.trainable, "total": counts.total}


def said(method: Method) -> str:
    """Returns a method's name and those of its flags that change what is trained."""
    words = [method.name]
    if isinstance(method, LoRA):
        targets = method.targets if isinstance(method.targets, str) else ",".join(method.targets)
        words += ["--rank", str(method.rank), "--targets", targets]
    return " ".join([*words, *(() if method.train_head else ("--train-head", "false"))])


def table(rows: list[dict[str, Any]]) -> str:
    """Returns Markdown."""
    lines = ["| preset | labels | method | trainable | of all | in |", "|---|---:|---|---:|---:|---|"]
    for row in rows:
        share = f"{row['trainable'] / row['total']:.3%}"
        cells = [row["preset"], str(row["labels"]), f"`{row['method']}`", f"{row['trainable']:,}", share]
        lines.append(f"| {' | '.join([*cells, ', '.join(row['recipes'])])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
