"""The GLUE benchmark: its tasks, its metrics, and where its rows come from."""

from __future__ import annotations

from kpeft.glue.tasks import TASKS, Task, get_task

__all__ = ["TASKS", "Task", "get_task"]
