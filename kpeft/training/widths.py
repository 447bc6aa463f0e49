"""Which few static lengths the rows are padded to, so that XLA compiles a handful of shapes."""

from __future__ import annotations

import numpy as np


def choose_widths(
    lengths: np.ndarray, *, multiple: int = 4, most: int = 8, least_gain: float = 0.02
) -> tuple[int, ...]:
    """Padded lengths for rows of these lengths.

    The widths are multiples of `multiple`, except the last, which is the longest row. For each number of widths, the
    ones with the fewest padded tokens are found by dynamic programming over the histogram of lengths; another width is
    taken while it saves at least `least_gain` of the tokens, since each costs a compilation.

    Args:
        lengths: Tokens of each row, integers, shape (rows,).
        multiple: See above.
        most: At most so many widths.
        least_gain: Share of the tokens that one more width must save.

    Returns:
        The widths, rising.
    """
    longest = int(lengths.max())
    candidates = np.unique(np.append(np.arange(multiple, longest, multiple), longest))
    # rows_up_to[j]: rows that fit in candidate j - 1, with 0 in front.
    rows_up_to = np.append(0, np.searchsorted(np.sort(lengths), candidates, side="right"))
    last = len(candidates)
    tokens = np.full(last + 1, np.inf)
    tokens[0] = 0.0
    choices: list[np.ndarray] = []
    totals: list[float] = []
    for _ in range(min(most, last)):
        # cost[i, j]: rows longer than candidate i - 1 and no longer than candidate j - 1, padded to the latter.
        cost = (rows_up_to[None, 1:] - rows_up_to[:, None]) * candidates[None, :]
        cost = np.where(np.arange(last + 1)[:, None] <= np.arange(last)[None, :], cost, np.inf)
        reached = tokens[:, None] + cost
        choices.append(np.append(0, reached.argmin(axis=0)))
        tokens = np.append(np.inf, reached.min(axis=0))
        totals.append(float(tokens[last]))
    number = 1
    while number < len(totals) and totals[number] <= (1 - least_gain) * totals[number - 1]:
        number += 1
    widths: list[int] = []
    position = last
    for choice in reversed(choices[:number]):
        widths.append(int(candidates[position - 1]))
        position = int(choice[position])
    return tuple(reversed(widths))


def fit_width(widths: tuple[int, ...], longest: np.ndarray) -> np.ndarray:
    """The smallest width that holds each length.

    Args:
        widths: Rising widths.
        longest: Integers, any shape; none above the last width.

    Returns:
        Widths, same shape.
    """
    return np.asarray(widths)[np.searchsorted(widths, longest, side="left")]
