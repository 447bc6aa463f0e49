"""The page: valid, accessible, self-contained, escaped, and the same bytes each time."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_folders import MRPC, write_run

from kpeft.methods import BitFit, LoRA
from kpeft.report.build import build
from kpeft.report.collect import collect
from kpeft.report.curves import loss_figures
from kpeft.report.drawing import COLOURS, number_text, style
from kpeft.report.groups import group, labels
from kpeft.report.markdown import to_markdown
from kpeft.report.page import to_html

VOID = {"meta", "link", "br", "img", "hr", "input"}
NASTY = "<b>&\"'$x_1$|*`"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Page and Markdown of ten groups, one of them with names that are signs in HTML, Markdown and TeX."""
    folder = tmp_path_factory.mktemp("report") / f"runs {NASTY}"
    for rank in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        for seed in range(2):
            scores = {**MRPC, "accuracy": 0.5 + rank / 1000 + seed / 100}
            losses = [1 / (1 + step / rank) for step in range(120)]
            name = f"{rank}-{seed}"
            write_run(folder / name, LoRA(rank=rank), scores=scores, losses=losses, seed=seed, trainable=rank * 1000)
    write_run(folder / NASTY, BitFit(), preset=NASTY, task="mrpc")
    write_run(folder / "rte", BitFit(), task="rte", learning_rate=1e-4)
    (folder / "rte" / "history.jsonl").unlink()
    document = build(collect(folder), "last")
    return to_html(document), to_markdown(document, "report.html")


class Walk(HTMLParser):
    """Notes what the tests ask for, and fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.all: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.text: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.all.append((tag, dict(attrs), tuple(name for name, _ in self.open)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs), tuple(name for name, _ in self.open)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.text.append((self.open[-1][0] if self.open else "", data))


@pytest.fixture(scope="module")
def walk(pages: tuple[str, str]) -> Walk:
    walked = Walk()
    walked.feed(pages[0])
    walked.close()
    assert walked.open == []
    return walked


def test_the_page_loads_and_runs_nothing(pages: tuple[str, str], walk: Walk) -> None:
    assert "http" not in pages[0].replace("http-equiv", "")
    assert {"script", "link", "img", "iframe", "object", "foreignobject"} & {tag for tag, _, _ in walk.all} == set()
    assert "@import" not in pages[0]
    for _, attributes, _ in walk.all:
        assert not any(name.startswith("on") or name in ("src", "srcset") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert set(re.findall(r"url\((.)", pages[0])) == {"#"}
    assert "default-src 'none'" in pages[0]


def test_identifiers_are_unique_and_all_that_are_named_exist(pages: tuple[str, str], walk: Walk) -> None:
    ids = [str(attributes["id"]) for _, attributes, _ in walk.all if "id" in attributes]
    assert len(set(ids)) == len(ids)
    named = {str(value)[1:] for _, attributes, _ in walk.all if (value := attributes.get("href"))}
    named |= set(re.findall(r"url\(#([^)]+)\)", pages[0]))
    for _, attributes, _ in walk.all:
        for name in ("aria-labelledby", "aria-describedby"):
            named |= set((attributes.get(name) or "").split())
    assert named <= set(ids)
    assert len(named) > 50


def test_headings_go_down_one_level_at_a_time(walk: Walk) -> None:
    levels = [int(tag[1]) for tag, _, _ in walk.all if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_language_width_landmarks_and_a_way_past_the_navigation(walk: Walk) -> None:
    tags = {tag: attributes for tag, attributes, _ in walk.all}
    assert tags["html"] == {"lang": "en"}
    assert any(a.get("name") == "viewport" and "width=device-width" in str(a["content"]) for _, a, _ in walk.all)
    assert {"main", "nav", "header", "title"} <= tags.keys()
    first = next(attributes for tag, attributes, _ in walk.all if tag == "a")
    assert first["href"] == f"#{tags['main']['id']}"


def test_pictures_have_names_and_their_numbers_in_a_table(walk: Walk) -> None:
    pictures = [attributes for tag, attributes, parents in walk.all if tag == "svg"]
    assert all(a.get("aria-hidden") == "true" or (a["role"] == "img" and a["aria-labelledby"]) for a in pictures)
    figures = [tag for tag, _, _ in walk.all].count("figure")
    assert figures == len([a for a in pictures if "role" in a]) > 8
    assert (
        len([tag for tag, _, parents in walk.all if tag == "table" and parents[-3:-1] == ("figure", "details")])
        == figures
    )
    assert len([tag for tag, _, parents in walk.all if tag == "figcaption" and parents[-1] == "figure"]) == figures


def test_tables_have_captions_and_headers_and_scroll_by_themselves(walk: Walk) -> None:
    tables = [parents for tag, _, parents in walk.all if tag == "table"]
    assert all(parents[-1] == "div" for parents in tables)
    regions = [a for tag, a, _ in walk.all if tag == "div" and a.get("class") == "scroll"]
    assert len(regions) == len(tables) == [tag for tag, _, _ in walk.all].count("caption")
    assert all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-labelledby"] for a in regions)
    assert {a.get("scope") for tag, a, _ in walk.all if tag == "th"} == {"col", "row"}


def test_names_are_escaped_everywhere(pages: tuple[str, str], walk: Walk) -> None:
    assert "<b>" not in pages[0]
    assert "b" not in {tag for tag, _, _ in walk.all}
    assert any(NASTY in data for tag, data in walk.text if tag == "text")  # in a drawing, and no formula there
    assert any(tag == "h1" and NASTY in data for tag, data in walk.text)
    title = pages[1].splitlines()[0]
    assert title == "# kpeft runs: runs \\<b\\>\\&\"'$x\\_1$\\|\\*\\`"


def test_both_are_the_same_each_time(tmp_path: Path) -> None:
    write_run(tmp_path)
    documents = [build(collect(tmp_path), "last") for _ in range(2)]
    assert to_html(documents[0]) == to_html(documents[1])
    assert to_markdown(documents[0], "x") == to_markdown(documents[1], "x")


def test_markdown_has_tables_of_even_rows_and_the_commands(pages: tuple[str, str]) -> None:
    blocks = re.findall(r"(?:^\|.*\n)+", pages[1], re.MULTILINE)
    assert len(blocks) > 5
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert pages[1].count("\npython -m kpeft.run --task ") == 20
    assert "| 0.7610 ± 0.0071 |" in pages[1]  # rank 256: 0.756 and 0.766
    assert f"| **{MRPC['accuracy']:.4f}** |" in pages[1]


def test_many_groups_are_drawn_eight_at_a_time_in_means_of_steps(tmp_path: Path) -> None:
    for rank in range(1, 11):
        write_run(tmp_path / str(rank), LoRA(rank=rank), losses=[float(step) for step in range(1, 101)])
    groups = group(collect(tmp_path).runs)
    first, second, *_ = loss_figures(groups, labels(groups))
    assert first.title == "Training loss against steps (1 of 2)"
    assert second.title == "Training loss against steps (2 of 2)"
    assert "means of 2 steps" in first.caption
    assert len(first.data.columns) == 9
    assert [[cell.text for cell in cells[:2]] for cells in first.data.rows[:2]] == [["2", "1.5000"], ["4", "3.5000"]]


def test_curves_say_how_many_runs_a_mean_is_of(tmp_path: Path) -> None:
    write_run(tmp_path / "0", seed=0, losses=(0.7, 0.6, 0.5))
    write_run(tmp_path / "1", seed=1, losses=(0.9,))
    groups = group(collect(tmp_path).runs)
    training = loss_figures(groups, labels(groups))[0]
    texts = [cells[1].text for cells in training.data.rows]
    assert texts == ["0.8000 ± 0.1414", "0.6000 (1 of 2 runs)", "0.5000 (1 of 2 runs)"]
    assert "of those that went on" in training.caption


def test_the_masked_lm_loss_is_drawn_from_before_training(tmp_path: Path) -> None:
    write_run(tmp_path / "0", scores={**MRPC, "masked_lm_loss": 3.5}, masked_lm_loss=2.5)
    groups = group(collect(tmp_path).runs)
    drawn = {figure.title: figure.data.rows for figure in loss_figures(groups, labels(groups))}
    rows = [[cell.text for cell in cells] for cells in drawn["Masked-LM loss against steps"]]
    assert rows == [["0", "2.5000"], ["2", "3.5000"], ["4", "3.5000"]]


def luminance(colour: str) -> float:
    """WCAG's relative luminance."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_colours_stand_out_on_light_and_dark_pages(pages: tuple[str, str]) -> None:
    for theme in re.findall(r":root \{(.*?)\}", pages[0], re.DOTALL):
        colours = dict(re.findall(r"--(\w+): (#\w{6})", theme))
        assert len(colours) == 15
        for name, colour in colours.items():
            least = {"ink": 7.0, "soft": 4.5, "link": 4.5}.get(name, 3.0 if name.startswith("c") else 1.0)
            for ground in ("page", "panel"):
                low, high = sorted(map(luminance, (colour, colours[ground])))
                assert (high + 0.05) / (low + 0.05) >= least, (name, ground)


def test_lines_differ_in_more_than_colour() -> None:
    assert len({tuple(map(str, style(number).values())) for number in range(64)}) == 64
    assert len({(style(n)["marker"]) for n in range(8)}) == len(COLOURS)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1e-5, "1e-05"), (0.001, "0.001"), (500, "500"), (20_000, "20k"), (1.5e6, "1.5M")]
)
def test_numbers_on_axes_are_short(value: float, text: str) -> None:
    assert number_text(value) == text


def test_a_single_evaluation_is_no_curve(tmp_path: Path) -> None:
    write_run(tmp_path / "a", losses=(0.7, 0.6))
    groups = group(collect(tmp_path).runs)
    assert [figure.title for figure in loss_figures(groups, labels(groups))] == ["Training loss against steps"]
    write_run(tmp_path / "b", seed=1)
    groups = group(collect(tmp_path).runs)
    assert "Validation loss against steps" in [figure.title for figure in loss_figures(groups, labels(groups))]
