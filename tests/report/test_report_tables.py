from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_folders import HARDWARE, MRPC, TIMING, metrics, offline, write_run

from kpeft.config import DataConfig, Distillation, MaskedText
from kpeft.methods import BitFit, Full, LoRA
from kpeft.report.answer import ANSWER, table_of, write_answer
from kpeft.report.build import SAMPLE, build
from kpeft.report.collect import collect
from kpeft.report.compare import compare
from kpeft.report.document import Commands, Document, Figure, Points, Row, Section, Table, Text
from kpeft.report.figures import score_figures
from kpeft.report.groups import Evaluation, group, labels
from kpeft.report.markdown import to_markdown
from kpeft.report.page import to_html


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("loss_figures", "score_figures", "bar_figures"):
        monkeypatch.setattr(f"kpeft.report.build.{name}", lambda *_: [])


def report(folder: Path, evaluation: Evaluation = "last") -> Document:
    return build(collect(folder), evaluation)


def part(document: Document, task: str, title: str) -> Section:
    section = next(each for each in document.sections if each.title == task)
    return next(each for each in section.parts if each.title == title)


def table(section: Section) -> Table:
    return next(block for block in section.blocks if isinstance(block, Table))


def texts(section: Section) -> str:
    return " ".join(block.text for block in section.blocks if isinstance(block, Text))


def column(found: Table, name: str) -> list[tuple[str, bool]]:
    index = found.columns.index(name)
    return [(row[index].text, row[index].best) for row in found.rows]


def write_three(folder: Path) -> None:
    """BitFit with three seeds, LoRA and full with one."""
    for seed, accuracy in enumerate((0.8, 0.9, 0.7)):
        loss = {"loss": 0.3 + seed / 10}
        write_run(folder / f"b{seed}", BitFit(), seed=seed, scores={**MRPC, **loss, "accuracy": accuracy})
    write_run(folder / "l", LoRA(), scores={**MRPC, "accuracy": 0.8, "loss": 0.6}, learning_rate=5e-4)
    write_run(folder / "f", Full(), scores={"accuracy": 0.75, "loss": 0.41}, learning_rate=2e-5, trainable=22_713_986)


def test_scores_are_means_and_deviations_with_the_best_in_bold(tmp_path: Path) -> None:
    write_three(tmp_path)
    found = table(part(report(tmp_path), "MRPC", "Scores"))
    assert column(found, "method") == [("bitfit", False), ("full", False), ("lora", False)]
    assert column(found, "learning rate") == [("0.001", False), ("2e-05", False), ("0.0005", False)]
    assert column(found, "seeds") == [("3 (0, 1, 2)", False), ("1 (0)", False), ("1 (0)", False)]
    assert column(found, "accuracy") == [("0.8000 ± 0.1000", True), ("0.7500", False), ("0.8000", True)]
    assert column(found, "loss") == [("0.4000 ± 0.1000", True), ("0.4100", False), ("0.6000", False)]
    assert column(found, "f1")[1] == ("-", False)
    assert "after the last step" in found.caption


def test_one_group_has_no_best(tmp_path: Path) -> None:
    write_run(tmp_path)
    found = table(part(report(tmp_path), "MRPC", "Scores"))
    assert found.columns == ("method", "seeds", "accuracy", "f1", "precision", "recall", "loss")
    assert not any(cell.best for row in found.rows for cell in row)


def test_a_mean_over_fewer_runs_says_so(tmp_path: Path) -> None:
    write_run(tmp_path / "0", seed=0)
    write_run(tmp_path / "1", seed=1, scores={"accuracy": 0.5})
    assert column(table(part(report(tmp_path), "MRPC", "Scores")), "loss") == [("0.5000 (1 of 2 runs)", False)]


def test_the_best_evaluation_is_shown_where_it_is_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path, best={**MRPC, "accuracy": 0.99})
    assert column(table(part(report(tmp_path, "best"), "MRPC", "Scores")), "accuracy") == [("0.9900", False)]
    assert "after the last step" in report(tmp_path).lead[1]


@pytest.mark.parametrize(
    ("holdouts", "said"),
    [
        ([None], "It was chosen on the rows that it is reported on: these scores are too good"),
        ([0.1, None], "But for runs with --holdout, it was chosen on the rows that it is reported on: these scores"),
        ([0.1, 0.2], "chosen on training rows that were held out, not on the rows that it is reported on."),
    ],
)
def test_what_chose_the_best_evaluation_is_said(holdouts: list[float | None], said: str, tmp_path: Path) -> None:
    for number, holdout in enumerate(holdouts):
        write_run(tmp_path / str(number), data=DataConfig(holdout=holdout))
    found = report(tmp_path, "best").lead[1]
    assert said in found
    assert ("too good" in found) == (None in holdouts)


def test_rows_held_out_and_the_test_split_are_said(tmp_path: Path) -> None:
    scores = {**MRPC, "holdout/accuracy": 0.625, "holdout/loss": 0.5}
    write_run(tmp_path / "0", scores=scores, data=DataConfig(holdout=0.1, split="test"))
    write_run(tmp_path / "1")
    document = report(tmp_path)
    found = table(part(document, "MRPC", "Scores"))
    assert found.columns[1:3] == ("split", "holdout")
    assert [text for text, _ in column(found, "holdout/accuracy")] == ["-", "0.6250"]
    assert "In 1 of 2 runs, training rows that were held out" in texts(document.sections[0])
    assert "Evaluated is the test or validation split" in texts(document.sections[0])


def test_the_masked_lm_loss_is_lower_the_better(tmp_path: Path) -> None:
    text = MaskedText(text="text.txt")
    write_run(tmp_path / "0", Full(), scores={**MRPC, "masked_lm_loss": 3.5}, masked_text=text, masked_lm_loss=2.5)
    write_run(tmp_path / "1", LoRA(), scores={**MRPC, "masked_lm_loss": 2.75}, masked_text=text, masked_lm_loss=2.5)
    found = table(part(report(tmp_path), "MRPC", "Scores"))
    assert column(found, "masked lm loss") == [("3.5000", False), ("2.7500", True)]


def test_mnli_shows_both_sets_and_no_confusion(tmp_path: Path) -> None:
    scores = {f"{split}/{name}": 0.5 for split in ("mismatched", "matched") for name in ("accuracy", "loss")}
    write_run(tmp_path, task="mnli", scores=scores)
    document = report(tmp_path)
    names = ("matched/accuracy", "matched/loss", "mismatched/accuracy", "mismatched/loss")
    assert table(part(document, "MNLI", "Scores")).columns[2:] == names
    assert "3 classes" in texts(part(document, "MNLI", "Confusion matrices"))


def test_confusion_matrices_are_means_over_seeds(tmp_path: Path) -> None:
    write_run(tmp_path / "0", seed=0, scores=metrics(tn=80, fp=49, fn=25, tp=254))
    write_run(tmp_path / "1", seed=1, scores=metrics(tn=81, fp=48, fn=20, tp=259))
    write_run(tmp_path / "2", BitFit(), scores={"accuracy": 0.5})
    section = part(report(tmp_path), "MRPC", "Confusion matrices")
    (row,) = (block for block in section.blocks if isinstance(block, Row))
    (matrix,) = row.blocks
    assert isinstance(matrix, Table)
    assert matrix.caption == "lora"
    counts = [[cell.text for cell in cells[1:]] for cells in matrix.rows]
    assert counts == [["80.5 (62%)", "48.5 (38%)"], ["22.5 (8%)", "256.5 (92%)"]]
    assert matrix.rows[1][2].shade == 256.5 / 279
    assert "No matrix for bitfit: precision and recall are missing" in texts(section)


def test_a_regression_and_a_task_without_labels(tmp_path: Path) -> None:
    write_run(tmp_path / "stsb", task="stsb", scores={"pearson": 0.8, "spearman": 0.7, "mse": 0.1})
    write_run(tmp_path / "ax", task="ax", adapter="an/adapter", scores=None, losses=())
    document = report(tmp_path)
    assert "scores and not classes" in texts(part(document, "STS-B", "Confusion matrices"))
    ax = document.sections[-1]
    assert [each.title for each in ax.parts] == ["Size and time", "Runs and commands"]
    assert "no labels" in texts(ax)


def test_size_time_and_every_run(tmp_path: Path) -> None:
    for seed in range(2):
        timing = {"total_seconds": 300.0, "train_seconds": 100.0 + 100 * seed}
        write_run(tmp_path / str(seed), seed=seed, timing=timing, trainable=74_498, data=offline(), hardware=HARDWARE)
    document = report(tmp_path)
    (row,) = table(part(document, "MRPC", "Size and time")).rows
    texts_of = [cell.text for cell in row]
    assert texts_of == ["lora", "74,498", "0.328%", "-", "150 ± 70.7", "-", "300 ± 0.00"]
    runs = part(document, "MRPC", "Runs and commands")
    assert [cell.text for cell in table(runs).rows[1]] == [
        *("1", "lora", "1", f"{(MRPC['accuracy'] + MRPC['f1']) / 2:.4f}", "4", "sample"),
        *("jax 0.10.2 keras 3.15.1 kpeft 0.1.0", "2 x L4 (gpu); A processor, 8 cores"),
    ]
    commands = next(block for block in runs.blocks if isinstance(block, Commands))
    assert [name for name, _ in commands.lines] == ["0", "1"]
    assert commands.lines[1][1].endswith("--seed 1 --offline")
    assert SAMPLE in texts(document.sections[0])


def test_repeated_seeds_and_lost_commands_are_said(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, LoRA(targets=("query",)))
    section = report(tmp_path).sections[0]
    assert "several runs of seed 0" in texts(section)
    lost = next(block for block in section.parts[-1].blocks if isinstance(block, Points))
    assert lost.items[0].startswith("No command makes a again: targets=")


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yields every place in a JSON value: (its container, its key)."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


@pytest.mark.parametrize(
    "odd", [None, [], {}, "x", -1, True, 10**400, float("nan"), [[1]]], ids=lambda odd: str(odd)[:5]
)
def test_no_value_anywhere_in_a_result_breaks_the_report(tmp_path: Path, odd: Any) -> None:
    content = json.loads((write_run(tmp_path / "good", LoRA(layers=(1,)) + BitFit()) / "result.json").read_text())
    for index in range(len(list(places(content)))):
        changed = json.loads(json.dumps(content))
        container, key = list(places(changed))[index]
        container[key] = odd
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "result.json").write_text(json.dumps(changed))
    found = collect(tmp_path)
    document = build(found, "last")
    assert "good" in to_markdown(document, "")
    assert "good" in to_html(document)
    assert len({note.partition(":")[0] for note in found.notes}) > 20  # of all places; a run that is odd is noted


def test_runs_that_learned_from_others_are_compared_wherever_those_lie(tmp_path: Path) -> None:
    for side in ("a", "b"):
        taught = Distillation(teacher=f"runs/{side}/full/adapter")
        write_run(tmp_path / side / "taught", distillation=taught)
        write_run(tmp_path / side / "alone")
    write_run(tmp_path / "b" / "warm", adapter="runs/b/mnli/adapter")
    (section,) = compare(collect(tmp_path / "a"), collect(tmp_path / "b"), "last").sections
    scores = next(block for block in section.blocks if isinstance(block, Table))
    assert len({row[0].text for row in scores.rows}) == 2
    (only,) = (block for block in section.blocks if isinstance(block, Points))
    assert len(only.items) == 1


def test_two_folders_are_compared(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.7, 0.8)):
        write_run(tmp_path / "a" / str(seed), scores={"accuracy": accuracy, "f1": accuracy, "loss": 0.5}, seed=seed)
    timing = {"train_seconds": 100.0, "train_examples_per_second": 180.0}
    write_run(tmp_path / "b" / "run", scores={"accuracy": 0.9, "f1": 0.8, "loss": 0.6}, seed=5, timing=timing)
    write_run(tmp_path / "a" / "bitfit", BitFit())
    write_run(tmp_path / "b" / "rank", LoRA(rank=2))
    document = compare(collect(tmp_path / "a"), collect(tmp_path / "b"), "last")
    (section,) = document.sections
    scores, times = (block for block in section.blocks if isinstance(block, Table))
    assert [[cell.text for cell in row] for row in scores.rows] == [
        ["lora, rank 8", "accuracy", "0.7500 ± 0.0707", "0.9000", "+0.1500", "2", "1"],
        ["lora, rank 8", "f1", "0.7500 ± 0.0707", "0.8000", "+0.0500", "2", "1"],
        ["lora, rank 8", "loss", "0.5000 ± 0.0000", "0.6000", "+0.1000", "2", "1"],
    ]
    assert [[cell.best for cell in row[2:4]] for row in scores.rows] == [[False, True], [False, True], [True, False]]
    (pictures,) = (block for block in section.blocks if isinstance(block, Row))
    (figure,) = pictures.blocks
    assert isinstance(figure, Figure)
    assert [[cell.text for cell in row] for row in figure.data.rows] == [["lora, rank 8", "0.7500 ± 0.0707", "0.8500"]]
    assert [name for _, name in figure.key] == ["A", "B"]
    ratios = {row[1].text: row[4].text for row in times.rows}
    assert ratios == {"examples/s": "2.00", "training s": "0.50", "compilation s": "-", "whole run s": "-"}
    assert [block for block in section.blocks if isinstance(block, Text | Points)] == [
        *(Text("Hardware of A: not recorded."), Text("Hardware of B: not recorded.")),
        *(Text("Only in A:"), Points(("bitfit",)), Text("Only in B:"), Points(("lora, rank 2",))),
    ]


def test_made_up_rows_and_real_ones_do_not_compete(tmp_path: Path) -> None:
    offline = DataConfig(offline=True)
    write_run(tmp_path / "a" / "sample", scores={"accuracy": 0.99, "f1": 0.99}, data=offline)
    assert first_paragraph(tmp_path).endswith(SAMPLE)
    write_run(tmp_path / "a" / "lora", scores={"accuracy": 0.8, "f1": 0.8})
    write_run(tmp_path / "a" / "bitfit", BitFit(), scores={"accuracy": 0.7, "f1": 0.7})
    assert "In 1 of 3 runs the rows are made up" in first_paragraph(tmp_path)
    (table, *_) = build(collect(tmp_path), "last").sections[0].parts[0].blocks
    assert isinstance(table, Table)
    accuracy = table.columns.index("accuracy")
    assert [row[accuracy].text for row in table.rows if row[accuracy].best] == ["0.8000"]
    # Nor are they one configuration where the folder of rows does not count.
    write_run(tmp_path / "b" / "lora", scores={"accuracy": 0.9, "f1": 0.9}, hardware=HARDWARE)
    (section,) = compare(collect(tmp_path / "a"), collect(tmp_path / "b"), "last").sections
    (scores, *_) = (block for block in section.blocks if isinstance(block, Table))
    assert [[cell.text for cell in row[1:4]] for row in scores.rows] == [
        *(["accuracy", "0.8000", "0.9000"], ["f1", "0.8000", "0.9000"]),
    ]
    first, second = (block.text for block in section.blocks[:2] if isinstance(block, Text))
    assert first.startswith("Hardware of A: not recorded. In 1 of 3 runs the rows are made up")
    assert second == "Hardware of B: 2 x L4 (gpu); A processor, 8 cores."


def test_runs_at_once_and_on_different_machines_are_told(tmp_path: Path) -> None:
    write_run(tmp_path / "lora/seed=0", hardware=HARDWARE)
    write_run(tmp_path / "lora/seed=1", seed=1, hardware={**HARDWARE, "processor": "Another"})
    write_run(tmp_path / "bitfit/seed=0", BitFit(), hardware=HARDWARE)
    assert "seconds of all" not in first_paragraph(tmp_path)
    listed = {"schema": 1, "runs": [{"folder": "seed=0", "status": "finished", "error": None}]}
    (tmp_path / "bitfit/runs.json").write_text(json.dumps(listed))
    said = first_paragraph(tmp_path)
    assert "Runs that were trained at once each show the seconds of all of them." in said
    assert "The runs of lora differ in hardware or versions" in said
    assert "runs of bitfit differ" not in said


def first_paragraph(folder: Path) -> str:
    (text, *_) = build(collect(folder), "last").sections[0].blocks
    assert isinstance(text, Text)
    return text.text


def test_cost_is_drawn_against_rank(tmp_path: Path) -> None:
    for rank in (1, 8):
        write_run(
            tmp_path / str(rank), LoRA(rank=rank), trainable=1000 * rank, timing={**TIMING, "train_seconds": 9.0 + rank}
        )
    groups = group(collect(tmp_path).runs)
    drawn = {figure.title: figure.data for figure in score_figures(groups, labels(groups), "last")}
    for title, unit, numbers in (
        ("Trained parameters against rank", "trained parameters", ["1k", "8k"]),
        ("Training seconds against rank", "training seconds", ["10", "17"]),
    ):
        assert drawn[title].columns == ("method", "rank", unit)
        assert [(row[1].text, row[2].text) for row in drawn[title].rows] == list(zip("18", numbers, strict=True))


def test_the_answer_comes_first_and_a_damaged_one_is_noted(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    answer = table_of("Which?", ["method", "score"], [["lora", "1"], ["full", "2"]])
    write_answer(tmp_path, answer)
    assert build(collect(tmp_path), "last").sections[0] == Section(title="Answer", blocks=(answer,))
    whole = json.loads((tmp_path / ANSWER).read_text())
    for damaged in (
        '{"caption',
        "[]",
        json.dumps({**whole, "rows": [["one text"]]}),
        json.dumps({**whole, "columns": [1, 2]}),
    ):
        (tmp_path / ANSWER).write_text(damaged)
        found = collect(tmp_path)
        assert found.answer is None
        assert found.notes[0].startswith("answer.json ")
        assert len(found.runs) == 1
