"""The front door: the ``fedkr`` command. Every floor behind it is opened only by the command that needs it."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from fedkr import __version__
from fedkr.errors import UserError

app = typer.Typer(
    name="fedkr",
    help="Federated Knowledge Recycling: sites share regenerated images with soft labels, and audit what leaks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
site_app = typer.Typer(name="site", help="What a hospital runs on its own machine.", no_args_is_help=True)
app.add_typer(site_app)

# Flags such as --help, --cfg and --multirun belong to the Hydra application behind `simulate`.
HYDRA_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]


@app.command(context_settings=HYDRA_ARGUMENTS, add_help_option=False)
def simulate(context: typer.Context) -> None:
    """Run a study on this machine or a Ray cluster (`fedkr simulate --help` lists its options)."""

    def work() -> int:
        from simulations.main import main as run_application

        return run_application(context.args)

    _leave(work)


@app.command(context_settings=HYDRA_ARGUMENTS, add_help_option=False)
def kr(context: typer.Context) -> None:
    """Measure Knowledge Recycling at one site against real images (options as in simulate; --ablation for all rows)."""

    def work() -> int:
        from simulations.recycling import main as run_application

        return run_application(context.args)

    _leave(work)


@app.command()
def report(run: RunFolder) -> None:
    """Draw a run's report again from its results."""

    def work() -> None:
        _must_exist(run, "run folder")
        from simulations.study import redraw_report

        print(redraw_report(run))

    _leave(work)


@app.command()
def summary(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs that differ in their seed.")],
    out: Annotated[Path | None, typer.Option(help="Also write the summary, as JSON, to this file.")] = None,
) -> None:
    """Bring several seeds of one study into one table (CSV on stdout): mean, standard deviation, each seed."""

    def work() -> None:
        from simulations.summary import as_csv, summarise

        found = summarise(runs)
        if out is not None:
            from fedkr.artifacts import write_atomic

            write_atomic(out, json.dumps(found, indent=1).encode() + b"\n")
        print(as_csv(found), end="")

    _leave(work)


@app.command()
def export(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; RUN/export if not given.")] = None,
) -> None:
    """Write a run's student (safetensors, ONNX, model card) and its releases (npz)."""

    def work() -> None:
        _must_exist(run, "run folder")
        from simulations.export import export_run

        print(export_run(run, out or run / "export"))

    _leave(work)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Folder that `fedkr export` wrote.")],
    images: Annotated[Path, typer.Argument(help="An image, a folder of images or an npz file.")],
) -> None:
    """Classify images with an exported student; CSV on stdout."""

    def work() -> None:
        _must_exist(model, "exported model")
        _must_exist(images, "image, folder or npz file")
        from simulations.predict import predict as predict_images

        rows = predict_images(model, images)
        if rows:
            table = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)

    _leave(work)


@site_app.command("check")
def check(site: Annotated[Path, typer.Argument(metavar="SITE_YAML", help="The site's own file.")]) -> None:
    """Read a site's file and data, and print the card that the server would see."""

    def work() -> None:
        _must_exist(site, "site file")
        from sites.check import check_site

        print(json.dumps(check_site(site), indent=2, ensure_ascii=False))

    _leave(work)


@app.command()
def version() -> None:
    """Print the installed version."""
    print(f"fedkr {__version__}")


def main() -> None:
    """Enter by the console script ``fedkr``."""
    app(prog_name="fedkr")


def _leave(work: Callable[[], int | None]) -> NoReturn:
    from simulations.guard import guarded

    raise typer.Exit(guarded(work))


def _must_exist(path: Path, what: str) -> None:
    if not path.exists():
        raise UserError(f"{path}: no such {what}")


if __name__ == "__main__":
    main()
