"""Recipes: what they run, what they leave out on a second go, and the table of published scores."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from finished_runs import write_result

import kpeft
from experiments import glue_table, parameters, rank_sweep, roberta_cost
from experiments.benchmarks.cost import Encoder
from experiments.flags import parse
from experiments.glue_scores import PUBLISHED, table
from experiments.pivot import pivot
from experiments.recipe import Run, Sweep, is_done, jobs_of, make, runs_of
from experiments.runs import Job
from kpeft.backbones.minilm import minilm_folder
from kpeft.config import RunConfig
from kpeft.glue.tasks import get_task
from kpeft.report.answer import ANSWER, read_answer
from kpeft.report.document import Table
from kpeft.results import FILE
from kpeft.run import make_configs, make_parser

RECIPES = {
    "rank_sweep": ("mrpc", "sst2"),
    "bitfit_vs_lora": ("sst2", "stsb", "mrpc"),
    "roberta_cost": ("sst2", "rte", "mrpc"),
    "query_lora": ("sst2", "mrpc"),
    "learning_rates": ("mrpc", "rte"),
    "small_data": ("mrpc", "rte"),
    "glue_table": glue_table.TASKS,
}


TEXT = ("--text", "a b.txt", "--tasks", "rte")


def options(name: str, *arguments: str) -> argparse.Namespace:
    module = importlib.import_module(f"experiments.{name}")
    own, settle = (getattr(module, part, None) for part in ("add_flags", "settle"))
    return parse("", RECIPES[name], add_flags=own, settle=settle, arguments=arguments)


def sweeps(name: str, *arguments: str) -> list[Sweep]:
    found: list[Sweep] = importlib.import_module(f"experiments.{name}").sweeps(options(name, *arguments))
    return found


@pytest.mark.parametrize(
    "arguments", [(), ("--offline",), ("--preset", "minilm", "--data-dir", "glue", "--limit", "9")]
)
@pytest.mark.parametrize("name", RECIPES)
def test_every_run_is_one_of_kpeft_run(name: str, arguments: tuple[str, ...]) -> None:
    if name == "query_lora" and not arguments:  # of the test labels, only a folder has those
        with pytest.raises(ValueError, match="MRPC's test labels are in no tensorflow-datasets: give --data-dir"):
            sweeps(name)
        return
    runs = [run for sweep in sweeps(name, *arguments) for run in runs_of(sweep, options(name, *arguments))]
    configs = [run.config() for run in runs]
    assert len({run.folder for run in runs}) == len(runs) > 3
    assert {config.task for config in configs} == set(RECIPES[name])
    if "--preset" in arguments:
        assert {(config.preset, config.data.data_dir, config.data.limit) for config in configs} == {
            ("minilm", "glue", 9)
        }
    if "--offline" in arguments:
        assert all(config.preset == "minilm" and config.data.offline for config in configs)


@pytest.mark.parametrize("name", ["rank_sweep", "learning_rates"])
@pytest.mark.parametrize("seeds", [("3", "5"), ("3",)])
def test_runs_at_once_are_the_same_runs_in_the_same_folders(name: str, seeds: tuple[str, ...], tmp_path: Path) -> None:
    at_once = options(name, "--at-once", "--output", str(tmp_path), "--seeds", *seeds)
    for sweep in sweeps(name):
        runs = runs_of(sweep, at_once)
        if len(runs) == 1:
            continue
        (job,) = jobs_of(runs, at_once)
        together = make_configs(make_parser().parse_args(job.flags))
        assert [Path(config.output_dir) for config in together] == [run.folder for run in runs]
        assert [config.to_json() for config in together] == [run.config().to_json() for run in runs]


def test_what_cannot_be_trained_at_once_is_trained_singly(tmp_path: Path) -> None:
    flags = options("small_data", "--at-once", "--output", str(tmp_path), "--tasks", "rte", "--seeds", "0", "1")
    jobs = {sweep.name: jobs_of(runs_of(sweep, flags), flags) for sweep in sweeps("small_data", "--tasks", "rte")}
    assert (len(jobs["rte-lora"]), len(jobs["rte-lora-distilled"])) == (1, 2)


def test_what_starts_from_another_run_waits_for_its_end(tmp_path: Path) -> None:
    flags = options("small_data", "--output", str(tmp_path), "--tasks", "rte", "--seeds", "3", "5")
    for sweep in sweeps("small_data", "--output", str(tmp_path), "--tasks", "rte"):
        needs = [job.needs for job in jobs_of(runs_of(sweep, flags), flags)]
        taught = [tmp_path / "rte-full" / f"seed={seed}" / FILE for seed in (3, 5)]
        assert needs == (taught if sweep.name == "rte-lora-distilled" else [None, None])


def test_a_text_shows_what_each_method_forgets_and_one_rehearses_it() -> None:
    assert all(run.config().masked_text is None for sweep in sweeps("small_data") for run in _runs(sweep))
    flags = options("small_data", *TEXT)
    found = {sweep.name: runs_of(sweep, flags)[0].config().masked_text for sweep in sweeps("small_data", *TEXT)}
    assert {masked and masked.text for masked in found.values()} == {"a b.txt"}
    assert {name for name, masked in found.items() if masked and masked.rehearsal} == {"rte-full-rehearsal"}


def config_of(name: str, sweep: str, *arguments: str) -> RunConfig:
    flags = options(name, *arguments)
    return next(runs_of(each, flags)[0].config() for each in sweeps(name, *arguments) if each.name == sweep)


def test_settings_are_those_of_the_reports_and_papers() -> None:
    def said(config: RunConfig, *names: str) -> list[Any]:
        return [getattr(config.training, name) for name in names]

    sst2 = config_of("bitfit_vs_lora", "sst2-lora")
    assert (sst2.preset, *said(sst2, "epochs", "learning_rate", "batch_size", "warmup", "weight_decay", "keep")) == (
        *("bert_base_en_uncased", 3, 1e-4, 8, 50, 1e-4, 2),
    )
    assert said(sst2, "eval_steps", "save_steps") == [500, 500]
    full = config_of("bitfit_vs_lora", "sst2-full")
    assert said(full, "epochs", "learning_rate", "batch_size", "warmup", "weight_decay") == [10, 3e-5, 16, 50, 0]
    assert said(full, "adam_epsilon", "eval_steps") == [1e-6, 50]
    stsb = config_of("bitfit_vs_lora", "stsb-bitfit")
    assert (stsb.preset, *said(stsb, "epochs", "learning_rate", "batch_size", "warmup", "weight_decay")) == (
        *("roberta_base_en", 10, 2e-5, 16, 200, 0.1),
    )
    stsb = config_of("bitfit_vs_lora", "stsb-full")
    assert said(stsb, "learning_rate", "warmup", "weight_decay", "eval_steps") == [3e-5, 50, 0, 150]
    ranks = config_of("rank_sweep", "mrpc-lora-all-linear")
    assert isinstance(ranks.method, kpeft.LoRA)
    assert (ranks.method.alpha, ranks.method.dropout) == (32, 0.1)
    assert said(ranks, "epochs", "batch_size", "gradient_accumulation", "weight_decay") == [10, 16, 4, 0.01]
    assert said(config_of("rank_sweep", "mrpc-bitfit"), "learning_rate") == [5e-4]
    assert said(config_of("rank_sweep", "sst2-bitfit"), "learning_rate", "epochs") == [5e-3, 1]
    cost = config_of("roberta_cost", "sst2-lora")
    assert isinstance(cost.method, kpeft.LoRA)
    assert (cost.method.rank, cost.method.alpha, *said(cost, "epochs", "batch_size")) == (8, 8, 3, 16)
    for task in ("rte", "mrpc"):
        for head, trained in (("trained", True), ("random", False)):
            cost = config_of("roberta_cost", f"{task}-bitfit-{head}-head")
            assert cost.method is not None
            assert (cost.method.train_head, *said(cost, "learning_rate")) == (trained, 5e-5)
    query = config_of("query_lora", "mrpc-lora", "--data-dir", "glue")
    assert isinstance(query.method, kpeft.LoRA)
    assert (query.method.targets, query.data.split) == ("query", "test")
    assert said(query, "learning_rate", "schedule", "batch_size", "epochs", "weight_decay") == [
        *(1e-3, "linear", 16, 5, 0.01),
    ]
    bitfit = config_of("glue_table", "rte-bitfit", "--protocol", "paper")
    assert said(bitfit, "learning_rate", "schedule", "warmup", "weight_decay", "batch_size", "epochs", "clip_norm") == [
        *(1e-3, "constant", 0, 0, 8, 16, 1),
    ]
    lora = config_of("glue_table", "cola-lora", "--protocol", "paper")
    assert said(lora, "batch_size", "learning_rate", "epochs", "warmup", "weight_decay") == [64, 4e-4, 80, 0.06, 0.1]
    assert lora.data.max_length == 512


def test_protocols_have_their_own_seeds_folder_and_start(tmp_path: Path) -> None:
    paper, fast = (options("glue_table", "--protocol", protocol) for protocol in ("paper", "fast"))
    assert (list(paper.seeds), list(fast.seeds)) == ([0, 1, 2, 3, 4], [0, 1, 2])
    assert paper.output != fast.output
    assert {run.config().preset for s in glue_table.sweeps(fast) for run in runs_of(s, fast)} == {"roberta_base_en"}
    alone = ("--protocol", "paper", "--tasks", "rte", "--output", str(tmp_path))
    with pytest.raises(ValueError, match="add mnli to --tasks"):
        sweeps("glue_table", *alone)
    (tmp_path / "mnli-lora" / "seed=0" / "adapter").mkdir(parents=True)
    with pytest.raises(ValueError, match="add mnli to --tasks"):  # the run has been broken off
        sweeps("glue_table", *alone, "--seeds", "0")
    (tmp_path / "mnli-lora" / "seed=0" / FILE).touch()
    adapter = config_of("glue_table", "rte-lora", *alone, "--seeds", "0").adapter
    assert adapter == str(tmp_path / "mnli-lora" / "seed=0" / "adapter")


def test_any_method_can_stand_in_the_table_but_papers_have_settings_of_three() -> None:
    chosen = ("--tasks", "rte", "--methods", "ia3", "lora", "ia3")
    runs = [runs_of(sweep, options("glue_table", *chosen))[0] for sweep in sweeps("glue_table", *chosen)]
    assert [run.name for run in runs] == ["rte-ia3 seed=0", "rte-lora seed=0"]
    assert isinstance(runs[0].config().method, kpeft.IA3)
    with pytest.raises(ValueError, match="has settings of full, bitfit, lora, none of ia3"):
        sweeps("glue_table", *chosen, "--protocol", "paper")
    paper = sweeps("glue_table", "--protocol", "paper", "--tasks", "rte", "--methods", "full", "bitfit")
    assert [sweep.name for sweep in paper] == ["rte-full", "rte-bitfit"]  # only LoRA starts from MNLI


def test_the_ranks_of_the_report_and_what_its_bitfit_trains() -> None:
    configs = [run.config() for sweep in rank_sweep.sweeps(options("rank_sweep")) for run in _runs(sweep)]
    ranks = {getattr(config.method, "rank", None) for config in configs}
    assert ranks == {None, 1, 4, 8, 16, 32}
    assert {config.training.gradient_accumulation * config.training.batch_size for config in configs} == {64}
    assert {c.method.train_head for c in configs if c.method and c.method.name == "bitfit"} == {True, False}


def _runs(sweep: Sweep) -> list[Run]:
    return runs_of(sweep, options("rank_sweep"))


def test_a_second_go_makes_what_is_missing(tmp_path: Path) -> None:
    flags = options("rank_sweep", "--output", str(tmp_path), "--seeds", "0", "1", "2")
    runs = runs_of(Sweep("mrpc-lora", "--task mrpc --method lora"), flags)
    write_result(runs[0], accuracy=0.8)
    (runs[1].folder / "checkpoints" / "step-00000005").mkdir(parents=True)
    assert [is_done(run) for run in runs] == [True, False, False]
    jobs = jobs_of(runs, flags)
    assert [(job.name, job.flags[-1]) for job in jobs] == [
        ("mrpc-lora seed=1", "--resume"),
        ("mrpc-lora seed=2", "--overwrite"),
    ]
    flags.at_once = True  # some are there: the others are made singly
    assert jobs_of(runs, flags) == jobs


def test_what_an_older_version_did_not_write_is_at_its_default(tmp_path: Path) -> None:
    run = runs_of(Sweep("mrpc-lora", "--task mrpc --method lora"), options("rank_sweep", "--output", str(tmp_path)))[0]
    write_result(run, accuracy=0.8)
    content = json.loads((run.folder / FILE).read_text())
    for part, name in (("method", "gated"), ("data", "split"), ("training", "keep")):
        del content["config"][part][name]
    del content["config"]["masked_text"]
    (run.folder / FILE).write_text(json.dumps(content))
    assert is_done(run)
    content["config"]["method"]["dropout"] = 0.1
    (run.folder / FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="another method"):
        is_done(run)


def test_what_was_trained_at_once_stays_when_others_are_asked_for(tmp_path: Path) -> None:
    first, second = (
        options("rank_sweep", "--at-once", "--output", str(tmp_path), "--seeds", *seeds)
        for seeds in (("0", "1"), ("2", "3"))
    )
    sweep = Sweep("mrpc-lora", "--task mrpc --method lora")
    assert len(jobs_of(runs_of(sweep, first), first)) == 1
    for run in runs_of(sweep, first):
        write_result(run, accuracy=0.8)
    assert [job.flags[-1] for job in jobs_of(runs_of(sweep, second), second)] == ["--overwrite"] * 2
    assert all("seed=" in job.flags[-2] for job in jobs_of(runs_of(sweep, second), second))


def test_a_run_that_broke_off_in_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    flags = options("rank_sweep", "--output", str(tmp_path), "--seeds", "0", "0")
    (run,) = runs_of(Sweep("mrpc-lora", "--task mrpc --method lora"), flags)  # a seed given twice is one run
    (run.folder / "checkpoints" / "step-00000010.tmp").mkdir(parents=True)
    assert jobs_of([run], flags)[0].flags[-1] == "--overwrite"
    (run.folder / "checkpoints" / "step-00000005").mkdir()
    assert jobs_of([run], flags)[0].flags[-1] == "--resume"


def test_runs_of_other_options_are_not_taken_for_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Job] = []

    def take(jobs: list[Job], side_by_side: int) -> int:
        begun.extend(jobs)
        return 0

    monkeypatch.setattr("experiments.recipe.run_all", take)
    flags = options("rank_sweep", "--output", str(tmp_path), "--seeds", "0")
    sweep = Sweep("mrpc-lora", "--task mrpc --method lora")
    (run,) = runs_of(sweep, flags)
    write_result(run, accuracy=0.8)
    assert (make([sweep], flags), begun) == (0, [])
    flags.epochs = 2
    with pytest.raises(ValueError, match=r"seed=0 holds a run with another training: .*'epochs': 5.* --output"):
        make([sweep], flags)
    (run.folder / FILE).write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"result.json cannot be read .*: remove it"):
        make([sweep], flags)
    assert begun == []


def test_at_once_clears_no_checkpoint_of_another_seed(tmp_path: Path) -> None:
    flags = options("rank_sweep", "--at-once", "--output", str(tmp_path), "--seeds", "1", "2")
    sweep = rank_sweep.sweeps(flags)[0]
    assert len(jobs_of(runs_of(sweep, flags), flags)) == 1
    (tmp_path / sweep.name / "seed=0,rank=1" / "checkpoints" / "step-00000010").mkdir(parents=True)
    jobs = jobs_of(runs_of(sweep, flags), flags)
    assert len(jobs) == len(runs_of(sweep, flags)) > 1


def test_an_answer_says_of_which_runs_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    recipe = importlib.import_module("experiments.recipe")
    left: list[bool] = []

    def take(jobs: list[Job], side_by_side: int) -> int:
        left.append((tmp_path / ANSWER).exists())
        return 0

    monkeypatch.setattr("experiments.recipe.run_all", take)

    def answer(*seeds: str) -> Table | None:
        arguments = ("--output", str(tmp_path), "--tasks", "mrpc", "--offline", "--seeds", *seeds)
        monkeypatch.setattr("sys.argv", ["rank_sweep", *arguments])
        with pytest.raises(SystemExit):
            recipe.main("", rank_sweep.sweeps, tasks=("mrpc", "sst2"), summary=pivot("rank"))
        return read_answer(tmp_path)

    assert answer("0") is None  # no run is there
    flags = options("rank_sweep", "--output", str(tmp_path), "--tasks", "mrpc", "--offline", "--seeds", "0")
    for run in (run for sweep in rank_sweep.sweeps(flags) for run in runs_of(sweep, flags)):
        write_result(run, accuracy=0.8)
    whole = answer("0")
    assert whole is not None
    assert whole.caption.endswith("(--tasks mrpc --seeds 0)")
    # Of more seeds it would be out of date while their runs are under way.
    more = answer("0", "1")
    assert more is not None
    assert more.caption.endswith("(--tasks mrpc --seeds 0 1)")
    assert left == [False, False, False]


def test_later_stages_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[list[str]] = []

    def take(jobs: list[Job], side_by_side: int) -> int:
        begun.append([job.name for job in jobs])
        return 1

    monkeypatch.setattr("experiments.recipe.run_all", take)
    arguments = ("--protocol", "paper", "--tasks", "mnli", "rte", "--seeds", "7", "--output", str(tmp_path))
    flags = options("glue_table", *arguments)
    assert make(sweeps("glue_table", *arguments), flags) == 1
    assert begun[1] == ["rte-lora seed=7"]
    assert "mnli-lora seed=7" in begun[0]
    (rte,) = [
        run for sweep in sweeps("glue_table", *arguments) for run in runs_of(sweep, flags) if "rte-lora" in run.name
    ]
    assert rte.config().adapter == str(tmp_path / "mnli-lora" / "seed=7" / "adapter")


def texts(answer: Table) -> list[list[str]]:
    assert all(len(row) == len(answer.columns) for row in answer.rows)
    return [[cell.text for cell in row] for row in answer.rows]


def test_the_table_of_published_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(get_task("rte").baseline, "accuracy", 0.75)  # between the median and the mean
    flags = options("glue_table", "--output", str(tmp_path), "--tasks", "mnli", "rte", "--seeds", "0", "1", "2")
    flags.methods.append("loha")
    every = {sweep.name: runs_of(sweep, flags) for sweep in glue_table.sweeps(flags)}
    write_result(every["rte-loha"][0], accuracy=0.625)
    for run, accuracy in zip(every["rte-lora"], (0.6, 0.7, 0.95), strict=True):
        write_result(run, accuracy=accuracy)
    names = [f"{half}/{name}" for half in ("matched", "mismatched") for name in ("accuracy", "f1")]
    write_result(every["mnli-full"][0], **dict.fromkeys(names, 0.85) | {"matched/accuracy": 0.75})
    folders: dict[str, Any] = {name: [run.folder for run in runs] for name, runs in every.items()}
    mean, median = (texts(table(folders, protocol)) for protocol in ("fast", "paper"))
    assert [row[:2] for row in mean] == [["mnli", "full"], ["rte", "lora"], ["rte", "loha"]]
    assert mean[0][3:8] == ["1", "accuracy", "0.800", "0.876", "-0.076"]
    assert mean[1][3:] == ["3", "accuracy", "0.750", "0.866", "-0.116", "accuracy 0.750 ≥ 0.75"]
    assert mean[2][3:] == ["1", "accuracy", "0.625", "-", "-", "accuracy 0.625 < 0.75"]
    assert median[1][5:] == ["0.700", "0.866", "-0.166", "accuracy 0.700 < 0.75"]
    assert all(row.keys() == set(glue_table.TASKS) for row in PUBLISHED.values())


def test_the_table_by_rank(tmp_path: Path) -> None:
    flags = options("rank_sweep", "--output", str(tmp_path), "--tasks", "mrpc", "--seeds", "0", "1")
    every = {sweep.name: runs_of(sweep, flags) for sweep in rank_sweep.sweeps(flags)}
    for run in every["mrpc-lora-query"]:
        if run.own["rank"] in (1, 4) and run.own != {"seed": 1, "rank": 4}:
            write_result(run, accuracy=0.5 + 0.1 * run.own["seed"])
    write_result(every["mrpc-bitfit"][0], accuracy=0.75)
    answer = pivot("rank")(flags, every)
    assert answer.columns == ("runs", "metric", "no rank", "1", "4", "8", "16", "32")
    assert texts(answer)[1:3] == [
        ["mrpc-lora-query", "accuracy", "-", "0.550 ± 0.071", "0.500 (1 of 2 runs)", "-", "-", "-"],
        ["mrpc-bitfit", "accuracy", "0.750 (1 of 2 runs)", "-", "-", "-", "-", "-"],
    ]


def test_the_table_of_costs(tmp_path: Path) -> None:
    flags = options("roberta_cost", "--output", str(tmp_path), "--tasks", "sst2", "--seeds", "0", "1")
    every = {sweep.name: runs_of(sweep, flags) for sweep in roberta_cost.sweeps(flags)}
    for run, accuracy in zip(every["sst2-lora"], (0.6, 0.7), strict=True):
        write_result(run, accuracy=accuracy)
    (row,) = texts(roberta_cost.summary(flags, every))
    # Twice 2P and three times 4 L d n, with P = 12 (4 d^2 + 8 d^2); A and B are 2 times 8 times 2 d in each layer.
    width, length = 768, 64
    operations = 4 * 12 * 12 * width**2 + 12 * 12 * width * length + 6 * 12 * 8 * 4 * width
    assert row == ["sst2-lora", "0.0005", "2", "1,234", f"{operations / 1e6:.0f}", "10", "20", "0.650"]


def test_operations_are_counted_for_the_encoder_as_it_is() -> None:
    try:
        folder = minilm_folder()
    except ValueError:
        pytest.skip("the minilm extra is not installed")
    config = json.loads((folder / "config.json").read_text())
    names = {"layers": "num_hidden_layers", "width": "hidden_size", "inner": "intermediate_size"}
    assert roberta_cost.SIZES["minilm"] == Encoder(**{field: config[name] for field, name in names.items()})


def test_refusals_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    flags = options("rank_sweep", "--output", str(tmp_path), "--seeds", "0", "--offline", "--tasks", "mrpc")
    run = runs_of(rank_sweep.sweeps(flags)[0], flags)[0]
    write_result(run, accuracy=0.8)
    content = json.loads((run.folder / FILE).read_text())
    content["config"]["precision"] = "bfloat16"
    (run.folder / FILE).write_text(json.dumps(content))
    monkeypatch.setattr("sys.argv", ["rank_sweep", *f"--output {tmp_path} --seeds 0 --offline --tasks mrpc".split()])
    recipe = importlib.import_module("experiments.recipe")
    with pytest.raises(SystemExit, match="2"):
        recipe.main("", rank_sweep.sweeps, tasks=("mrpc", "sst2"))
    assert capsys.readouterr().err.startswith("experiments: ")
    (tmp_path / "file").touch()
    for wrong, said in (
        (["--jobs", "0"], "--jobs 0: give 1"),
        (["--limit", "x"], "argument --limit: invalid int value: 'x'"),
        (["--tasks", "rte"], "argument --tasks: invalid choice: 'rte'"),
        (["--output", str(tmp_path / "file")], "is a file"),
    ):
        monkeypatch.setattr("sys.argv", ["rank_sweep", *wrong])
        with pytest.raises(SystemExit, match="2"):
            recipe.main("", rank_sweep.sweeps, tasks=("mrpc", "sst2"))
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("experiments: ")
        assert said in line


def test_the_counted_parameters_are_those_of_the_reports() -> None:
    rows = json.loads((Path(parameters.__file__).parent / "results/parameters/parameters.json").read_text())["rows"]
    counted = {(row["preset"], row["labels"], row["method"]): row["trainable"] for row in rows}
    asked = {
        (c.preset, get_task(c.task).num_classes, parameters.said(c.method)) for _, c in parameters.configs() if c.method
    }
    assert counted.keys() == asked
    bert = {method: count for (preset, _, method), count in counted.items() if preset == "bert_base_en_uncased"}
    assert [bert[f"lora --rank {rank} --targets query"] for rank in (1, 4, 16)] == [19_970, 75_266, 296_450]
    assert (bert["bitfit"], bert["bitfit --train-head false"]) == (104_450, 102_914)
    assert (bert["full"], bert["head"], bert["ia3 --train-head false"]) == (109_483_778, 1_538, 64_512)


def test_a_wrong_data_folder_is_refused_before_any_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("experiments.recipe.run_all", lambda *_: pytest.fail("begun"))
    monkeypatch.setattr(
        "sys.argv", ["rank_sweep", *f"--output {tmp_path / 'out'} --data-dir {tmp_path / 'no'}".split()]
    )
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module("experiments.recipe").main("", rank_sweep.sweeps, tasks=("mrpc", "sst2"))
    assert f"{str(tmp_path / 'no')!r} is no folder" in capsys.readouterr().err
