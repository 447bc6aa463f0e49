from __future__ import annotations

import pytest

from kpeft.training.plan import Plan

PLANS = [
    Plan(rows=317, batch_size=8, accumulation=2, epochs=2),
    Plan(rows=16, batch_size=8, accumulation=1, epochs=3),
    Plan(rows=45, batch_size=8, accumulation=4, epochs=2),
    Plan(rows=3, batch_size=8, accumulation=4, epochs=5, max_steps=2),
]


@pytest.mark.parametrize("plan", PLANS)
def test_steps_partition_the_micro_batches(plan: Plan) -> None:
    """Walks through the run micro-batch by micro-batch, counting rows as a user would."""
    micro_batch = 0
    for step in range(plan.total_steps):
        assert plan.micro_batches_before(step) == micro_batch
        rows = 0
        for index in range(plan.accumulation):
            assert plan.step_of(micro_batch) == step
            rows += plan.rows_of_micro_batch(micro_batch)
            micro_batch += 1
            last_of_epoch = micro_batch % plan.micro_batches_per_epoch == 0
            assert plan.ends_step(micro_batch - 1) == (index + 1 == plan.accumulation or last_of_epoch)
            if last_of_epoch:
                break
        assert rows == plan.rows_of_step(step)
    assert plan.micro_batches_before(plan.total_steps) == micro_batch


def test_the_epochs_last_step_is_smaller() -> None:
    plan = PLANS[0]
    assert (plan.micro_batches_per_epoch, plan.steps_per_epoch, plan.total_steps) == (40, 20, 40)
    assert [plan.rows_of_step(step) for step in (0, 18, 19, 20, 39)] == [16, 16, 13, 16, 13]
    assert sum(plan.rows_of_step(step) for step in range(20)) == 317


def test_max_steps_cuts_the_run() -> None:
    assert PLANS[3].total_steps == 2
    assert Plan(rows=10, batch_size=1, max_steps=99).total_steps == 10
