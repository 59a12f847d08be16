"""Workers on a Ray cluster: each is a task that asks for what its run takes.

Ray places the task; the task starts the worker as a process of its node (``ray_node.py``). All else
(what runs next, attempts, takeovers) is the executor's, as with local workers. Run folders and the
study must lie on storage that every node reaches at the same path.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from windtunnel.errors import StudyError, UsageError
from windtunnel.study.engines.engine import THREAD_VARIABLES, Capacity, Ended, Handle, Task
from windtunnel.study.engines.ray_node import Errand, Switchboard, run_errand
from windtunnel.study.machine import usable_cores

OBJECT_STORE_BYTES = 80 * 2**20
"""Of a Ray of our own: nothing large ever goes through it."""
KILL_SECONDS = 30.0
_PASSED_ON = ("WINDTUNNEL_", "HF_HOME", "PYTHONPATH")
"""Variables of the study that its workers get on every node."""


class RayEngine:
    """Starts workers as tasks of a Ray cluster.

    Args:
        address: of the cluster's head, ``HOST:PORT``; ``local`` for a Ray of our own on this
            machine, over loopback alone; None: what ``RAY_ADDRESS`` says, else ``local``.

    Raises:
        UsageError: Ray is not installed, or the address is not one for this.
        StudyError: the cluster cannot be reached, or Ray cannot be started.
    """

    name = "ray"

    def __init__(self, address: str | None = None) -> None:
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        if address.startswith("ray://"):
            raise UsageError(
                f"--engine ray={address}: a study must run on a machine of the cluster, since it "
                "shares its files; start it there, or with `ray job submit`, and give HOST:PORT"
            )
        self._ray = _imported(local=address == "local")
        self._own = not self._ray.is_initialized()
        if self._own:
            _connect(self._ray, address)
        here = self._ray.get_runtime_context().get_node_id()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = self._ray.remote(num_cpus=0)(Switchboard)
        stays = NodeAffinitySchedulingStrategy(node_id=here, soft=True)
        self._switchboard = actor.options(scheduling_strategy=stays).remote()
        self._task = self._ray.remote(max_retries=0)(run_errand)

    def capacity(self) -> Capacity:
        """Of all nodes together."""
        there = self._ray.cluster_resources()
        memory = there.get("memory")
        return Capacity(int(there.get("CPU", 1)), None if memory is None else int(memory))

    def start(self, task: Task) -> Handle:
        asked = fitted(task, [n["Resources"] for n in self._ray.nodes() if n["Alive"]])
        name = uuid.uuid4().hex
        errand = Errand(
            task=_absolute(task), name=name, folder=str(Path.cwd()), python=sys.executable,
            variables=_variables(task),
        )  # fmt: skip
        options = self._task.options(name=task.stem, **asked)
        reference = options.remote(errand, self._switchboard)
        return _RayHandle(self._ray, self._switchboard, name, reference)

    def close(self) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._switchboard)
        if self._own:
            self._ray.shutdown()


def fitted(task: Task, nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What to ask Ray for: what the task takes, but no more than its best node has. So a run that
    is larger than every node still gets one to itself, as with local workers.

    Args:
        nodes: the resources of each.

    Raises:
        StudyError: no node has so many GPUs.
    """
    able = [node for node in nodes if node.get("GPU", 0.0) >= task.gpus]
    if not able:
        most = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
        raise StudyError(
            f"{task.run.name} needs {task.gpus} GPUs on one node of the Ray cluster, and none has "
            f"more than {most:.0f}"
        )
    # A run on GPUs has its memory there; what Ray counts is that of the machine.
    wanted = {"CPU": float(task.cores), "memory": 0.0 if task.gpus else float(task.memory_bytes)}
    best = max(able, key=lambda node: [min(node.get(k, 0.0), wanted[k]) for k in ("memory", "CPU")])
    got = {kind: min(amount, best.get(kind, 0.0)) for kind, amount in wanted.items()}
    return {"num_cpus": got["CPU"], "num_gpus": float(task.gpus), "memory": int(got["memory"])}


def _imported(*, local: bool) -> Any:
    """The package, told to send nothing anywhere."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local:  # its name aside, this is what keeps Ray's servers on the loopback address; read
        # when Ray is imported, so a program that has done so before gets servers on its network
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # As local workers: at Ray's own 15 they starve beside any other work.
        os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "--engine ray: Ray is not installed; install the extra: pip install 'windtunnel[ray]'"
        ) from error
    return ray


def _connect(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if address == "local":
        quiet |= {
            "num_cpus": usable_cores(), "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }  # fmt: skip
        if not ray._private.ray_constants.ENABLE_RAY_CLUSTER:  # see ``_imported``
            quiet["_node_ip_address"] = "127.0.0.1"
    try:
        try:
            ray.init(address=address, **quiet)
        except Exception:
            if address != "local":
                raise
            ray.shutdown()  # a busy machine may exceed the seconds that Ray gives its servers
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises plain ones for what fails while it starts
        raise StudyError(f"--engine ray={address}: {_first_line(error)}") from error


def _variables(task: Task) -> dict[str, str]:
    passed = {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)}
    threads = dict.fromkeys(THREAD_VARIABLES, str(task.threads))
    hidden = (
        {} if task.gpus else {"CUDA_VISIBLE_DEVICES": ""}
    )  # so that `auto` is the CPU there too
    return {**passed, **threads, **hidden}


def _absolute(task: Task) -> Task:
    return replace(task, run=task.run.resolve(), log=task.log.resolve())


@dataclass
class _RayHandle:
    ray: Any
    switchboard: Any
    name: str
    reference: Any
    ended: Ended | None = None

    def poll(self) -> Ended | None:
        if self.ended is None:
            ready, _ = self.ray.wait([self.reference], timeout=0)
            if ready:
                self.ended = self._result()
        return self.ended

    def stop(self, signum: int) -> None:
        if self.poll() is not None:
            return
        try:
            begun = self.ray.get(self.switchboard.send.remote(self.name, signum))
        except self.ray.exceptions.RayError:  # with the switchboard gone, tasks end by themselves
            return
        if not begun:  # it waits for a place on the cluster
            self.ray.cancel(self.reference)
            self.ended = Ended(code=-signum)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)
        end = time.monotonic() + KILL_SECONDS
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.02)

    def _result(self) -> Ended:
        errors = self.ray.exceptions
        try:
            ended = self.ray.get(self.reference)
            assert isinstance(ended, Ended)
            return ended
        except errors.TaskCancelledError:
            return Ended(code=-signal.SIGTERM)
        except errors.OutOfMemoryError as error:
            return Ended(
                code=None, lost="Ray has ended its worker: out of memory", words=str(error)
            )
        except errors.RayTaskError as error:
            return Ended(code=None, lost=f"its Ray task failed: {_last_line(error)}")
        except errors.RayError as error:
            return Ended(code=None, lost=f"its node or Ray process is lost: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
