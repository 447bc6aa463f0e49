from __future__ import annotations

import hashlib
import os
import shutil
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kpeft.glue.sources import Rows, TfdsSource, TsvSource
from kpeft.glue.tasks import get_task
from kpeft.glue.tfrecord import read_tfrecord

GLUE = os.environ.get("KPEFT_GLUE_DIR")
needs_glue = pytest.mark.skipif(not GLUE, reason="KPEFT_GLUE_DIR is not set")

MRPC = get_task("mrpc")
COLA = get_task("cola")
NOWHERE = "http://127.0.0.1:9/CoLA.zip"  # the discard port: refused at once


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    yield
    tfds.enable_progress_bar()


def triples(rows: Rows) -> list[tuple[str, str, int]]:
    return list(zip(*rows.texts, rows.labels.tolist(), strict=True))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tfds folder with glue/mrpc, prepared from local files as a user without a network would."""
    root = tmp_path_factory.mktemp("tfds")
    manual = root / "downloads" / "manual"
    manual.mkdir(parents=True)
    source = Path(str(GLUE)) / "MRPC"
    for name in ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt"):
        shutil.copy(source / name, manual / name)
    shutil.copy(source / "dev_ids.tsv", manual / "data_mrpc_dev_ids.tsv")
    TfdsSource(root).rows(MRPC, "train")
    shutil.rmtree(root / "downloads")  # from here on only what was prepared is there
    return root


@needs_glue
@pytest.mark.parametrize(("split", "count"), [("train", 3668), ("validation", 408)])
def test_prepared_rows_are_those_of_the_tsv_files(prepared: Path, split: str, count: int) -> None:
    rows = TfdsSource(prepared).rows(MRPC, split)
    assert len(rows) == count
    assert rows.labels.dtype == np.int32
    # tfds keeps the order of the corpus, GLUE's TSV files have one of their own.
    assert sorted(triples(rows)) == sorted(triples(TsvSource(str(GLUE)).rows(MRPC, split)))


@needs_glue
def test_row_order_is_that_of_the_file_they_came_from(prepared: Path) -> None:
    lines = (Path(str(GLUE)) / "MRPC" / "msr_paraphrase_train.txt").read_text("utf-8-sig").split("\n")[1:]
    order = {tuple(line.split("\t")[3:]): index for index, line in enumerate(lines)}
    found = [order[pair] for pair in zip(*TfdsSource(prepared).rows(MRPC, "train").texts, strict=True)]
    assert found == sorted(found)


@needs_glue
def test_test_rows_are_hidden(prepared: Path) -> None:
    rows = TfdsSource(prepared).rows(MRPC, "test")
    assert rows.labels.tolist() == [-1] * 1725
    assert rows.texts == TsvSource(str(GLUE)).rows(MRPC, "test").texts


@needs_glue
def test_reads_tfrecord_without_tensorflow(prepared: Path, tmp_path: Path) -> None:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    source = prepared / "glue" / "mrpc" / "2.0.0"
    target = tmp_path / "glue" / "mrpc" / "2.0.0"
    target.mkdir(parents=True)
    for path in source.iterdir():
        if "array_record" in path.name:
            records = ArrayRecordDataSource([path])
            framed = [frame(records[index]) for index in range(len(records))]
            (target / path.name.replace("array_record", "tfrecord")).write_bytes(b"".join(framed))
        else:
            (target / path.name).write_text(path.read_text().replace("array_record", "tfrecord"))
    for split in ("train", "validation"):
        assert triples(TfdsSource(tmp_path).rows(MRPC, split)) == triples(TfdsSource(prepared).rows(MRPC, split))


def frame(record: bytes) -> bytes:
    return struct.pack("<QI", len(record), 0) + record + struct.pack("<I", 0)


@pytest.mark.parametrize("records", [[], [b""], [b"one"], [b"one", b"", b"x" * 1000]])
def test_read_tfrecord(tmp_path: Path, records: list[bytes]) -> None:
    path = tmp_path / "records"
    path.write_bytes(b"".join(map(frame, records)))
    assert list(read_tfrecord(path)) == records


@pytest.mark.parametrize("size", [1, 11, 12, 14, 18])
def test_read_tfrecord_that_is_cut_off(tmp_path: Path, size: int) -> None:
    path = tmp_path / "records"
    path.write_bytes(frame(b"one")[:size])
    with pytest.raises(ValueError, match=f"records is cut off or damaged.* of {size}"):
        list(read_tfrecord(path))


@pytest.fixture
def cola_at(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Lets tfds look for CoLA where nobody answers."""
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.text.glue import Glue

    infos: dict[str, object] = {NOWHERE: UrlInfo(size=1, checksum="0" * 64, filename="CoLA.zip")}
    monkeypatch.setattr(Glue.builder_configs["cola"], "data_url", NOWHERE)
    monkeypatch.setattr(Glue, "url_infos", infos)
    return infos


def test_no_network_is_one_line_with_the_ways_out(tmp_path: Path, cola_at: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"glue/cola is not prepared in {tmp_path}") as caught:
        TfdsSource(tmp_path).rows(COLA, "train")
    message = str(caught.value)
    assert "\n" not in message
    for part in (NOWHERE, "refused", "--offline", "--data-dir", "--tfds-dir"):
        assert part in message
    assert not (tmp_path / "glue").exists()


def test_a_zip_file_is_unpacked_without_tensorflow(tmp_path: Path, cola_at: dict[str, object]) -> None:
    from tensorflow_datasets.core.download.checksums import UrlInfo

    manual = tmp_path / "mine"
    manual.mkdir()
    with zipfile.ZipFile(manual / "CoLA.zip", "w") as archive:
        archive.writestr("CoLA/train.tsv", "a\t1\t\tHe left .\nb\t0\t*\tHe leaves left .\n")
        archive.writestr("CoLA/dev.tsv", 'a\t1\t\t"Well" , he said .\n')
        archive.writestr("CoLA/test.tsv", "index\tsentence\n0\tWho ?\n")
    data = (manual / "CoLA.zip").read_bytes()
    cola_at[NOWHERE] = UrlInfo(size=len(data), checksum=hashlib.sha256(data).hexdigest(), filename="CoLA.zip")
    source = TfdsSource(tmp_path / "tfds", manual_dir=manual)
    train, validation, test = (source.rows(COLA, split) for split in COLA.splits)
    assert (train.texts, train.labels.tolist()) == ((["He left .", "He leaves left ."],), [1, 0])
    assert (validation.texts, validation.labels.tolist()) == ((['"Well" , he said .'],), [1])
    assert (test.texts, test.labels.tolist()) == ((["Who ?"],), [-1])


def test_a_download_that_is_not_the_right_file(tmp_path: Path, cola_at: dict[str, object]) -> None:
    (tmp_path / "CoLA.zip").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="wrong checksum") as caught:
        TfdsSource(tmp_path / "tfds", manual_dir=tmp_path).rows(COLA, "train")
    assert "\n" not in str(caught.value)


def test_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"MRPC has the splits train, validation, test. Received: split='dev'"):
        TfdsSource(tmp_path).rows(MRPC, "dev")
