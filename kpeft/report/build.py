"""The report of one folder: its sections, in the order they are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kpeft.glue.tasks import Task
from kpeft.report import tables
from kpeft.report.collect import Collection, Run
from kpeft.report.command import command
from kpeft.report.curves import loss_figures
from kpeft.report.document import Block, Commands, Document, Figure, Points, Row, Section, Text
from kpeft.report.figures import bar_figures, score_figures
from kpeft.report.groups import Evaluation, Group, group, has_holdout, is_sample, labels

SAMPLE = "The rows of these runs are made up: the scores show that everything works, and say nothing about GLUE."
SOME_SAMPLE = (
    "In {} of {} runs the rows are made up (those with --offline and no data folder): their scores say nothing about "
    "GLUE and do not compete with the others'."
)


def build(collection: Collection, evaluation: Evaluation) -> Document:
    """Returns the report of a folder.

    Args:
        collection: What was found in it.
        evaluation: Which evaluation of a run to show.
    """
    groups = group(collection.runs)
    lead = [
        f"{_count(len(collection.runs), 'run')} of {_count(len(groups), 'configuration')}; runs that differ only in "
        "the seed are put together. The best mean of a column is in bold. Scores are fractions.",
        which(evaluation, collection.runs),
    ]
    sections = [noted(collection)] if collection.notes else []
    if collection.answer is not None:
        sections.append(Section(title="Answer", blocks=(collection.answer,)))
    sections += [_task(task, own, evaluation) for task, own in by_task(groups)]
    return Document(title=f"kpeft runs: {collection.name}", lead=tuple(lead), sections=tuple(sections))


def which(evaluation: Evaluation, runs: Sequence[Run]) -> str:
    """Says which evaluation is shown, and what chose it."""
    if evaluation == "last":
        return "Shown is the evaluation after the last step of each run."
    held = sum(map(has_holdout, runs))
    if held == len(runs):
        return (
            "Shown is the best evaluation of each run, chosen on training rows that were held out, not on the rows "
            "that it is reported on."
        )
    return (
        f"Shown is the best evaluation of each run. {'But for runs with --holdout, it' if held else 'It'} was chosen "
        "on the rows that it is reported on: these scores are too good, and the more so the more evaluations a run had."
    )


def noted(collection: Collection) -> Section:
    """Lists what could not be read."""
    return Section(title=f"Damaged or left out: {collection.name}", blocks=(Points(collection.notes),))


def by_task(groups: Sequence[Group]) -> list[tuple[Task, list[Group]]]:
    tasks = {each.task.name: each.task for each in groups}
    return [(task, [each for each in groups if each.task is task]) for task in tasks.values()]


def _task(task: Task, groups: list[Group], evaluation: Evaluation) -> Section:
    names = labels(groups)
    runs = [run for each in groups for run in each.runs]
    presets = sorted({run.result.preset for run in runs})
    lines = [f"Pretrained model: {', '.join(presets)}."]
    splits = {str(run.result.config["data"].get("split", "validation")) for run in runs}
    if splits != {"validation"}:
        lines.append(f"Evaluated is the {' or '.join(sorted(splits))} split; what is called validation below is that.")
    held = sum(map(has_holdout, runs))
    if held:
        lines.append(
            f"In {held} of {_count(len(runs), 'run')}, training rows that were held out chose the best evaluation."
        )
    lines += cautions(groups, names)
    parts = []
    if tables.metric_names(task, groups, evaluation):
        matrices, note = tables.confusions(groups, names, evaluation)
        parts.append(Section(title="Scores", blocks=(tables.scores(groups, evaluation),)))
        parts.append(_figures("Losses", loss_figures(groups, names)))
        parts.append(_figures("Scores against other quantities", score_figures(groups, names, evaluation)))
        blocks: tuple[Block, ...] = (Text(note), Row(tuple(matrices))) if matrices else (Text(note),)
        parts.append(Section(title="Confusion matrices", blocks=blocks))
    else:
        lines.append("These runs have no scores: their rows have no labels.")
    bars = Row(tuple(bar_figures(groups, names)))
    parts.append(Section(title="Size and time", blocks=(tables.sizes(groups, names), bars)))
    parts.append(Section(title="Runs and commands", blocks=_runs(groups, names, evaluation)))
    return Section(
        title=task.title, blocks=(Text(" ".join(lines)),), parts=tuple(part for part in parts if part.blocks)
    )


def cautions(groups: Sequence[Group], names: Sequence[str]) -> list[str]:
    """Says what keeps scores or times of a task's runs from being compared."""
    runs = [run for each in groups for run in each.runs]
    made_up = sum(is_sample(run) for run in runs)
    lines = []
    if made_up == len(runs):
        lines.append(SAMPLE)
    elif made_up:
        lines.append(SOME_SAMPLE.format(made_up, len(runs)))
    if any(run.at_once for run in runs):
        lines.append("Runs that were trained at once each show the seconds of all of them.")
    lines += [_mixed(each, name) for each, name in zip(groups, names, strict=True) if len(_made_on(each)) > 1]
    return lines + [
        _twice(each, name) for each, name in zip(groups, names, strict=True) if len(set(each.seeds)) < len(each.seeds)
    ]


def _figures(title: str, figures: Sequence[Figure]) -> Section:
    return Section(title=title, blocks=(Row(tuple(figures)),) if figures else ())


def _runs(groups: Sequence[Group], names: Sequence[str], evaluation: Evaluation) -> tuple[Block, ...]:
    lines, refused = [], []
    for run in (run for each in groups for run in each.runs):
        try:
            lines.append((run.folder, command(run.result.config)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            refused.append(f"No command makes {run.folder} again: {error}")
    text = "The commands; --output-dir, --overwrite and --resume are not recorded."
    if any(run.at_once for each in groups for run in each.runs):
        text += " Some were trained at once: their commands train them singly, equal up to rounding."
    blocks: list[Block] = [tables.runs(groups, names, evaluation), Text(text), Commands(tuple(lines))]
    return (*blocks, *([Points(tuple(refused))] if refused else []))


def _twice(each: Group, name: str) -> str:
    seeds = sorted(seed for seed, count in Counter(each.seeds).items() if count > 1)
    return f"Of {name} there are several runs of seed {', '.join(map(str, seeds))}, and each counts as one."


def _made_on(each: Group) -> set[tuple[str, ...]]:
    versions = [[f"{name} {version}" for name, version in sorted(run.result.versions.items())] for run in each.runs]
    return {(tables.hardware_text(run), *own) for run, own in zip(each.runs, versions, strict=True)}


def _mixed(each: Group, name: str) -> str:
    return f"The runs of {name} differ in hardware or versions: the means of their times are of no one machine."


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
