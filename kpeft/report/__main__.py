"""A page of the runs in a folder, also as Markdown: `python -m kpeft.report FOLDER`, or `--compare A B` for two.

Exit status: 0 done, 1 the report cannot be written, 2 bad usage or input (one line), 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from kpeft.files import write_bytes
from kpeft.report.build import build
from kpeft.report.collect import collect
from kpeft.report.compare import compare
from kpeft.report.drawing import check_matplotlib
from kpeft.report.markdown import to_markdown
from kpeft.report.page import to_html
from kpeft.report.pictures import write_pictures


class OneLineParser(argparse.ArgumentParser):
    """Raises instead of printing the usage, so that every mistake gives one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}. --help shows all.")


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    parser = OneLineParser(
        prog="python -m kpeft.report", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("folder", nargs="?", type=Path, metavar="FOLDER", help="where runs of kpeft.run lie, at any depth")
    add("--compare", nargs=2, type=Path, metavar=("A", "B"), help="two such folders, side by side")
    add(
        "--evaluation",
        choices=("last", "best"),
        default="last",
        help="which evaluation of a run to show (default last; best was chosen on the validation rows)",
    )
    add("--output", type=Path, metavar="FOLDER", help="where the report goes (default FOLDER itself, or B)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    try:
        return _report(make_parser().parse_args(arguments))
    except ValueError as error:
        return _say(str(error), 2)
    except OSError as error:
        return _say(f"the report cannot be written or the runs cannot be read: {error}", 1)
    except KeyboardInterrupt:
        return _say("interrupted; no report was written.", 130)


def _report(options: argparse.Namespace) -> int:
    if (options.folder is None) == (options.compare is None):
        raise ValueError("give one FOLDER with runs of kpeft.run, or two with --compare A B.")
    folders = options.compare or [options.folder]
    found = [collect(folder) for folder in folders]
    output = options.output or folders[-1]
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {str(output)!r} is a file: name a folder.")
    check_matplotlib()
    for each in found:
        for note in each.notes:
            _say(f"{each.name}: {note}", 0)
    several = len(found) > 1
    if several and found[0].name == found[1].name:
        found = [replace(each, name=str(folder)) for each, folder in zip(found, folders, strict=True)]
    document = compare(found[0], found[1], options.evaluation) if several else build(found[0], options.evaluation)
    name = "comparison" if several else "report"
    page, text, pictures = output / f"{name}.html", output / f"{name}.md", output / f"{name}-pictures"
    write_pictures(document, pictures)
    write_bytes(page, to_html(document).encode("utf-8", "replace"))
    write_bytes(text, to_markdown(document, pictures.name).encode("utf-8", "replace"))
    sys.stdout.write(f"{page}\n{text}\n")
    return 0


def _say(message: str, status: int) -> int:
    sys.stderr.write(f"kpeft: {' '.join(message.split())}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
