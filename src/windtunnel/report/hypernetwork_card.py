"""What a release of a hypernetwork says of itself, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from windtunnel.hyper.launch import ReadyGhn
from windtunnel.report.units import bytes_text


def card_text(ready: ReadyGhn, record: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The card: what it is, from what, at what cost, and where its limits are.

    Every figure is of the run's config or record, or was measured for the release.
    """
    return (
        "\n\n".join(
            [
                f"# {facts['name']}: a graph hypernetwork",
                _what(facts),
                "## Use\n\n"
                "    windtunnel ghn predict THIS_FOLDER FILE.yaml --evaluate\n"
                "    windtunnel train FILE.yaml --init ghn:THIS_FOLDER",
                "## Trained on\n\n" + _trained_on(ready, record),
                "## Cost of training\n\n" + _cost(record),
                "## Loss\n\n" + _loss(record, facts),
                "## Limits\n\n" + _limits(ready),
                "## Licence\n\n"
                "The code that reads this folder is MIT. The weights were learnt from the text "
                "named above; whoever hands them on minds that text's own terms.",
            ]
        )
        + "\n"
    )


def _what(facts: Mapping[str, Any]) -> str:
    return (
        "It reads the specification of a language model and writes its initial weights in one "
        "forward pass. What it writes is not random: it has seen text, so a model that begins with "
        "it is *pretrained*, at a cost that was paid once and is told below. Compare it with "
        "pretraining, not only with random weights.\n\n"
        f"{facts['params']:,} parameters in {facts['precision']}, "
        f"{bytes_text(facts['weights_bytes'])}; run `{str(facts['run'])[:16]}`, SHA-256 of its "
        f"record `{facts['record_sha256']}`, of the weights `{facts['weights_sha256']}`."
    )


def _trained_on(ready: ReadyGhn, record: Mapping[str, Any]) -> str:
    config, train = ready.config, ready.members.parts["train"]
    names = [block.family.name for block in train.blocks]
    numbers, counts = np.unique(train.block_numbers(), return_counts=True)
    families: dict[str, int] = {}
    for number, count in zip(numbers, counts, strict=True):
        families[names[number]] = families.get(names[number], 0) + int(count)
    listed = ", ".join(f"{name} {count:,}" for name, count in families.items())
    sources = config.data.sources
    source = config.data.source.type if sources is None else ", ".join(sources)
    documents = getattr(config.data.source, "documents", None)
    source += f" (documents {documents})" if documents else ""
    tokenizer = ready.dataset.tokenizer
    return (
        f"- Text: {source}, {ready.dataset.train.counts.tokens:,} training tokens "
        f"(fingerprint `{str(record['data_fingerprint'])[:16]}`), {config.data.tokenizer.type} "
        f"tokenizer of {tokenizer.vocab_size:,} ids.\n"
        f"- Architectures: {len(train):,} ({listed}), {int(train.params.min()):,} to "
        f"{int(train.params.max()):,} parameters; {config.meta_batch} in each step.\n"
        f"- Predicts: {'embedding, head and positions alone' * (config.predicts == 'table')}"
        f"{'all parameters that it knows' * (config.predicts == 'all')}; decoder "
        f"{config.decoder.type}."
    )


def _cost(record: Mapping[str, Any]) -> str:
    environment = record["environment"]
    machine = environment.get("cpu") or environment.get("machine")
    seconds = record.get("cpu_seconds")
    processor = "" if seconds is None else f", {seconds:,.0f} s of its processor"
    return (
        f"{record['steps']:,} steps, {record['tokens']:,} tokens, "
        f"{record['train_seconds']:,.0f} s of training on {record['device']}"
        f"{processor} ({machine}, "
        f"{environment.get('threads')} threads, {record.get('processes', 1)} processes), about "
        f"{record['flops']:.3g} FLOPs in the predicted models; those of the hypernetwork itself "
        "are not counted, the seconds hold all."
    )


def _loss(record: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    final = record["final"]
    loss = final.get("ema_loss", final["loss"])
    of_average = ", of the average of weights" if "ema_loss" in final else ""
    told = (
        f"Of held-out architectures on held-out text, without any training of their own: "
        f"{loss:.4f} nats a token ({math.exp(loss):.1f} perplexity) at the end of "
        f"training{of_average}."
    )
    if facts["loss"] is not None:
        told += (
            f" As stored, in {facts['precision']}: {facts['loss_as_stored']:.4f}, in float32 "
            f"{facts['loss']:.4f}."
        )
    return told


def _limits(ready: ReadyGhn) -> str:
    config, limits = ready.config, ready.members.limits
    left = f" Never seen: {', '.join(config.split.left_out)}." if config.split.left_out else ""
    return (
        f"- Sizes seen: d_model to {config.split.d_model}, {config.split.n_layer} layers, "
        f"feed-forwards to {limits.d_ff}. Larger ones are grown from these.\n"
        f"- Kinds of layers: those of the families above. Other parts keep their own random "
        f"weights.{left}\n"
        f"- Sequences to {limits.max_seq_len} tokens; later positions repeat the last.\n"
        f"- Vocabulary: its own. Tokens of another get the mean of their pieces.\n"
        "- Text: it knows no other than the one named above."
    )
