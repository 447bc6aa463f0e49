"""How GLUE lays out its TSV files: folders, file names and columns of each task."""

from __future__ import annotations

from dataclasses import dataclass

_FILES = {
    "train": ("train.tsv",),
    "validation": ("dev.tsv",),
    "validation_matched": ("dev_matched.tsv",),
    "validation_mismatched": ("dev_mismatched.tsv",),
    "test": ("test.tsv",),
    "test_matched": ("test_matched.tsv",),
    "test_mismatched": ("test_mismatched.tsv",),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The files of one task.

    Attributes:
        folders: Names of the task's folder, GLUE's own first; case does not matter.
        texts: For each field the names its column may have, GLUE's own first, then tfds'.
        label: The names the label's column may have.
        test: The files that may hold the test split, in the order they are looked for.
        headless: Columns of a file that has no header line; empty where every file has one.
        ragged_lines: Whether GLUE's own files hold broken lines, which every reader of them leaves out.
    """

    folders: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    label: tuple[str, ...] = ("label",)
    test: tuple[str, ...] = ("test.tsv",)
    headless: tuple[str, ...] = ()
    ragged_lines: bool = False

    def files(self, split: str) -> tuple[str, ...]:
        """Returns the names of the files that may hold a split."""
        return self.test if split == "test" else _FILES[split]


_SENTENCES = (("sentence1",), ("sentence2",))
_NLI = (("sentence1", "premise"), ("sentence2", "hypothesis"))

LAYOUTS: dict[str, Layout] = {
    "cola": Layout(
        folders=("CoLA",),
        texts=(("sentence",),),
        label=("label", "is_acceptable", "acceptability"),
        headless=("source", "label", "note", "sentence"),
    ),
    "sst2": Layout(folders=("SST-2",), texts=(("sentence",),)),
    "mrpc": Layout(
        folders=("MRPC",),
        texts=(("#1 String", "sentence1"), ("#2 String", "sentence2")),
        label=("Quality", "label"),
        test=("msr_paraphrase_test.txt", "test.tsv"),  # the first has the labels
    ),
    "stsb": Layout(folders=("STS-B",), texts=_SENTENCES, label=("score", "label")),
    "qqp": Layout(
        folders=("QQP",),
        texts=(("question1",), ("question2",)),
        label=("is_duplicate", "label"),
        ragged_lines=True,  # questions with line breaks in them
    ),
    "mnli": Layout(folders=("MNLI",), texts=_NLI, label=("gold_label", "label")),
    "qnli": Layout(folders=("QNLI",), texts=(("question",), ("sentence",))),
    "rte": Layout(folders=("RTE",), texts=_SENTENCES),
    "wnli": Layout(folders=("WNLI",), texts=_SENTENCES),
    "ax": Layout(
        folders=("AX", "diagnostic"),
        texts=_NLI,
        label=("gold_label", "label"),
        test=("diagnostic.tsv", "AX.tsv", "test.tsv"),
    ),
}
