"""Trackers: TensorBoard, Weights & Biases and Trackio as readers of a run's events.

The events of a run (``events.jsonl``) are always written, and are what counts. A tracker is told of
them afterwards, while the run goes on (``windtunnel train --track``) or at any later time
(``windtunnel runs track``), and so of all runs of a study, as one group. One that fails is told
once and left alone; the run goes on.
"""

from windtunnel.interop.trackers.follow import Following, track_run
from windtunnel.interop.trackers.members import Members
from windtunnel.interop.trackers.names import named
from windtunnel.interop.trackers.open import TRACKERS, check_installed, open_tracker
from windtunnel.interop.trackers.several import track_study
from windtunnel.interop.trackers.tracker import Label, Tracker

__all__ = [
    "TRACKERS",
    "Following",
    "Label",
    "Members",
    "Tracker",
    "check_installed",
    "named",
    "open_tracker",
    "track_run",
    "track_study",
]
