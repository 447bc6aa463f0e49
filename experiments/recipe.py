"""What recipes share: the runs that are still to be made, and the page at the end.

A recipe is a module whose docstring asks a question. It names the runs that answer it as `Sweep`s; each is made with
every seed, in a folder of its own. A run that is there already is not made again, and one that was broken off goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from experiments.flags import parse
from experiments.runs import Job, run_all
from kpeft.config import DataConfig, RunConfig, TrainingConfig
from kpeft.methods.fields import method_from_json, method_to_json
from kpeft.report.__main__ import main as write_report
from kpeft.report.answer import ANSWER, write_answer
from kpeft.report.document import Table
from kpeft.report.drawing import check_matplotlib
from kpeft.report.markdown import table_lines
from kpeft.results import CHECKPOINTS, FILE
from kpeft.run import make_config, make_configs, make_parser
from kpeft.runtime import as_interrupts

ENDS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))  # Windows has no SIGHUP


@dataclass(frozen=True)
class Sweep:
    """Runs that differ in their seed, and in a learning rate or LoRA's rank.

    Attributes:
        name: Folder of the runs.
        flags: Of `kpeft.run`, in one line; `{seed}` stands for a run's own.
        learning_rates: Each is a run; `()` leaves the rate to `flags`.
        ranks: Likewise.
        stage: Sweeps of stage 1 begin when all of stage 0 have ended.
    """

    name: str
    flags: str
    learning_rates: tuple[float, ...] = ()
    ranks: tuple[int, ...] = ()
    stage: int = 0


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        name: What to call it.
        common: Flags of `kpeft.run` that its sweep has, but for the output folder.
        own: Seed, learning rate and rank, as the sweep gives several.
        folder: Where its files go.
    """

    name: str
    common: list[str]
    own: Mapping[str, Any]
    folder: Path

    @property
    def flags(self) -> list[str]:
        """All but the output folder."""
        return [*self.common, *itertools.chain(*((_flag(name), str(value)) for name, value in self.own.items()))]

    def config(self) -> RunConfig:
        """Returns what the flags ask for."""
        return make_config(_parser().parse_args(self.flags))


@functools.cache
def _parser() -> argparse.ArgumentParser:
    return make_parser()


def main(
    doc: str | None,
    sweeps: Callable[[argparse.Namespace], list[Sweep]],
    *,
    tasks: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    evaluation: str = "last",
    add_flags: Callable[[argparse.ArgumentParser], None] | None = None,
    settle: Callable[[argparse.Namespace], None] | None = None,
    summary: Callable[[argparse.Namespace, dict[str, list[Run]]], Table] | None = None,
) -> NoReturn:
    """Makes the runs of a recipe that are not there yet, and writes report.html and report.md.

    Args:
        doc: The recipe's docstring.
        sweeps: Gives its sweeps, from the parsed flags.
        tasks: Those it is for, of which the user may choose some.
        seeds: Those of each run where the user says nothing.
        evaluation: Which of each run the page shows; `"best"` where rows held out chose it.
        add_flags: Adds flags of the recipe's own.
        settle: Fills in `seeds` and `output`, which are `None` where the user says nothing, by the recipe's own flags.
        summary: Gives the table that answers the recipe's question, from the flags and the runs by sweep.
    """
    try:
        options = parse(doc, tasks, seeds, add_flags, settle)
        check_matplotlib()
        if options.data_dir is not None and not Path(options.data_dir).is_dir():
            raise ValueError(f"--data-dir {options.data_dir!r} is no folder: give one with GLUE's, such as MRPC.")
        if options.output.exists() and not options.output.is_dir():
            raise ValueError(f"--output {str(options.output)!r} is a file: name a folder.")
        with as_interrupts(*ENDS):
            status = make(sweeps(options), options)
        runs = {sweep.name: runs_of(sweep, options) for sweep in sweeps(options)}
        if summary is not None and any(is_done(run) for each in runs.values() for run in each):
            table = summary(options, runs)
            of = f"--tasks {' '.join(options.tasks)} --seeds {' '.join(map(str, options.seeds))}"
            table = dataclasses.replace(table, caption=f"{table.caption} ({of})")  # other runs may lie there, too
            write_answer(options.output, table)
            sys.stdout.write("\n".join(table_lines(table)) + "\n")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"experiments: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("experiments: interrupted; the same command goes on from here.\n")
        sys.exit(130)
    page = write_report([str(options.output), "--evaluation", evaluation])
    sys.exit(status or page)


def make(sweeps: Sequence[Sweep], options: argparse.Namespace) -> int:
    """Makes the runs that are not there yet and returns 1 if any failed, else 0.

    Raises:
        ValueError: If a run is there that was made with other options; nothing is run then.
    """
    runs = {sweep: runs_of(sweep, options) for sweep in sweeps}
    jobs = {sweep: jobs_of(each, options) for sweep, each in runs.items()}
    there, count = sum(is_done(run) for each in runs.values() for run in each), sum(map(len, runs.values()))
    sys.stderr.write(f"runs: {count}, there already: {there}; results in {options.output}\n")
    if there < count:  # what it says will be out of date
        (options.output / ANSWER).unlink(missing_ok=True)
    failed = 0
    for stage in sorted({sweep.stage for sweep in sweeps}):
        # The first of each sweep, then the second, and so on, so that what is broken off has something of all.
        of_stage = itertools.zip_longest(*(each for sweep, each in jobs.items() if sweep.stage == stage))
        failed += run_all([job for several in of_stage for job in several if job is not None], options.jobs)
    return int(failed > 0)


def runs_of(sweep: Sweep, options: argparse.Namespace) -> list[Run]:
    """Returns a sweep's runs, one for each combination of seed, learning rate and rank, in the folders `kpeft.run`
    gives them when it trains all at once.
    """
    runs = []
    for values in itertools.product(*_values(sweep, options).values()):
        own = dict(zip(_values(sweep, options), values, strict=True))
        common = [flag.replace("{seed}", str(own["seed"])) for flag in _common(sweep, options)]
        name = ",".join(f"{key}={value}" for key, value in own.items())
        runs.append(Run(f"{sweep.name} {name}", common, own, options.output / sweep.name / name))
    return runs


def jobs_of(runs: list[Run], options: argparse.Namespace) -> list[Job]:
    """Returns what is still to be run of a sweep.

    Raises:
        ValueError: If a run is there that was made with other options.
    """
    open_runs = [run for run in runs if not is_done(run)]
    begun = [run for run in open_runs if _is_begun(run)]
    # Training at once clears what was trained at once in the folder before, be it of other seeds.
    sweep = runs[0].folder.parent
    alone = len(runs) > 1 and not any(any(sweep.glob(f"*/{name}")) for name in (FILE, f"{CHECKPOINTS}/step-*"))
    if options.at_once and alone and _fit_together(runs):
        return [Job(sweep.name, _all_at_once(runs))]
    jobs = []
    for run in open_runs:
        how = "--resume" if run in begun else "--overwrite"  # of what broke off before its first checkpoint
        config = run.config()
        other = config.adapter if config.distillation is None else config.distillation.teacher
        needs = None if other is None else Path(other).parent / FILE  # its adapter is there before it has ended
        jobs.append(Job(run.name, [*run.flags, "--output-dir", str(run.folder), how], needs))
    return jobs


def is_done(run: Run) -> bool:
    """Whether a run is there.

    Raises:
        ValueError: If it was made with other options.
    """
    path = run.folder / FILE
    if not path.exists():
        return False
    wanted = json.loads(json.dumps(run.config().to_json()))
    try:
        there = json.loads(path.read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it, or choose another --output.") from error
    if run.config().method is None:  # the adapter's own
        wanted["method"] = there.get("method")
    for part, value in wanted.items():
        if _whole(part, there.get(part)) != value:
            raise ValueError(
                f"{run.folder} holds a run with another {part}: {there.get(part)}, where {value} is asked for. "
                "Choose another --output."
            )
    return True


def _whole(part: str, value: Any) -> Any:
    """Returns a part of a configuration with what older versions did not write, which is at its default."""
    kind = {"training": TrainingConfig, "data": DataConfig}.get(part)
    if kind is not None and isinstance(value, dict):
        return {**{field.name: field.default for field in dataclasses.fields(kind)}, **value}
    if part == "method" and isinstance(value, dict):
        return json.loads(json.dumps(method_to_json(method_from_json(value))))
    return value


def _is_begun(run: Run) -> bool:
    """Whether a run has a whole checkpoint; one that broke off while it wrote the first has none."""
    return any(path.suffix != ".tmp" for path in (run.folder / CHECKPOINTS).glob("step-*"))


def _values(sweep: Sweep, options: argparse.Namespace) -> dict[str, Sequence[Any]]:
    several = {"seed": options.seeds, "learning_rate": sweep.learning_rates, "rank": sweep.ranks}
    return {name: values for name, values in several.items() if values}


def _common(sweep: Sweep, options: argparse.Namespace) -> list[str]:
    """Returns what a sweep's runs have in common; what the user says goes before what the recipe does."""
    flags = shlex.split(sweep.flags)
    flags += ["--precision", options.precision]
    for name in ("preset", "data_dir", "limit", "epochs"):
        if getattr(options, name) is not None:
            flags += [_flag(name), str(getattr(options, name))]
    if options.offline:
        flags += ["--offline", *(() if options.preset else ("--preset", "minilm"))]
    return flags


def _fit_together(runs: list[Run]) -> bool:
    """Whether `kpeft.run` can train a sweep's runs at once; it cannot where they start from or learn from others."""
    try:
        make_configs(_parser().parse_args(_all_at_once(runs)))
    except ValueError:
        return False
    return True


def _all_at_once(runs: list[Run]) -> list[str]:
    """Returns the flags of one process for all runs of a sweep."""
    flags = [*runs[0].common, "--output-dir", str(runs[0].folder.parent), "--overwrite"]
    for name in runs[0].own:  # with a comma behind, so that the folders are named after it where it is one
        flags += [_flag(name), "".join(f"{value}," for value in dict.fromkeys(run.own[name] for run in runs))]
    return flags


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
