"""Trackers: TensorBoard, Weights & Biases and Trackio as readers of a run's events.

The events of a run (``events.jsonl``) are always written, and are what counts. A tracker is told of
them afterwards, while the run goes on (``windtunnel train --track``) or at any later time
(``windtunnel track``). One that fails is told once and left alone; the run goes on.
"""

from windtunnel.interop.trackers.follow import Following, track_run
from windtunnel.interop.trackers.names import named
from windtunnel.interop.trackers.open import TRACKERS, open_tracker
from windtunnel.interop.trackers.tracker import Tracker

__all__ = ["TRACKERS", "Following", "Tracker", "named", "open_tracker", "track_run"]
