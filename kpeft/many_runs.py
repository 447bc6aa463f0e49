"""Several runs at once: what `run_experiment` does for one, with one model and one training for all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kpeft.at_once import check_at_once, rank_of
from kpeft.config import RunConfig
from kpeft.data import selection
from kpeft.experiment import EVAL_BATCH, InterruptedRun, check_backend, check_output, clear_output, metrics_of
from kpeft.files import write_json
from kpeft.glue.tasks import get_task
from kpeft.results import RUNS, SCHEMA, RunResult
from kpeft.shared_model import SharedModel
from kpeft.sites import random_states
from kpeft.training import NonFiniteLossError, TrainingResult
from kpeft.training.callbacks import Interruption
from kpeft.training.many import train_many
from kpeft.training.record import Start


@dataclass(frozen=True)
class Ended:
    """How one of several runs ended.

    Attributes:
        config: The run.
        result: What its result.json holds; `None` for a run that failed or was interrupted.
        error: Why it failed.
    """

    config: RunConfig
    result: RunResult | None
    error: str | None


def run_at_once(configs: Sequence[RunConfig], folder: str | Path) -> list[Ended]:
    """Trains several runs at once. Each leaves what it leaves alone, but for checkpoints; runs.json lists them.

    Args:
        configs: The runs; they differ in seed, learning rate, LoRA rank and output folder.
        folder: Gets runs.json.

    Returns:
        How each run ended.

    Raises:
        ValueError: As `run_experiment`, or if the runs do not go together; nothing is written then.
        InterruptedRun: At SIGINT or SIGTERM; the runs that had ended are written.
        Exception: What else ended the training; the runs that had ended before are written.
    """
    check_backend()
    check_at_once(configs)
    task, folders = get_task(configs[0].task), [Path(folder), *(Path(config.output_dir) for config in configs)]
    for each in folders:
        check_output(each, configs[0], single=False)
    shared = SharedModel(task, configs)
    if configs[0].overwrite:
        for each in folders:
            clear_output(each)
    assert shared.data.train is not None
    outcomes = train_many(
        shared.trainee,
        shared.differing,
        shared.data.train,
        [Start(config=c.training, values=shared.start(c), output_dir=Path(c.output_dir)) for c in configs],
        random_states=random_states(shared.classifier),
        task_loss="regression" if task.regression else "classification",
        metrics_of=lambda predict: metrics_of(predict, task, shared.data.evaluated),
        score=selection(task, shared.data),
        eval_batch=EVAL_BATCH,
        rates=shared.rates,
        budget=shared.budget,
    )
    # By rank, so that the model changes its rank as seldom as can be.
    order = sorted(range(len(configs)), key=lambda run: -(rank_of(configs[run].method) or 0))
    writing = Interruption("when all results are written")  # no checkpoint holds them
    with writing.watch():
        ended = {run: _end(shared, configs[run], outcomes[run]) for run in order}
        write_runs(folder, [ended[run] for run in range(len(configs))])
    for outcome in outcomes:  # a loss that is not finite is the run's own failure, all else is the training's
        if isinstance(outcome, Exception) and not isinstance(outcome, NonFiniteLossError | FloatingPointError):
            raise outcome
    open_runs = sum(each.result is None and each.error is None for each in ended.values())
    if open_runs:
        raise InterruptedRun(
            f"interrupted; {open_runs} of {len(configs)} runs had not ended: start those again. The others are kept."
        )
    if writing.requested:
        raise InterruptedRun(f"interrupted after training; {RUNS} says how each of the {len(configs)} runs ended.")
    return [ended[run] for run in range(len(configs))]


def _end(shared: SharedModel, config: RunConfig, outcome: TrainingResult | Exception) -> Ended:
    if isinstance(outcome, Exception):
        return Ended(config, None, str(outcome) or type(outcome).__name__)
    try:
        return Ended(config, None if outcome.interrupted else shared.write(config, outcome), None)
    except OSError as error:  # the other runs' results are still to be written
        return Ended(config, None, f"writing it failed: {error}")


def write_runs(folder: str | Path, ended: Sequence[Ended]) -> None:
    """Writes runs.json: a line for each run, with what its own result.json says of it."""
    runs = []
    for each in ended:
        config, result = each.config, each.result
        run: dict[str, Any] = {
            "folder": os.path.relpath(config.output_dir, folder),
            "seed": config.training.seed,
            "learning_rate": config.training.learning_rate,
            "rank": rank_of(config.method),
        }
        run["status"] = "finished" if result else "failed" if each.error else "interrupted"
        run["error"] = each.error
        for name in ("best", "last"):
            score = getattr(result, name, None)
            run[name] = score and asdict(score)
        run["timing"] = result and dict(result.timing)
        runs.append(run)
    write_json(Path(folder) / RUNS, {"schema": SCHEMA, "runs": runs})
