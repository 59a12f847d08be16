"""The report of a study as one HTML file that opens without a network.

The page carries everything: style, data, and plotly.js (once). Its content-security policy
allows no connection at all and runs only the two scripts whose digests it names, so a hostile
name, config or sample can neither call home nor run. Equal input gives equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from windtunnel.errors import StudyError
from windtunnel.report import sections
from windtunnel.report.curves import drawable
from windtunnel.report.effects_section import effects_section, interactions_section
from windtunnel.report.search_page import search_data, search_section
from windtunnel.report.study_report import StudyReport
from windtunnel.report.task_section import tasks_section
from windtunnel.report.tuning import tuning_section
from windtunnel.report.units import count_text, flops_text
from windtunnel.report.verdicts import Verdicts, read_verdicts

_METRICS = {
    "loss": "validation loss",
    "bits_per_byte": "bits per byte",
    "train_loss": "training loss",
}
_AXES = {"tokens": "tokens", "step": "step", "flops": "FLOPs", "seconds": "seconds"}


def render_html(report: StudyReport) -> str:
    """The whole page as text; the same report gives the same text.

    Raises StudyError when the verdicts have another shape.
    """
    study = read_verdicts(report.verdicts)
    names = [arm.name for arm in study.arms]
    curves = _curves_section(report)
    parts = _ablation_parts(report) | {
        "verdict": sections.verdict_section(study) + sections.reading_box(),
        "differences": sections.forest_section(study),
        "tasks": tasks_section(report.tasks),
        "tuning": tuning_section(report.verdicts),
        "search": search_section(report.verdicts),
        "curves": curves,
        "cost": sections.cost_section(study),
        "configs": sections.config_section(report, names),
        "samples": sections.samples_section(report, names),
        "environment": sections.environment_section(report),
    }
    scripts = [asset("page.js")]
    searched = search_data(report.verdicts)
    if searched is not None:
        parts["search"] += _search_script(searched)
        scripts.append(asset("search.js"))
    if curves or searched is not None:
        scripts.insert(0, plotly_script())
    body = _header(report, study, [name for name, part in parts.items() if part])
    body += f"<main>{''.join(parts.values())}</main>"
    body += "<footer>Made by <b>windtunnel</b>. Everything on this page is in this file.</footer>"
    return document(report.title, body, _data(report, names), scripts)


def render_search(title: str, results: Mapping[str, Any], command: str = "") -> str:
    """The page of a search that confirmed nothing, so that there are no verdicts."""
    body = (
        f'<header><p class="kicker">windtunnel · search</p><h1>{escape(title)}</h1></header>'
        f"<main>{search_section(results)}{_search_script(search_data(results))}"
        f"<pre><code>{escape(command)}</code></pre></main>"
    )
    return document(title, body, "[]", [plotly_script(), asset("search.js")])


def _search_script(data: object) -> str:
    return f'<script type="application/json" id="search-data">{embedded_json(data)}</script>'


def write_html(path: Path, report: StudyReport) -> None:
    """Write the page at once or not at all: a reader never sees half of it.

    Raises StudyError when it cannot be written; a file that was there then stays as it was.
    """
    write_page(path, render_html(report))


def write_page(path: Path, text: str) -> None:
    """As :func:`write_html`, for any page's text."""
    content = text.encode()
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp gives 0600; a report is for others to read.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        raise StudyError(f"cannot write the page {path}: {error.strerror}") from error


def document(title: str, body: str, data: str, scripts: list[str]) -> str:
    """A page of that body, with JSON for its scripts, which are all that may run in it."""
    digests = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    loaded = "\n".join(f"<script>{script}</script>" for script in scripts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{asset('page.css')}</style>\n</head>\n"
        f'<body>\n{body}\n<script type="application/json" id="data">{data}</script>\n'
        f"{loaded}\n</body>\n</html>\n"
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def asset(name: str) -> str:
    """The text of a file of this package's assets."""
    return files("windtunnel.report").joinpath("assets", name).read_text(encoding="utf-8")


def plotly_script() -> str:
    """plotly.js, whole."""
    from plotly.offline import get_plotlyjs  # only here: the terminal tables do not need it

    # A browser turns CR LF into LF before it takes the digest of a script.
    script: str = get_plotlyjs().replace("\r\n", "\n")
    assert "</script" not in script.lower(), "plotly.js cannot be put inside a page as it is"
    return script


def embedded_json(value: object) -> str:
    """JSON that is safe inside a script element: no `<`, `>` or `&` is left in it.

    >>> embedded_json({"name": "</script>"})
    '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _data(report: StudyReport, names: list[str]) -> str:
    ordered = [name for name in names if name in report.curves]
    ordered += [name for name in report.curves if name not in names]
    return embedded_json([{"name": name, **drawable(report.curves[name])} for name in ordered])


def _header(report: StudyReport, study: Verdicts, anchors: list[str]) -> str:
    budget = flops_text(study.budget) if study.match == "flops" else count_text(study.budget)
    unit = "" if study.match == "flops" else f" {study.match}"
    facts = [f"{len(study.arms)} architecture{'s' if len(study.arms) > 1 else ''}"]
    if study.seeds:
        facts.append(study.seeds_words)
    if study.match:
        facts.append(f"matched by {study.match}")
    if study.budget is not None:
        facts.append(f"budget {budget}{unit}")
    links = "".join(f'<a href="#{anchor}">{anchor.capitalize()}</a>' for anchor in anchors)
    return (
        f'<header><p class="kicker">windtunnel · study</p><h1>{escape(report.title)}</h1>'
        f'<p class="facts">{escape(" · ".join(facts))}</p>'
        f'<nav aria-label="Sections">{links}</nav></header>'
    )


def _ablation_parts(report: StudyReport) -> dict[str, str]:
    if report.ablation is None:
        return {}
    return {
        "effects": effects_section(report.ablation),
        "interactions": interactions_section(report.ablation),
    }


def _curves_section(report: StudyReport) -> str:
    if not any(curve.evals for seeds in report.curves.values() for curve in seeds.values()):
        return ""
    controls = (
        sections.radios("metric", "Show", _METRICS)
        + sections.radios("axis", "Over", _AXES)
        + sections.radios("part", "Part", {"all": "whole run", "end": "last half"})
        + '<fieldset class="choice"><legend>Lines</legend>'
        '<label><input type="checkbox" name="seeds" checked><span>each seed</span></label>'
        '<label><input type="checkbox" name="log"><span>log axis</span></label></fieldset>'
    )
    caption = (
        "Thick lines: the mean over seeds. Bands: from the lowest to the highest seed. Thin "
        "lines: single seeds. A mean is drawn only where every seed has a finite value, so a "
        "diverged seed ends it. Long training curves are averaged in equal groups of steps. "
        "Click a name to hide it, drag to zoom, double-click to reset."
    )
    return sections.section(
        "curves",
        "Curves",
        f'<figure><form class="controls" aria-label="What the curves show">{controls}</form>'
        '<div id="plot" role="img" aria-label="Loss curves of every architecture; the final '
        'values are in the verdict table"></div>'
        "<noscript><p>The curves need JavaScript; every number above does not.</p></noscript>"
        f"<figcaption>{caption}</figcaption></figure>",
    )
