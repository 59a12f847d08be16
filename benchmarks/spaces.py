"""What spaces cost: python benchmarks/spaces.py"""

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from windtunnel.spaces import ModelDataset, full, reasonable


def best(action: Callable[[], Any], turns: int = 5) -> float:
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    tracemalloc.start()
    space = full()
    space[12345].metadata  # noqa: B018
    print(f"memory of full, at most    {tracemalloc.get_traced_memory()[1] / 1e6:8.2f} MB")
    tracemalloc.stop()
    print(f"construction of full       {1e3 * best(full):8.2f} ms")
    places = range(7, len(space), 3001)
    each = best(lambda: [space[i].values for i in places]) / len(places)
    print(f"a member and its values    {1e6 * each:8.2f} µs")
    shuffled = space.shuffled(0)
    each = best(lambda: [shuffled[i].values for i in places]) / len(places)
    print(f"the same, shuffled         {1e6 * each:8.2f} µs")
    for text in ("params < 30M and family in [lstm, gru]", "p_drop > 0.1 or head_dim == 64"):
        print(f"{1e3 * best(lambda t=text: space.where(t)):8.1f} ms  where {text}")
    print(f"a sample of 1000 of full   {best(lambda: space.sample(1000), 2):8.2f} s")
    one = reasonable().where("family == lstm and d_model == 256 and n_layer == 2")[:1]
    for init in ("real", "skip", "meta"):
        dataset = ModelDataset(one, "cpu", init=init)
        print(f"one model, init {init:<11}{1e3 * best(lambda d=dataset: d[0]):8.2f} ms")


if __name__ == "__main__":
    main()
