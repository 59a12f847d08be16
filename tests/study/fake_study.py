"""A comparison with made-up workers, as a process of its own: ``fake_study.py FOLDER TROUBLE``."""

import json
import sys
from pathlib import Path

from tests.study.conftest import settle_config
from tests.study.test_conduct import create, fake

from windtunnel.config import parse_document
from windtunnel.study.conduct import conduct
from windtunnel.study.folder import StudyFolder
from windtunnel.study.planning import Ground, plan_compare
from windtunnel.train.run_config import load_run_document


def main(folder: Path, trouble: str) -> None:
    train = {"steps": 30, "batch_size": 4, "seq_len": 32}
    data = {"tokenizer": {"type": "bpe", "vocab_size": 512}}
    runs = [
        load_run_document(
            parse_document(
                json.dumps({"arch": {"preset": preset}, "data": data, "train": train}), preset
            )
        )
        for preset in ("gpt2", "gru", "lstm")
    ]
    plan = plan_compare(runs, seeds=2, ground=Ground(settle_config, None))
    conduct(plan, StudyFolder(folder), workers=2, create=create, command=fake(trouble))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
