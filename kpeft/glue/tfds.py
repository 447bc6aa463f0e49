"""GLUE's rows from tensorflow-datasets, without TensorFlow."""

from __future__ import annotations

import errno
import importlib
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from kpeft.glue.rows import Rows, Source, check_split, label_dtype
from kpeft.glue.tasks import Task
from kpeft.glue.tfrecord import read_tfrecord

_TIMEOUT = 15.0


@final
class TfdsSource(Source):
    """Rows of tfds' `glue/TASK`: those already prepared, else downloaded and prepared once.

    What it prepares is in array_record format; it also reads TFRecord, which tfds writes by default. TensorFlow is
    needed for neither. Files that you have downloaded yourself are taken from `manual_dir`, under the names that tfds
    gives them (`CoLA.zip`; for MRPC `msr_paraphrase_train.txt`, `msr_paraphrase_test.txt`, `data_mrpc_dev_ids.tsv`).

    Args:
        tfds_dir: Where tfds keeps its datasets; `None` is tfds' own default, `~/tensorflow_datasets`.
        manual_dir: Folder of downloaded files; `None` is `downloads/manual` in `tfds_dir`.
    """

    name: ClassVar[str] = "tfds"

    def __init__(self, tfds_dir: str | Path | None = None, *, manual_dir: str | Path | None = None) -> None:
        self.tfds_dir = None if tfds_dir is None else Path(tfds_dir).expanduser()
        self.manual_dir = None if manual_dir is None else Path(manual_dir).expanduser()

    def rows(self, task: Task, split: str) -> Rows:
        """Reads one split, preparing the dataset if need be; see `Source.rows`.

        Raises:
            ValueError: If the dataset is not prepared and cannot be downloaded, or if its files are damaged.
        """
        check_split(task, split)
        builder = self._builder(task)
        if not builder.is_prepared():
            _prepare(builder, task, self.manual_dir)
        features = builder.info.features
        examples = [features.deserialize_example_np(record) for record in _records(builder, split)]
        if not examples:
            raise ValueError(f"{builder.data_path}: the {split} split of {task.title} is empty.")
        examples.sort(key=lambda example: int(example["idx"]))  # tfds shuffles what it writes
        return Rows(
            texts=tuple([example[field].decode("utf-8") for example in examples] for field in task.fields),
            labels=np.asarray([example["label"] for example in examples], label_dtype(task)),
        )

    def _builder(self, task: Task) -> Any:
        # Registers GLUE: tfds.builder on its own finds no dataset's code where TensorFlow is missing.
        importlib.import_module("tensorflow_datasets.text.glue")
        from tensorflow_datasets import builder

        return builder(f"glue/{task.name}", data_dir=self.tfds_dir)


def _records(builder: Any, split: str) -> Iterable[bytes]:
    paths = [Path(path) for path in builder.info.splits[split].filepaths]
    file_format = builder.info.file_format.value
    if file_format == "tfrecord":
        return (record for path in paths for record in read_tfrecord(path))
    if file_format == "array_record":
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        records = ArrayRecordDataSource(paths)
        return list(records.__getitems__(range(len(records))))
    raise ValueError(
        f"{builder.data_path} holds {file_format} files; tfrecord and array_record can be read. "
        "Prepare it again in another --tfds-dir."
    )


def _prepare(builder: Any, task: Task, manual_dir: Path | None) -> None:
    """Downloads and prepares a dataset in array_record format."""
    import requests
    import tensorflow_datasets as tfds

    root = Path(builder.data_path).parents[2]
    downloads = root / "downloads"
    manual = manual_dir or downloads / "manual"
    urls = _urls(builder)
    try:
        _check_network([url for url in urls if not _at_hand(url, builder, downloads, manual)])
        manager = tfds.download.DownloadManager(
            download_dir=downloads, manual_dir=manual, url_infos=builder.url_infos, dataset_name=builder.name
        )
        for url in urls:
            if url.endswith(".zip"):
                _extract(Path(manager.download(url)), downloads / "extracted")
        builder.download_and_prepare(
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False),
            file_format="array_record",
        )
    except (
        urllib.error.URLError,
        requests.RequestException,
        tfds.download.DownloadError,
        tfds.core.download.download_manager.NonMatchingChecksumError,
        zipfile.BadZipFile,
    ) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise ValueError(
            f"glue/{task.name} is not prepared in {root} and could not be downloaded from {' '.join(urls)}: {reason}. "
            f"Use --offline for the bundled sample rows, or --data-dir (a folder of GLUE TSVs) or --tfds-dir "
            f"(a prepared tfds folder) for rows that you have."
        ) from error


def _urls(builder: Any) -> list[str]:
    """Returns the addresses that a GLUE builder downloads."""
    from tensorflow_datasets.text import glue

    url = builder.builder_config.data_url
    return [url] if url else [glue._MRPC_TRAIN, glue._MRPC_TEST, glue._MRPC_DEV_IDS]


def _at_hand(url: str, builder: Any, downloads: Path, manual: Path) -> bool:
    """Whether tfds will find what an address holds without the network."""
    from tensorflow_datasets.core.download.resource import get_dl_fname

    info = builder.url_infos[url]
    cached = get_dl_fname(url, info.checksum)
    return (manual / info.filename).exists() or any(downloads.rglob(cached))


def _check_network(urls: list[str]) -> None:
    # tfds itself goes on trying for minutes before it says that there is no network.
    for url in urls[:1]:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT).close()
        except urllib.error.HTTPError:
            continue  # someone answered
        except urllib.error.URLError:
            raise
        except OSError as error:  # a timeout or a broken connection
            raise urllib.error.URLError(error) from error


def _extract(archive: Path, folder: Path) -> None:
    """Unpacks a zip file to where tfds looks for it, because tfds needs TensorFlow to unpack it itself."""
    target = folder / f"ZIP.{archive.name}"
    if target.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = Path(tempfile.mkdtemp(dir=folder, prefix=f"incomplete.{archive.name}."))
    try:
        with zipfile.ZipFile(archive) as contents:
            contents.extractall(unpacked)
        unpacked.replace(target)
    except OSError as error:
        # another process was faster
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
