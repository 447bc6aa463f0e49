"""Drawings with matplotlib as the inside of an SVG element, in the colours that the page's style gives them.

A drawing names its colours by variables of the style sheet, so that one serves on a light page and on a dark one.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Eight colours told apart under every kind of colour-blindness (Okabe and Ito), darker on light pages and lighter on
# dark ones in the style sheet; what is written here only has to be different for each.
COLOURS = tuple(f"#0a0b{number:02x}" for number in range(8))
INK, GRID = "#0a0c00", "#0a0c01"
_VARIABLES = {**{colour: f"var(--c{number})" for number, colour in enumerate(COLOURS)}, INK: "var(--ink)"}
_VARIABLES[GRID] = "var(--grid)"
MARKERS = "os^DvPX*"
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
WIDTH, HEIGHT = 4.4, 2.75  # inches of 72 units: as wide as a phone, so that text of 10 units is readable there
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kpeft",
    "text.parse_math": False,
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
}


def style(number: int) -> dict[str, Any]:
    """Returns colour, marker and dashes of the n-th line of a figure: of 64 lines no two have all the same."""
    return {
        "color": COLOURS[number % 8],
        "marker": MARKERS[(number + number // 8) % 8],
        "linestyle": DASHES[(number + number // 8) % 4],
    }


class MissingMatplotlibError(ValueError):
    """The plotting library is not installed."""


def check_matplotlib() -> None:
    """Checks that there is matplotlib.

    Raises:
        MissingMatplotlibError: If it cannot be imported.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingMatplotlibError(
            "a report needs matplotlib: install it with `pip install kpeft[experiments]`."
        ) from error


class Drawing:
    """What a drawing came to.

    Attributes:
        svg: The inside of its SVG element.
        size: Width and height.
    """

    svg: str
    size: tuple[float, float]


@contextmanager
def drawing(height: float = HEIGHT, *, width: float = WIDTH, axes: bool = True) -> Iterator[tuple[Drawing, Axes]]:
    """Yields the drawing, which is filled when the context ends, and axes to draw on.

    Args:
        height: In inches.
        width: In inches.
        axes: Whether there are axes to be seen.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    drawn = Drawing()
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # whatever style the user has chosen elsewhere
        mpl.rcParams.update(_STYLE)
        warnings.simplefilter("ignore")  # signs of a name that the font lacks: the browser has another font
        canvas = Canvas(figsize=(width, height), layout="constrained" if axes else None)
        panel = canvas.add_subplot() if axes else canvas.add_axes((0, 0, 1, 1))
        if not axes:
            panel.set_axis_off()
        yield drawn, panel
        drawn.svg, drawn.size = _svg(canvas), (width * 72, height * 72)


@functools.cache
def swatch(number: int, *, bar: bool = False) -> str:
    """Returns the sign that stands for the n-th line, or for bars of its colour, in a figure's key: an SVG element."""
    with drawing(0.18, width=0.5, axes=False) as (drawn, panel):
        panel.set_xlim(0, 1)
        panel.set_ylim(-1, 1)
        if bar:
            panel.barh([0], [0.8], height=1.4, left=0.1, color=COLOURS[number])
        else:
            panel.plot([0.05, 0.5, 0.95], [0, 0, 0], markevery=[1], markersize=6, **style(number))
    width, height = drawn.size
    return f'<svg class="swatch" viewBox="0 0 {width:g} {height:g}" aria-hidden="true">{drawn.svg}</svg>'


def _svg(canvas: Canvas) -> str:
    """Draws on SVG without what a page has no use for: identifiers of groups, names of formats, metadata, a font."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    inside = buffer.getvalue().partition("<svg")[2].partition(">")[2].rpartition("</svg>")[0]
    inside = re.sub(r"<metadata>.*?</metadata>", "", inside, flags=re.DOTALL)
    inside = re.sub(r"<!--.*?-->", "", inside, flags=re.DOTALL).replace("xlink:href", "href")
    used = set(re.findall(r"""(?:href="|url\()#([^")]+)""", inside))
    inside = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", inside)
    for colour, variable in _VARIABLES.items():
        inside = inside.replace(colour, variable)
    inside = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font: \1px system-ui, sans-serif", inside)
    return re.sub(r"\s*\n\s*", "\n", inside).strip()


def own_ids(svg: str, name: str) -> str:
    """Gives a drawing's identifiers, which other drawings may have as well, a name of its own."""
    return re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)


def number_text(value: float, _: object = None) -> str:
    """Writes a number shortly, as on an axis: 1M, 20k, 0.001."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def log_axis(panel: Axes, values: Sequence[float], *, axis: str = "x", at_values: bool = False) -> None:
    """Makes an axis logarithmic, with ticks at round numbers, or at the values themselves if they are few."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    getattr(panel, f"set_{axis}scale")("log")
    drawn = getattr(panel, f"{axis}axis")
    each = sorted(set(values))
    span = each[-1] / each[0]
    apart = all(math.log(after / before) > 0.12 * math.log(span) for before, after in itertools.pairwise(each))
    if at_values and apart:
        drawn.set_major_locator(FixedLocator(each))
    elif span < 4:
        drawn.set_major_locator(MaxNLocator(4))
    else:
        drawn.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 50 else (1,)))
    drawn.set_minor_locator(NullLocator())
    drawn.set_major_formatter(FuncFormatter(number_text))
