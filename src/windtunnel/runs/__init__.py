"""Run records, append-only events, the store and its rebuildable index. No torch."""

from windtunnel.runs.durable import strict_json, sync_folder, write_atomic
from windtunnel.runs.events import Event, EventLog, read_events
from windtunnel.runs.folder import RunFolder, RunSummary, Status
from windtunnel.runs.lock import RunLock
from windtunnel.runs.provenance import code_digest, environment, git_state
from windtunnel.runs.store import RunStore, run_key

__all__ = [
    "Event",
    "EventLog",
    "RunFolder",
    "RunLock",
    "RunStore",
    "RunSummary",
    "Status",
    "code_digest",
    "environment",
    "git_state",
    "read_events",
    "run_key",
    "strict_json",
    "sync_folder",
    "write_atomic",
]
