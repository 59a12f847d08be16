"""Verbs about other people's models: import and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli.options import AsJson, RunsFolder, note, print_json, runs_folder

import_app = typer.Typer(no_args_is_help=True, help="Bring a model of others into the run store.")
export_app = typer.Typer(no_args_is_help=True, help="Give a run's model to other people's tools.")


@import_app.command("hf")
def import_hf(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH_OR_NAME",
            help="A folder with config.json and safetensors, a .gguf file, or a model's name.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The run's folder [one below the runs folder]."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What it is called [the source's last part].")
    ] = None,
    gguf_file: Annotated[
        str | None,
        typer.Option("--gguf-file", metavar="FILE", help="The GGUF file within the folder."),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a name that is not in the local cache.")
    ] = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Take weights that are NaN or infinite.")
    ] = False,
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Import weights of Hugging Face transformers as a run that can be used, but not resumed."""
    from windtunnel.interop.hf.load import create_imported_run, read_pretrained

    if out is not None and out.exists():
        from windtunnel.errors import UsageError

        raise UsageError(f"{out}: already exists; choose another folder")
    found = read_pretrained(
        source, gguf_file=gguf_file, download=download, name=name, allow_nonfinite=allow_nonfinite
    )
    folder = create_imported_run(found, source, out=out, runs=runs_folder(runs))
    for text in found.notes:
        note(text)
    if as_json:
        print_json(
            {
                "path": str(folder.path), "key": folder.key, "name": folder.name,
                "model_type": found.model_type, "params": found.params,
                "stored_as": list(found.dtypes), "notes": found.notes,
            }
        )  # fmt: skip
    else:
        typer.echo(f"{folder.path}: {found.model_type}, {found.params:,} parameters")


@export_app.command("hf")
def export_hf(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's folder, name, or the start of its key.")
    ],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet.")],
    model_type: Annotated[
        str | None,
        typer.Option("--as", metavar="TYPE", help="The family, such as llama [the first to fit]."),
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="The checkpoint of the lowest validation loss.")
    ] = False,
    ema: Annotated[
        bool, typer.Option("--ema", help="The average of the weights that train.ema keeps.")
    ] = False,
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's model as a folder that Hugging Face transformers loads."""
    from windtunnel.interop.hf.export import export_run
    from windtunnel.runs import RunFolder, RunStore

    folder = (
        RunFolder.open(Path(run)) if Path(run).is_dir() else RunStore(runs_folder(runs)).select(run)
    )
    done = export_run(folder, out, model_type=model_type, best=best, ema=ema, warn=note)
    for text in done.notes:
        note(text)
    if as_json:
        print_json(
            {
                "path": str(done.path), "model_type": done.model_type, "params": done.params,
                "notes": done.notes,
            }
        )  # fmt: skip
    else:
        typer.echo(f"{done.path}: {done.model_type}, {done.params:,} parameters")
