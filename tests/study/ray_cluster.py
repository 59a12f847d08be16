"""A small Ray cluster on the loopback address, once for all tests of a process.

Ray's own start-up gives its agents fifteen seconds to name their ports, which a loaded machine
exceeds; so the ports are chosen and written down here. Then it gives a node thirty seconds to be
known; here it is given more.
"""

import inspect
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # loopback alone
os.environ["RAY_agent_register_timeout_ms"] = "120000"  # noqa: SIM112
PATIENCE_SECONDS = 240.0
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # 15 starves on a busy machine
AGENTS = (
    "metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)  # fmt: skip


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [found.getsockname()[1] for found in sockets]


def node_of(**resources: Any) -> dict[str, Any]:
    """The arguments of a node with these resources."""
    return {
        **dict(zip(AGENTS, free_ports(len(AGENTS)), strict=True)),
        "node_ip_address": "127.0.0.1",
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,
        "object_store_memory": 80 * 2**20,
        **resources,
    }


@contextmanager
def cluster(**resources: Any) -> Iterator[Any]:
    """A cluster of one node with these resources; this process is not connected to it."""
    from ray.cluster_utils import Cluster

    found = Cluster()
    with patience():
        found.add_node(wait=False, **node_of(**resources))  # its own waiting is short, too
        try:
            yield found
        finally:
            found.shutdown()


@contextmanager
def patience() -> Iterator[None]:
    """While it lasts, a node that starts is waited for: until it is known; and it need not wait for
    the file with its agent's port, which is written beforehand."""
    from ray._private import services
    from ray._raylet import DASHBOARD_AGENT_LISTEN_PORT_NAME, persist_port

    known, start = services.get_node, services.start_raylet

    def started(*arguments: Any, **options: Any) -> Any:
        given = inspect.signature(start).bind(*arguments, **options).arguments
        port = given["dashboard_agent_listen_port"]
        persist_port(given["session_dir"], given["node_id"], DASHBOARD_AGENT_LISTEN_PORT_NAME, port)
        return start(*arguments, **options)

    def waited_for(*arguments: Any, **options: Any) -> Any:
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return known(*arguments, **options)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    services.get_node, services.start_raylet = waited_for, started
    try:
        yield
    finally:
        services.get_node, services.start_raylet = known, start
