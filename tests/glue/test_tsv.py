from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from kpeft.glue.sources import SampleSource, TfdsSource, TsvSource, open_source
from kpeft.glue.tasks import TASKS, get_task

GLUE = os.environ.get("KPEFT_GLUE_DIR")
needs_glue = pytest.mark.skipif(not GLUE, reason="KPEFT_GLUE_DIR is not set")

HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
PAIR = "1\t1\t2\tA cat sat .\tThere sat a cat .\n"


def write(folder: Path, name: str, text: str | bytes) -> TsvSource:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return TsvSource(folder)


@pytest.mark.parametrize(
    ("task", "split", "file", "text", "texts", "labels"),
    [
        (
            "cola",
            "train",
            "CoLA/train.tsv",
            "gj\t1\t\tHe left .\ngj\t0\t*\tHe leaves left .",
            [["He left .", "He leaves left ."]],
            [1, 0],
        ),
        ("cola", "validation", "CoLA/dev.tsv", "sentence\tlabel\nHe left .\t1\n", [["He left ."]], [1]),
        ("cola", "test", "CoLA/test.tsv", "index\tsentence\n0\tHe left .\n", [["He left ."]], [-1]),
        (
            "sst2",
            "train",
            "SST-2/train.tsv",
            'sentence\tlabel\n" fine \t1\nbad " "\t0\n',
            [['" fine ', 'bad " "']],
            [1, 0],
        ),
        (
            "sst2",
            "train",
            "sst2/train.tsv",
            "label\tsentence\nnegative\tbad\npositive\tfine\n",
            [["bad", "fine"]],
            [0, 1],
        ),
        ("mrpc", "train", "MRPC/train.tsv", HEADER + PAIR, [["A cat sat ."], ["There sat a cat ."]], [1]),
        ("mrpc", "train", "mrpc/train.tsv", "\ufeff" + HEADER + PAIR, [["A cat sat ."], ["There sat a cat ."]], [1]),
        (
            "mrpc",
            "test",
            "MRPC/test.tsv",
            "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\ta\tb\n",
            [["a"], ["b"]],
            [-1],
        ),
        (
            "mrpc",
            "test",
            "MRPC/msr_paraphrase_test.txt",
            "\ufeff" + HEADER + PAIR,
            [["A cat sat ."], ["There sat a cat ."]],
            [1],
        ),
        (
            "stsb",
            "train",
            "STS-B/train.tsv",
            "sentence1\tsentence2\tscore\r\na\tb\t3.800\r\n\r\n",
            [["a"], ["b"]],
            [3.8],
        ),
        ("stsb", "test", "STS-B/test.tsv", "index\tsentence1\tsentence2\n0\ta\tb\n", [["a"], ["b"]], [-1]),
        ("qqp", "train", "QQP/train.tsv", "id\tquestion1\tquestion2\tis_duplicate\n7\ta\tb\t1\n", [["a"], ["b"]], [1]),
        (
            "mnli",
            "train",
            "MNLI/train.tsv",
            "sentence1\tsentence2\tlabel1\tgold_label\na\tb\tneutral\tcontradiction\n",
            [["a"], ["b"]],
            [2],
        ),
        (
            "mnli",
            "validation_mismatched",
            "MNLI/dev_mismatched.tsv",
            "sentence1\tsentence2\tgold_label\na\tb\tneutral\n",
            [["a"], ["b"]],
            [1],
        ),
        ("mnli", "test_matched", "MNLI/test_matched.tsv", "sentence1\tsentence2\na\tb\n", [["a"], ["b"]], [-1]),
        (
            "qnli",
            "train",
            "QNLI/train.tsv",
            "index\tquestion\tsentence\tlabel\n0\ta\tb\tentailment\n",
            [["a"], ["b"]],
            [0],
        ),
        (
            "rte",
            "validation",
            "RTE/dev.tsv",
            "sentence2\tsentence1\tlabel\nb\ta\tnot_entailment\n",
            [["a"], ["b"]],
            [1],
        ),
        ("wnli", "train", "WNLI/train.tsv", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n", [["a"], ["b"]], [1]),
        ("ax", "test", "AX/diagnostic.tsv", "index\tsentence1\tsentence2\n0\ta\tb\n", [["a"], ["b"]], [-1]),
        (
            "ax",
            "test",
            "diagnostic/diagnostic.tsv",
            "sentence1\tsentence2\tlabel\na\tb\tneutral\n",
            [["a"], ["b"]],
            [1],
        ),
    ],
)
def test_reads(
    tmp_path: Path, task: str, split: str, file: str, text: str, texts: list[list[str]], labels: list[float]
) -> None:
    rows = write(tmp_path, file, text).rows(get_task(task), split)
    assert list(rows.texts) == texts
    expected = np.asarray(labels, np.float32 if task == "stsb" else np.int32)
    np.testing.assert_array_equal(rows.labels, expected)
    assert rows.labels.dtype == expected.dtype
    assert len(rows) == len(labels)


def test_rare_line_separators_stay_in_the_sentence(tmp_path: Path) -> None:
    text = "sentence\tlabel\none\u2028two\x85three\x0bfour\t1\n"
    rows = write(tmp_path, "SST-2/train.tsv", text).rows(get_task("sst2"), "train")
    assert rows.texts == (["one\u2028two\x85three\x0bfour"],)


def test_labelled_test_rows_go_before_hidden_ones(tmp_path: Path) -> None:
    write(tmp_path, "MRPC/test.tsv", "index\t#1 String\t#2 String\n0\ta\tb\n")
    source = write(tmp_path, "MRPC/msr_paraphrase_test.txt", HEADER + PAIR)
    assert source.rows(get_task("mrpc"), "test").labels.tolist() == [1]


def test_broken_lines_of_qqp_are_left_out_and_told(tmp_path: Path) -> None:
    text = "id\tquestion1\tquestion2\tis_duplicate\n1\ta\tb\n2\tc\td\t0\nrest\t1\n"
    source = write(tmp_path, "QQP/train.tsv", text)
    with pytest.warns(UserWarning, match=r"QQP.train.tsv: left out 2 broken lines, the first is line 2"):
        rows = source.rows(get_task("qqp"), "train")
    assert rows.texts == (["c"], ["d"])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "MRPC/train.tsv",
            HEADER + PAIR + "yes\t1\t2\ta\tb\n",
            "train.tsv, line 3: a label of MRPC is not_equivalent or equivalent or 0 or 1. Received: 'yes'",
        ),
        ("MRPC/train.tsv", HEADER + "-1\t1\t2\ta\tb\n", "line 2: a label of MRPC .* Received: '-1'"),
        (
            "MRPC/train.tsv",
            HEADER + PAIR + "1\t1\t2\tonly one\n",
            r"line 3: a row has 5 tab-separated fields \(Quality, #1 ID, .*\). Received: 4",
        ),
        ("MRPC/train.tsv", HEADER + PAIR.strip() + "\tmore\n", "line 2: .* Received: 6"),
        (
            "MRPC/train.tsv",
            "Quality\t#1 String\n1\ta\n",
            "line 1: no column '#2 String' or 'sentence2'. Found: 'Quality', '#1 String'",
        ),
        (
            "MRPC/train.tsv",
            "#1 String\t#2 String\na\tb\n",
            "line 1: no column 'Quality' or 'label'. Found: '#1 String', '#2 String'",
        ),
        ("MRPC/train.tsv", HEADER, "the train split is empty"),
        ("MRPC/train.tsv", "", "the file is empty"),
        (
            "MRPC/train.tsv",
            HEADER.encode() + b"1\t1\t2\tcaf\xe9 \tb\n",
            "line 2: not UTF-8; .* Received: byte 0xe9 at offset 49",
        ),
        (
            "MRPC/train.tsv",
            b"\xef\xbb\xbf" + HEADER.encode() + b"1\t1\t2\t\xff\tb\n",
            "line 2: .* byte 0xff at offset 49",
        ),
        ("MRPC/dev.tsv", HEADER + PAIR, "MRPC has no train.tsv, the train split of MRPC. Found: dev.tsv"),
        ("RTE/train.tsv", "x", r"has no folder MRPC for mrpc; Found: RTE$"),
        ("README", "x", r"has no folder MRPC for mrpc; Found: README$"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, file: str, text: str | bytes, message: str) -> None:
    source = write(tmp_path, file, text)
    with pytest.raises(ValueError, match=message) as caught:
        source.rows(get_task("mrpc"), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("score", ["5.1", "-0.5", "nan", "inf", "", "good"])
def test_scores_outside_0_to_5(tmp_path: Path, score: str) -> None:
    source = write(tmp_path, "STS-B/train.tsv", f"sentence1\tsentence2\tscore\na\tb\t{score}\n")
    with pytest.raises(ValueError, match=f"line 2: a label of STS-B is a number from 0 to 5. Received: '{score}'"):
        source.rows(get_task("stsb"), "train")


def test_the_task_folder_given_instead_of_the_one_above(tmp_path: Path) -> None:
    write(tmp_path, "MRPC/train.tsv", HEADER + PAIR)
    with pytest.raises(ValueError, match=f"give the folder above it, {re.escape(str(tmp_path))}. Found: train.tsv"):
        TsvSource(tmp_path / "MRPC").rows(get_task("mrpc"), "train")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a folder.*Received: '.*nowhere'"):
        TsvSource(tmp_path / "nowhere")


def test_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"RTE has the splits train, validation, test. Received: split='dev'"):
        TsvSource(tmp_path).rows(get_task("rte"), "dev")


def test_open_source(tmp_path: Path) -> None:
    assert isinstance(open_source(data_dir=str(tmp_path), tfds_dir=None, offline=True), TsvSource)
    assert isinstance(open_source(data_dir=None, tfds_dir=None, offline=True), SampleSource)
    assert isinstance(open_source(data_dir=None, tfds_dir=str(tmp_path), offline=False), TfdsSource)
    with pytest.raises(ValueError, match="two sources"):
        open_source(data_dir=None, tfds_dir=str(tmp_path), offline=True)


@needs_glue
@pytest.mark.parametrize(
    ("name", "split", "count", "sums"),
    [
        ("cola", "train", 8551, 6023),
        ("cola", "validation", 1043, 721),
        ("cola", "test", 1063, -1063),
        ("sst2", "train", 67349, 37569),
        ("sst2", "validation", 872, 444),
        ("mrpc", "train", 3668, 2474),
        ("mrpc", "validation", 408, 279),
        ("mrpc", "test", 1725, 1147),
        ("stsb", "train", 5749, None),
        ("stsb", "validation", 1500, None),
        ("stsb", "test", 1379, -1379),
        ("rte", "train", 2490, 1241),
        ("rte", "validation", 277, 131),
        ("rte", "test", 3000, -3000),
    ],
)
def test_real_rows(name: str, split: str, count: int, sums: int | None) -> None:
    assert GLUE is not None
    rows = TsvSource(GLUE).rows(TASKS[name], split)
    assert len(rows) == count
    assert all(text.strip() and "\t" not in text for column in rows.texts for text in column)
    if sums is None:
        assert 0 <= rows.labels.min() < rows.labels.max() <= 5
    else:
        assert rows.labels.sum() == sums


@needs_glue
def test_real_rows_keep_bare_quotes_and_their_order() -> None:
    assert GLUE is not None
    rows = TsvSource(GLUE).rows(TASKS["mrpc"], "train")
    assert rows.texts[0][0].endswith('" the witness " , of deliberately distorting his evidence .')
    assert rows.labels[:3].tolist() == [1, 0, 1]
