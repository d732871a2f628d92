"""Worker processes: start them, give them work, pass their errors on, and end them.

`WorkerPool` gives tasks to processes that keep a state, such as a loaded model, from one task to the next. `run_group`
runs one function in several processes at once, as distributed training does.
"""

from cifm_cli.processes.group import LostContactError, Member, run_group
from cifm_cli.processes.pool import WorkerPool
from cifm_cli.processes.worker import WorkerError

__all__ = [
    "LostContactError",
    "Member",
    "WorkerError",
    "WorkerPool",
    "run_group",
]
