"""A study on Ray, as a process of its own.

``lost_node.py FOLDER``: on a cluster whose only working node is lost in mid-run; another comes.
``lost_node.py FOLDER ADDRESS``: on that cluster, undisturbed.
"""

import sys
from pathlib import Path
from typing import Any

from tests.study.ray_cluster import cluster, node_of

from windtunnel.runs import RunFolder, RunStore
from windtunnel.study.engines.ray_engine import RayEngine
from windtunnel.study.execute import Job, Progress, execute

FAKE = Path(__file__).with_name("fake_worker.py")


def command(job: Job) -> list[str]:
    return [sys.executable, str(FAKE), str(job.run.path), str(job.steps), "slow"]


def job_in(folder: Path, steps: int) -> Job:
    store = RunStore(folder / "runs")
    run = store.find("key-a") or store.create(key="key-a", name="a", config={})
    return Job(run=RunFolder.open(run.path), name="a", steps=steps)


def lose_a_node(folder: Path) -> None:
    with cluster(num_cpus=0) as nodes:
        lost: list[Any] = [nodes.add_node(wait=False, **node_of(num_cpus=1))]
        engine = RayEngine(nodes.address)

        def lose(progress: Progress) -> None:
            if lost and progress.running and progress.running[0].step > 5:
                nodes.remove_node(lost.pop())
                nodes.add_node(wait=False, **node_of(num_cpus=1))

        outcomes = execute(
            [job_in(folder, 60)], command=command, workers=1, log=folder / "log", engine=engine,
            on_progress=lose, on_notice=print, poll_seconds=0.05,
        )  # fmt: skip
        print(f"{outcomes['key-a'].status} after {outcomes['key-a'].attempts} attempts")
        engine.close()


def main(folder: Path, address: str | None) -> None:
    if address is None:
        lose_a_node(folder)
        return
    engine = RayEngine(address)
    execute(
        [job_in(folder, 4000)], command=command, workers=1, log=folder / "log", engine=engine
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
