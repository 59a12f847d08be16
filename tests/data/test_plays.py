from __future__ import annotations

import pytest

from windtunnel.data.plays import plain_text


@pytest.mark.parametrize(
    ("markdown", "text"),
    [
        ("# Hamlet\n\n## ACT I\n", "Hamlet\n\nACT I\n"),
        ("#### SCENE I. London.\n", "SCENE I. London.\n"),
        ("**BERNARDO**  \nWho's there?  \n", "BERNARDO:\nWho's there?\n"),
        ("**ROSENCRANTZ:**  \nAy.", "ROSENCRANTZ:\nAy.\n"),
        ("_Enter Ghost_\n", "[Enter Ghost]\n"),
        ("_A peal of\nordnance_\n", "[A peal of\nordnance]\n"),
        ("_\\[Aside]_  \nO!", "[Aside]\nO!\n"),
        ("__\\[Awaking]_  \nO!", "[Awaking]\nO!\n"),
        ("*Exeunt.*\n", "[Exeunt.]\n"),
        ("*[Reads.]*\n", "[Reads.]\n"),
        ("[To ROBIN]_  \nHold.\n\n_Exit_\n", "[To ROBIN]\nHold.\n\n[Exit]\n"),
        ("he'll __\\[ ]_  \nSeem", "he'll\nSeem\n"),
        ("'Go,'\\--he said", "'Go,'--he said\n"),
        ("1\\. Then, two Judges.", "1. Then, two Judges.\n"),
        ("a\r\n\r\n\r\n\r\nb\r\n\r\n", "a\n\nb\n"),
    ],
)
def test_markup_becomes_the_conventions_of_a_script(markdown: str, text: str) -> None:
    assert plain_text(markdown) == text


def test_plain_text_stays_as_it_is() -> None:
    text = "ACT I\n\nHAMLET:\n[Aside]\nWords, words.\n"
    assert plain_text(text) == text


def test_a_stage_direction_never_reaches_over_a_blank_line() -> None:
    assert plain_text("_lost\n\nwords_ and more") == "lost\n\nwords and more\n"
