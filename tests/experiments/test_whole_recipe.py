"""A recipe from its command to its page, as README has it, and what a second go does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # 12 runs on the packaged encoder


def test_a_recipe_makes_its_page_and_a_second_go_makes_no_run(tmp_path: Path) -> None:
    flags = f"--offline --tasks mrpc --seeds 0 --limit 16 --epochs 1 --at-once --output {tmp_path / 'out'}"
    command = [sys.executable, "-m", "experiments.rank_sweep", *flags.split()]
    first, second = (subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(2))
    assert "runs: 12, there already: 0" in first.stderr
    assert "runs: 12, there already: 12" in second.stderr
    page = (tmp_path / "out" / "report.md").read_text()
    assert page.count("python -m kpeft.run") == 12
    assert "several runs of seed" not in page
