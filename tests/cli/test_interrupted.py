"""Ctrl-C in a verb that has nothing of its own to say about it."""

import sys

import pytest
import typer

from windtunnel.cli import main


@pytest.mark.parametrize("verb", ["held", "ended"])
def test_it_is_told_and_is_130(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.command()
    def held() -> None:
        raise KeyboardInterrupt

    @app.command()
    def ended() -> None:
        raise typer.Exit(130)  # a verb that has said why

    monkeypatch.setattr(main, "app", app)
    monkeypatch.setattr(sys, "argv", ["windtunnel", verb])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 130
    told = "windtunnel: interrupted\n" if verb == "held" else ""
    assert capsys.readouterr().err == told
