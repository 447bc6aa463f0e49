from __future__ import annotations

import itertools

import numpy as np
import pytest

from kpeft.training.batches import TrainBatches, epoch_order
from kpeft.training.plan import Plan
from kpeft.training.prediction import EvalBatches
from kpeft.training.widths import choose_widths, fit_width
from tests.training.small_model import make_rows

ROWS = make_rows(333, seed=1, longest=50)


@pytest.mark.parametrize("batch_size", [1, 8, 16, 400])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_row_comes_once_an_epoch(batch_size: int, shuffle: bool) -> None:
    plan = Plan(rows=len(ROWS), batch_size=batch_size, epochs=2)
    batches = TrainBatches(ROWS, plan, shuffle=shuffle)
    per_epoch = -(-len(ROWS) // batch_size)
    assert len(batches) == 2 * per_epoch
    for epoch in range(2):
        taken = [batches.indices(epoch * per_epoch + index) for index in range(per_epoch)]
        assert sorted(np.concatenate(taken)) == list(range(len(ROWS)))
        assert [len(indices) for indices in taken[:-1]] == [batch_size] * (per_epoch - 1)
        if not shuffle:
            assert list(np.concatenate(taken)) == list(range(len(ROWS)))


def test_order_is_decided_by_seed_and_epoch() -> None:
    orders = {
        key: epoch_order(ROWS.lengths, 8, seed=key[0], epoch=key[1]).tolist()
        for key in itertools.product((0, 1), (0, 1))
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    assert orders[1, 1] == epoch_order(ROWS.lengths, 8, seed=1, epoch=1).tolist()
    # Access in any order: a batch does not depend on which were taken before it.
    plan = Plan(rows=len(ROWS), batch_size=8, epochs=3)
    forward, backward = TrainBatches(ROWS, plan, seed=3), TrainBatches(ROWS, plan, seed=3)
    expected = [forward[index][0]["token_ids"] for index in range(len(forward))]
    for index in reversed(range(len(backward))):
        np.testing.assert_array_equal(backward[index][0]["token_ids"], expected[index])


def test_grouping_by_length_saves_padding_and_stays_random() -> None:
    rows = make_rows(4000, seed=2, longest=60)
    order = epoch_order(rows.lengths, 16, seed=0, epoch=0)
    longest = rows.lengths[order].reshape(-1, 16).max(axis=1)
    at_random = rows.lengths[np.random.default_rng(0).permutation(4000)].reshape(-1, 16).max(axis=1)
    assert longest.sum() < 0.62 * at_random.sum()
    # Long and short batches alternate: neighbours differ about as much as any two batches do.
    assert np.abs(np.diff(longest)).mean() > 0.8 * np.abs(np.subtract.outer(longest, longest)).mean()


def test_a_batch_holds_its_rows_and_weights() -> None:
    plan = Plan(rows=len(ROWS), batch_size=8, accumulation=3, epochs=1)
    batches = TrainBatches(ROWS, plan)
    weights_of_step: dict[int, list[float]] = {}
    for index in range(len(batches)):
        inputs, labels, weights = batches[index]
        rows = batches.indices(index)
        assert inputs["token_ids"].shape == (8, batches.width(index))
        for position, row in enumerate(rows):
            tokens = ROWS.tokens[ROWS.offsets[row] : ROWS.offsets[row + 1]]
            np.testing.assert_array_equal(inputs["token_ids"][position, : len(tokens)], tokens)
            assert inputs["padding_mask"][position].sum() == len(tokens)
            assert labels[position] == ROWS.labels[row]
        assert (weights[len(rows) :] == 0).all()
        # No row is empty, filling rows included.
        assert (inputs["padding_mask"].sum(axis=1) > 0).all()
        weights_of_step.setdefault(plan.step_of(index), []).extend(weights[: len(rows)])
    for step, of_step in weights_of_step.items():
        assert len(of_step) == plan.rows_of_step(step)
        assert set(of_step) == {np.float32(1 / len(of_step))}


def test_what_stands_beside_micro_batches_has_their_share_of_the_step() -> None:
    plan = Plan(rows=len(ROWS), batch_size=8, accumulation=3, epochs=2)
    shares: dict[int, float] = {}

    def beside(micro_batch: int, share: float) -> dict[str, np.ndarray]:
        shares[micro_batch] = share
        return {"number": np.array([micro_batch])}

    batches = TrainBatches(ROWS, plan, seed=5, start=3, beside=beside)
    numbers = [int(batches[index][0]["number"][0]) for index in range(len(batches))]
    assert numbers == list(range(3, 3 + len(batches)))
    for number, share in shares.items():
        assert share == pytest.approx(plan.rows_of_micro_batch(number) / plan.rows_of_step(plan.step_of(number)))


def test_going_on_within_an_epoch() -> None:
    plan = Plan(rows=len(ROWS), batch_size=8, accumulation=2, epochs=3, max_steps=50)
    whole, rest = TrainBatches(ROWS, plan, seed=5), TrainBatches(ROWS, plan, seed=5, start=60)
    assert (len(whole), len(rest)) == (plan.micro_batches_before(50), plan.micro_batches_before(50) - 60)
    for index in range(len(rest)):
        for left, right in zip(rest[index], whole[60 + index], strict=True):
            np.testing.assert_equal(left, right)


@pytest.mark.parametrize("longest", [3, 8, 20, 128, 131])
def test_widths_are_few_and_fit(longest: int) -> None:
    lengths = make_rows(500, seed=3, longest=longest).lengths
    widths = choose_widths(lengths)
    assert widths == tuple(sorted(set(widths)))
    assert widths[-1] == lengths.max()
    assert all(width % 4 == 0 for width in widths[:-1])
    assert len(widths) <= 8
    fitted = fit_width(widths, lengths)
    assert (fitted >= lengths).all()
    assert set(fitted) == set(widths)


def test_widths_have_the_fewest_padded_tokens() -> None:
    lengths = np.random.default_rng(0).gamma(3.0, 12.0, 2000).astype(int) + 5
    widths = choose_widths(lengths, most=3, least_gain=0.0)
    longest = lengths.max()
    candidates = itertools.combinations(range(4, longest, 4), 2)
    best = min(int(fit_width((*pair, longest), lengths).sum()) for pair in candidates)
    assert len(widths) == 3
    assert fit_width(widths, lengths).sum() == best


def test_rows_of_one_length_have_one_width() -> None:
    assert choose_widths(np.full(10, 20)) == (20,)


@pytest.mark.parametrize("batch_size", [1, 7, 16, 1000])
def test_evaluation_takes_every_row(batch_size: int) -> None:
    batches = EvalBatches(ROWS, batch_size)
    taken = np.concatenate([batches[index][0]["token_ids"].sum(axis=1) for index in range(len(batches))])[: len(ROWS)]
    sums = np.add.reduceat(ROWS.tokens, ROWS.offsets[:-1])
    np.testing.assert_array_equal(taken, sums[batches.order])
    assert {batches[index][0]["token_ids"].shape[0] for index in range(len(batches))} == {batch_size}
