"""Every method on MRPC with MiniLM: scores over seeds, speed in one go, parameters and file size on BERT-base.

    python -m experiments.methods --data-dir GLUE_FOLDER

Each method is run as it comes, with its own default options and learning rate, for `--epochs` epochs, and with nothing
chosen on validation rows. Scores are those after the last step. `--jobs` runs go side by side, each on its share of the
cores; a run that has its result.json already is not made again, so what was broken off goes on.

Then methods load, a few at a time and full fine-tuning with them, and train in turn, about a second each, `--repeats`
times over: examples a second relative to full fine-tuning's in the same round. Parameters and the adapter's bytes are
those on BERT-base, with random weights and two labels. Writes methods.json, methods.md and methods.png into `--output`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from kpeft import runtime
from kpeft.files import write_json

runtime.prepare()

import keras_hub  # noqa: E402

import kpeft  # noqa: E402
from experiments.benchmarks import setting  # noqa: E402
from experiments.benchmarks.contestants import KINDS  # noqa: E402
from experiments.benchmarks.rounds import Entry, compete  # noqa: E402
from experiments.comparison import plot, table  # noqa: E402
from experiments.recipe import Sweep, is_done, make, runs_of  # noqa: E402
from kpeft.adapter_files import WEIGHTS  # noqa: E402
from kpeft.backbones.classifier import classifier_from_backbone  # noqa: E402
from kpeft.methods.fields import method_to_json  # noqa: E402
from kpeft.results import HISTORY, read_result  # noqa: E402
from kpeft.run import make_config, make_parser  # noqa: E402

METHODS = (
    *kpeft.METHODS,
    "lora --targets all-linear",
    "lora+bitfit",
    "qlora --quantization int8",
    "bottleneck --style pfeiffer",
    "bottleneck --style parallel --scale 4",
    "bottleneck+prefix --style parallel --scale 4",
    "lora+prefix+bottleneck --style pfeiffer --gated true",
)
"""Flags of `kpeft.run`, without `--method`; the last two are MAM adapters and UniPELT."""

PRECISION = "bfloat16"
BASE = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "intermediate_dim": 3072}
SIDE_BY_SIDE = 6  # processes of over a gigabyte each, and full fine-tuning's
STEPS = 8  # before the timed turns, and at most in one


def main() -> int:
    options, failed = parse(), 0
    with tempfile.TemporaryDirectory() as scratch:
        result = setting.describe(options, Path(scratch))
        result["precision"] = PRECISION
        if "scores" in options.parts:
            failed = make([sweep_of(flags) for flags in options.methods], options)
        methods = older(options)
        for flags in options.methods:
            methods[flags] = {**methods.get(flags, {}), "runs": scores(flags, options), **size(flags)}
        if "speed" in options.parts:
            for flags, figures in speed(options, Path(scratch)).items():
                methods[flags]["speed"] = {**figures, "machine": result["machine"]}
    result["methods"] = {flags: methods[flags] for flags in dict.fromkeys((*METHODS, *methods)) if flags in methods}
    write_json(options.output / "methods.json", result)
    text = table(result)
    (options.output / "methods.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    plot(result, options.output / "methods.png")
    return failed


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.methods", description=__doc__)
    parser.add_argument("--data-dir", help="folder of GLUE TSVs; without it the bundled sample")
    parser.add_argument("--methods", nargs="+", metavar="FLAGS", default=METHODS, help="such as 'lora --rank 4'")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5, help="of each run (default 5)")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (default 1)")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns of each method (default 5)")
    parser.add_argument(
        "--parts", nargs="*", choices=("scores", "speed"), default=("scores", "speed"), help="none: only the table"
    )
    parser.add_argument("--output", type=Path, default=Path("experiments/results/methods"))
    parser.set_defaults(task="mrpc", batch_size=16, max_length=128)
    parser.set_defaults(preset=None, precision=PRECISION, limit=None, at_once=False)
    options = parser.parse_args()
    options.offline = options.data_dir is None
    options.output.mkdir(parents=True, exist_ok=True)
    return options


def method_of(flags: str) -> kpeft.Method:
    """Returns the method that some flags ask for."""
    method = make_config(make_parser().parse_args(shlex.split(sweep_of(flags).flags))).method
    assert method is not None
    return method


def sweep_of(flags: str) -> Sweep:
    """Returns the runs of a method, one for each seed, evaluated at their end alone."""
    folder = "-".join(flags.replace("--", "").split())
    return Sweep(folder, f"--task mrpc --preset minilm --eval-steps 100000 --method {flags}")


def scores(flags: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns what the finished runs of a method came to, by seed."""
    found = []
    for run in runs_of(sweep_of(flags), options):
        if is_done(run):
            result = read_result(run.folder)
            kept = {name: result.config["training"][name] for name in ("learning_rate", "epochs", "batch_size")}
            assert result.last is not None
            lines = map(json.loads, (run.folder / HISTORY).read_text(encoding="utf-8").splitlines())
            losses = [line["loss"] for line in lines if "loss" in line]
            kept["training_loss"] = statistics.mean(losses[-max(1, len(losses) // 10) :])  # of the last tenth of steps
            found.append({"seed": result.seed, **kept, "versions": result.versions, **result.last.metrics})
    return found


def older(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Returns what methods.json has of all methods already."""
    path = options.output / "methods.json"
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["methods"] if path.exists() else {}
    return found


def size(flags: str) -> dict[str, int]:
    """Returns the trained parameters and the bytes of the adapter's file on BERT-base."""
    model = classifier_from_backbone(keras_hub.models.BertBackbone(vocabulary_size=30_522, **BASE), 2)
    adaptation = kpeft.adapt(model, method_of(flags))
    with tempfile.TemporaryDirectory() as folder:
        kpeft.save_adapter(adaptation, folder)
        size = (Path(folder) / WEIGHTS).stat().st_size
    return {"trainable": adaptation.parameter_counts().trainable, "adapter_bytes": size}


def speed(options: argparse.Namespace, scratch: Path) -> dict[str, dict[str, Any]]:
    """Returns, by method, the figures of its turns, with full fine-tuning's of the same rounds as `full`."""
    kind = next(kind for kind in KINDS if kind.name == f"kpeft {PRECISION}")
    told = setting.worker_options("", options, scratch)
    others = [flags for flags in options.methods if flags != "full"]
    figures: dict[str, dict[str, Any]] = {}
    for start in range(0, max(len(others), 1), SIDE_BY_SIDE):
        entries = [
            Entry(flags, kind, told | {"method": method_to_json(method_of(flags))})
            for flags in ("full", *others[start : start + SIDE_BY_SIDE])
        ]
        group = compete(
            entries,
            rounds=options.repeats,
            warm_steps=STEPS,
            most_steps=STEPS,
            at_once=2,
            peer_python=sys.executable,
            log=scratch,
        )
        figures |= {name: each | {"full": group["full"].get("turns")} for name, each in group.items()}
    return {flags: figures[flags] for flags in options.methods}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.stderr.write(f"experiments: {error}\n")
        sys.exit(2)
