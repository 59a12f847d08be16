"""Validation losses over tokens of a study's arms, with the spread of their seeds, as a picture.

    python benchmarks/loss_curves.py STUDY --out curves.png

STUDY is a folder that ``windtunnel compare`` wrote. Lines are means over seeds, bands reach from
the lowest to the highest seed. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from windtunnel.runs import RunFolder


def main() -> None:
    """Reads the runs of the study and draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    study = json.loads((options.study / "study.json").read_text(encoding="utf-8"))
    curves: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in study["runs"].values():
        run = RunFolder.open(Path(path))
        for event in run.read_events():
            if event.kind == "eval" and event.values["tokens"]:
                curves[run.name][event.values["tokens"]].append(event.values["loss"])
    figure, axes = plt.subplots(figsize=(7, 4), dpi=130)
    for name in sorted(curves):
        tokens = sorted(curves[name])
        losses = [curves[name][at] for at in tokens]
        axes.plot(tokens, [sum(one) / len(one) for one in losses], label=name, linewidth=1.2)
        axes.fill_between(tokens, list(map(min, losses)), list(map(max, losses)), alpha=0.25)
    axes.set_xlabel("tokens")
    axes.set_ylabel("validation loss, nats a token")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(options.out)


if __name__ == "__main__":
    main()
