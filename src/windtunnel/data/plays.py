"""From the Markdown of a play to plain text."""

from __future__ import annotations

import re

_HEADING = re.compile(r"^#+[ \t]+", re.MULTILINE)
_SPEAKER = re.compile(r"^\*\*([^*\n]+?):?\*\*[ \t]*$", re.MULTILINE)
# Emphasis marks a stage direction, sometimes over several lines, never over a blank one.
_DIRECTION = re.compile(r"(?<!\\)([_*])\1*(?=\S)((?:(?!\n[ \t]*\n)[^_*])+)(?<!\\)\1+")
_STRAY_MARK = re.compile(r"(?<!\\)[_*]")
_ESCAPE = re.compile(r"\\([^\w\s])")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_GAP = re.compile(r"\n{3,}")


def plain_text(markdown: str) -> str:
    r"""The text of a play as it would be typed: markup becomes the conventions of a script.

    Headings lose their signs, ``**HAMLET**`` becomes ``HAMLET:``, stage directions stand in
    brackets, escapes and the spaces at line ends go. Words are never changed.

    >>> plain_text("## ACT I\n\n_Enter Ghost_\n\n**HAMLET**  \n_\\[Aside]_  \nWords, words.  \n")
    'ACT I\n\n[Enter Ghost]\n\nHAMLET:\n[Aside]\nWords, words.\n'
    """
    text = markdown.replace("\r\n", "\n").removeprefix("\ufeff")
    text = _HEADING.sub("", text)
    text = _SPEAKER.sub(r"\1:", text)
    text = _DIRECTION.sub(_bracketed, text)
    text = _STRAY_MARK.sub("", text)
    text = _ESCAPE.sub(r"\1", text)
    text = _TRAILING.sub("", text)
    return _GAP.sub("\n\n", text).strip() + "\n"


def _bracketed(match: re.Match[str]) -> str:
    words = match[2].strip().removeprefix("\\").removeprefix("[").removesuffix("]").strip()
    return f"[{words}]" if words else ""
