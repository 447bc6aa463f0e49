"""Fine-tune an encoder on a GLUE task: `python -m kpeft.run --task mrpc --method bitfit`.

The only file that parses a run's arguments. Exit status: 0 done, 1 failed while running, 2 bad usage or input, 130
interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from kpeft import defaults, runtime
from kpeft._version import __version__
from kpeft.adapter_files import method_of_files
from kpeft.at_once import combine
from kpeft.config import PRECISIONS, SCHEDULES, SPLITS, DataConfig, Distillation, MaskedText, RunConfig, TrainingConfig
from kpeft.glue.tasks import TASKS
from kpeft.methods import METHODS, LoRA, Method, Union
from kpeft.methods.fields import describe_fields, field_types, is_switch, parse_field
from kpeft.summary import print_result, print_runs


class UsageError(ValueError):
    """Bad arguments."""


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing the usage, so that every mistake gives one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    configs: list[RunConfig] = []
    with runtime.as_interrupts(signal.SIGTERM), runtime.notes_on_stdout():
        try:
            options = _parse(arguments)
            if options.list:
                from kpeft.listing import print_list

                print_list()
                return 0
            configs = make_configs(options)
            try:
                runtime.prepare()
            except ValueError as error:
                raise UsageError(str(error)) from error
            return _run(configs)
        except KeyboardInterrupt:  # while training, signals are the training's
            resume = "" if len(configs) > 1 else " --resume goes on from a saved step, if any."
            return _say(f"interrupted before or after training.{resume}", 130)
        except UsageError as error:
            return _say(str(error), 2)


def _run(configs: Sequence[RunConfig]) -> int:
    from kpeft.experiment import InterruptedRun, run_experiment
    from kpeft.many_runs import run_at_once
    from kpeft.training import NonFiniteLossError

    try:
        if len(configs) > 1:
            folder = Path(configs[0].output_dir).parent
            ended = run_at_once(configs, folder)
            print_runs(ended, folder)
            failed = [f"{Path(each.config.output_dir).name}: {each.error}" for each in ended if each.error]
            return _say(f"{len(failed)} of {len(ended)} runs failed. {' '.join(failed)}", 1) if failed else 0
        print_result(run_experiment(configs[0]), configs[0])
        return 0
    except InterruptedRun as interruption:
        return _say(str(interruption), 130)
    except (NonFiniteLossError, FloatingPointError) as error:
        return _say(str(error), 1)
    except ValueError as error:
        if not runtime.is_refusal(error):
            raise
        return _say(str(error), 2)
    except OSError as error:  # bad input was a ValueError; this is the disk
        return _say(f"the run failed: {error}", 1)


def _say(message: str, status: int) -> int:
    sys.stderr.write(f"kpeft: {' '.join(message.split())}\n")
    return status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        flag = unknown[0].partition("=")[0]
        known = [name for action in parser._actions for name in action.option_strings]
        raise UsageError(f"unknown argument {flag!r}.{_nearest(flag, known)} --help shows all.")
    return options


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser; the flags of methods come from their fields."""
    parser = _Parser(prog="python -m kpeft.run", description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--version", action="version", version=f"kpeft {__version__}")
    add("--list", action="store_true", help="show methods, tasks and their trainable parameters, and end")
    add("--task", metavar="TASK", help=" ".join(TASKS))
    add("--method", metavar="METHOD", help=f"{' '.join(METHODS)}; several with +, such as lora+bitfit")
    add(
        "--preset", help="KerasHub preset, kaggle://…, hf://…, a local folder, or minilm (default bert_base_en_uncased)"
    )
    add("--data-dir", help="folder of GLUE TSVs (MRPC/train.tsv …); without it tensorflow-datasets loads glue/TASK")
    add("--tfds-dir", help="where tensorflow-datasets keeps its data")
    add("--offline", action="store_true", help="packaged encoder and bundled sample rows; touches no network")
    add("--output-dir", help="where results go (default runs/TASK-METHOD-PRESET-seedSEED)")
    add("--overwrite", action="store_true", help="replace the run that is in the output folder")
    add("--resume", action="store_true", help="go on from the last saved step")
    add("--adapter", help="adapter to start from: a folder, a file or hf://…; task ax needs one of MNLI")
    add("--teacher", help="adapter of a run on the same task to learn from, a full fine-tuning's for example")
    add("--distillation-weight", type=float, help="share of the loss that is the teacher's (default 0.5)")
    add("--temperature", type=float, help="of the teacher's softmax (default 2)")
    add("--text", help="file of plain text, on which each evaluation measures the masked-LM loss that training leaves")
    add("--rehearsal", type=float, help="rows of that text, masked, to learn from beside each row (default 0)")

    training = parser.add_argument_group("training")
    add = training.add_argument
    add("--epochs", type=int, help="passes over the training rows (default by task)")
    add("--batch-size", type=int, help="rows of a micro-batch (default 16)")
    add(
        "--learning-rate",
        type=_one_or_more(float),
        help="peak rate (default by task and method); 1e-3,3e-4: see --seed",
    )
    add("--schedule", choices=SCHEDULES, help="after the warm-up (default linear)")
    add("--warmup", type=float, help="below 1 a share of all steps, else steps (default 0.06)")
    add("--weight-decay", type=float, help="not on biases and LayerNorms (default 0.01)")
    add("--adam-epsilon", type=float, help="(default 1e-8)")
    add("--clip-norm", type=float, help="largest gradient norm, 0 for none (default 1)")
    add("--gradient-accumulation", type=int, help="micro-batches of a step (default 1)")
    add("--max-length", type=int, help="longest row in tokens (default 128)")
    add("--limit", type=int, help="use only so many training rows")
    add("--split", choices=SPLITS, help="what is evaluated (default validation); test where its labels are public")
    add("--holdout", type=float, help="training rows (below 1 a share) that choose the best evaluation instead")
    add("--max-steps", type=int, help="stop after so many steps")
    add("--eval-steps", type=int, help="evaluate every so many steps (default: each epoch)")
    add("--patience", type=int, help="stop after so many evaluations without a better score")
    add("--save-steps", type=int, help="save a checkpoint every so many steps (default: each epoch)")
    add("--keep", type=int, help="checkpoints to keep (default 1)")
    add(
        "--seed",
        type=_one_or_more(int),
        help="(default 0). Several values (0,1,2) here, for --learning-rate or for --rank are several runs, trained at "
        "once in a folder each, named after the values; what is trained and the working memory are needed as many "
        "times. 0, is a list of one",
    )
    add("--precision", choices=PRECISIONS, help="(default float32)")

    methods = parser.add_argument_group("methods", "values: a,b is a list, a=1,b=2 a mapping, true or false, none")
    for name, text in describe_fields().items():
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if is_switch(name) else {}
        methods.add_argument(_flag(name), metavar="VALUE", help=text.replace("%", "%%"), **switch)
    return parser


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _one_or_more(kind: type) -> Callable[[str], Any]:
    """Reads a value, or several as a tuple, each with a comma behind; the last one's may be left out."""

    def parse(text: str) -> Any:
        return tuple(kind(part) for part in text.removesuffix(",").split(",")) if "," in text else kind(text)

    parse.__name__ = kind.__name__  # argparse's messages name it
    return parse


def make_configs(options: argparse.Namespace) -> list[RunConfig]:
    """Turns parsed options into the runs they ask for: one, or all combinations of seeds, learning rates and ranks.

    Raises:
        UsageError: As `make_config`, or if the runs cannot be trained at once.
    """
    several: dict[str, Sequence[Any]] = {k: value for k, value in vars(options).items() if isinstance(value, tuple)}
    if "," in (options.rank or ""):
        several["rank"] = options.rank.removesuffix(",").split(",")
    config = make_config(argparse.Namespace(**vars(options) | {name: values[0] for name, values in several.items()}))
    if not several:
        return [config]
    try:
        if "rank" in several:
            several["rank"] = [parse_field(LoRA, "rank", text) for text in several["rank"]]
        order = ["seed", "learning_rate", "rank"]
        in_order = {name: several[name] for name in order if name in several}
        return combine(config, in_order, options.output_dir or config.output_dir.rpartition("-seed")[0])
    except ValueError as error:
        raise UsageError(str(error)) from error


def make_config(options: argparse.Namespace) -> RunConfig:
    """Turns parsed options into a `RunConfig`.

    Raises:
        UsageError: If an option is missing, unknown or does not fit the others.
    """
    if options.task is None:
        raise UsageError(f"--task is missing; one of {', '.join(TASKS)}.")
    try:
        method = _make_method(options)
        given = {k: v for k, v in vars(options).items() if v is not None}
        training = {f.name: given[f.name] for f in dataclasses.fields(TrainingConfig) if f.name in given}
        if training.get("clip_norm") == 0:
            training["clip_norm"] = None
        if options.task in TASKS:
            training.setdefault("epochs", defaults.epochs(options.task))
            name = method.name if method is not None else method_of_files(options.adapter, local=options.offline)
            name = name.partition("+")[0]
            if name in METHODS:
                training.setdefault("learning_rate", defaults.learning_rate(options.task, name))
        data = {f.name: given[f.name] for f in dataclasses.fields(DataConfig) if f.name in given}
        preset = options.preset or ("minilm" if options.offline else "bert_base_en_uncased")
        output = options.output_dir or _default_output(options.task, method, preset, training.get("seed", 0))
        return RunConfig(
            task=options.task,
            method=method,
            preset=preset,
            data=DataConfig(**data),
            training=TrainingConfig(**training),
            precision=options.precision or "float32",
            adapter=options.adapter,
            distillation=_make_part(
                options, Distillation, teacher="teacher", weight="distillation_weight", temperature="temperature"
            ),
            masked_text=_make_part(options, MaskedText, text="text", rehearsal="rehearsal"),
            output_dir=output,
            overwrite=options.overwrite,
            resume=options.resume,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _make_part(options: argparse.Namespace, kind: Any, **flags: str) -> Any:
    """Returns an optional part of the configuration, from the flags of its fields; nothing without the first."""
    given = {name: getattr(options, flag) for name, flag in flags.items() if getattr(options, flag) is not None}
    needed, flag = next(iter(flags.items()))
    if given and needed not in given:
        raise UsageError(f"{_flag(flags[next(iter(given))])} needs a {_flag(flag)}.")
    return kind(**given) if given else None


def _default_output(task: str, method: Method | None, preset: str, seed: int) -> str:
    name = preset.rstrip("/").rpartition("/")[2] or "preset"
    return str(Path("runs") / f"{task}-{method.name if method else 'adapter'}-{name}-seed{seed}")


def _make_method(options: argparse.Namespace) -> Method | None:
    given = {name: getattr(options, name) for name in describe_fields() if getattr(options, name) is not None}
    if given and options.adapter is not None:
        raise UsageError(f"{_flag(next(iter(given)))} does not go with --adapter, which has its method's options.")
    if options.method is None:
        if given:
            raise UsageError(f"{_flag(next(iter(given)))} needs a --method.")
        return None
    for name in options.method.split("+"):
        if name not in METHODS:
            raise UsageError(f"unknown method {name!r}.{_nearest(name, list(METHODS))} Known: {', '.join(METHODS)}.")
    kinds = [METHODS[name] for name in options.method.split("+")]
    known = {name: None for kind in kinds for name in field_types(kind)}
    for name in given:
        if name not in known:
            own = ", ".join(map(_flag, known))
            raise UsageError(f"{_flag(name)} does not belong to method {options.method}, whose flags are {own}.")
    parts = []
    for kind in kinds:
        own_fields = {name: text for name, text in given.items() if name in field_types(kind)}
        parts.append(kind(**{name: parse_field(kind, name, text) for name, text in own_fields.items()}))
    return parts[0] if len(parts) == 1 else Union(parts=tuple(parts))


if __name__ == "__main__":
    sys.exit(main())
