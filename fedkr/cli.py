"""The front door: the ``fedkr`` command. Every floor behind it is opened only by the command that needs it."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

import typer
from click import ClickException, UsageError
from click.exceptions import NoArgsIsHelpError
from typer.core import TyperCommand, TyperGroup

from fedkr import __version__
from fedkr.benchmarks.options import GeneratorOptions
from fedkr.errors import UserError, one_line
from fedkr.terminal import print_anywhere
from simulations.audit_run.options import Request


class Front(TyperGroup):
    """The command itself: what it was called with wrongly is one line, as every other mistake."""

    def main(self, *arguments: Any, **settings: Any) -> NoReturn:
        """Run the command and end the process."""
        print_anywhere()
        try:
            status = super().main(*arguments, **settings | {"standalone_mode": False})
        except NoArgsIsHelpError as mistake:
            mistake.show()
            status = mistake.exit_code
        except ClickException as mistake:
            print(f"fedkr: error: {_explain(mistake)}", file=sys.stderr)
            status = mistake.exit_code
        from simulations.exits import leave

        leave(status)


def _group(name: str, purpose: str) -> typer.Typer:
    # Click itself suggests the command that a wrong one is near to.
    return typer.Typer(
        cls=Front, name=name, help=purpose, no_args_is_help=True, suggest_commands=False, add_completion=False,
        pretty_exceptions_enable=False,
    )  # fmt: skip


app = _group(
    "fedkr", "Federated Knowledge Recycling: sites share regenerated images with soft labels, and audit what leaks."
)
site_app = typer.Typer(
    name="site", help="What a hospital runs on its own machine.", no_args_is_help=True, suggest_commands=False
)
app.add_typer(site_app)
server_app = typer.Typer(
    name="server", help="What a coordinator's operator does.", no_args_is_help=True, suggest_commands=False
)
app.add_typer(server_app)
bench_app = typer.Typer(
    name="bench",
    help="Measure one way of computing against another, here.",
    no_args_is_help=True,
    suggest_commands=False,
)
app.add_typer(bench_app)

# Flags such as --help, --cfg and --multirun belong to the Hydra application behind `simulate`.
HYDRA_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]


class Command(TyperCommand):
    """A command that ends, whatever stops it, with an exit status and at most one line on stderr."""

    def invoke(self, ctx: Any) -> NoReturn:
        """Run the command."""
        from simulations.exits import guarded

        raise typer.Exit(guarded(lambda: super(Command, self).invoke(ctx)))


def options_of(kind: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take the annotated fields of a dataclass as its options, in place of its ``**asked``.

    A field without a default is None where it is not given.
    """
    hints = get_type_hints(kind, include_extras=True)

    def as_parameter(field: dataclasses.Field[Any]) -> inspect.Parameter:
        default = None if field.default is dataclasses.MISSING else field.default
        return inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
        )

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        *own, _ = inspect.signature(command, eval_str=True).parameters.values()
        signature = inspect.Signature([*own, *map(as_parameter, dataclasses.fields(kind))])
        command.__signature__ = signature  # type: ignore[attr-defined]
        return command

    return with_options


@app.command(cls=Command, context_settings=HYDRA_ARGUMENTS, add_help_option=False)
def simulate(context: typer.Context) -> int | None:
    """Run a study on this machine or a Ray cluster (`fedkr simulate --help` lists its options)."""
    return _application(context, "simulations.study.application")


@app.command(cls=Command, context_settings=HYDRA_ARGUMENTS, add_help_option=False)
def kr(context: typer.Context) -> int | None:
    """Measure Knowledge Recycling at one site against real images (options as in simulate; --ablation for all rows)."""
    return _application(context, "simulations.single_site")


@app.command(cls=Command, context_settings=HYDRA_ARGUMENTS, add_help_option=False)
def leakage(context: typer.Context) -> int | None:
    """Accuracy and leakage against the amount of synthetic data, of a RUN or of a study (options as in simulate)."""
    return _application(context, "simulations.leakage.command")


@app.command(cls=Command)
def report(run: RunFolder) -> None:
    """Draw a run's report again from its results."""
    _must_exist(run, "run folder")
    from simulations.study.run import redraw_report

    print(redraw_report(run))


@app.command(cls=Command)
def summary(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs that differ in their seed.")],
    out: Annotated[Path | None, typer.Option(help="Also write the summary, as JSON, to this file.")] = None,
) -> None:
    """Bring several seeds of one study into one table (CSV on stdout): mean, deviation, interval, each seed."""
    from simulations.study.summary import as_csv, lost_sites, mixed, summarise, warned

    found = summarise(runs)
    _write_json(out, found)
    for line in (*lost_sites(found), *mixed(found), *warned(found)):
        print(f"fedkr: warning: {line}", file=sys.stderr)
    print(as_csv(found), end="")


@app.command(cls=Command)
@options_of(Request)
def audit(
    context: typer.Context,
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="Folder of a finished run.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="OVERRIDES", help="As in simulate: audit=..., audit.*=..., backend=..."),
    ] = None,
    **asked: Any,
) -> None:
    """Audit a finished run again, or with --model and --data a classifier that came from elsewhere."""
    outside = [name for name in ("model", "data") if asked[name] is not None]
    if len(outside) == 2 and run is None:
        from simulations.audit_run.outside import audit_outside

        audit_outside(Request(**asked))
        return
    if run is None or outside:
        raise UserError("fedkr audit: give either a RUN folder, or --model FILE and --data NPZ")
    for name in asked:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UserError(f"--{name}: only with --model; a run takes overrides, such as audit=full")
    _must_exist(run, "run folder")
    from simulations.audit_run.again import audit_again

    audit_again(run, overrides or [])


@app.command(cls=Command)
def privacy(
    study: Annotated[Path, typer.Argument(metavar="RUN|STUDY_JSON", help="A run's folder, or a coordinator's study.")],
    site: Annotated[str, typer.Argument(metavar="SITE", help="Of a run: a site's name; of a study: the site file.")],
    references: Annotated[int, typer.Option(help="Pipelines on halves that calibrate attacks; an even number.")] = 8,
    change: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION=VALUE",
            help="Rehearse this change, or these with spaces between, too; if none is named, what usually helps.",
        ),
    ] = None,
    as_is: Annotated[bool, typer.Option("--as-is", help="Rehearse no change.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the figures, as JSON, to this file.")] = None,
) -> None:
    """Rehearse a release on a site's own images: what attacks would find in it, and which option changes that.

    Nothing is sent. It takes as many trainings as there are references, and one more, for each change.
    """
    _must_exist(study, "run folder or study")
    from sites.rehearsal import lines_of

    changes = [] if as_is else change
    if study.is_dir():
        from simulations.rehearsal import rehearse_run

        rehearsals = rehearse_run(study, site, references, changes)
    else:
        _must_exist(Path(site), "site file")
        from sites.hospital_rehearsal import rehearse_study

        rehearsals = rehearse_study(study, Path(site), references, changes)
    found = []
    for rehearsed in rehearsals:
        print(f"{rehearsed.change}: rehearsed in {rehearsed.seconds:.0f} s", file=sys.stderr, flush=True)
        found.append(rehearsed)
        _write_json(out, [each.as_row() for each in found])
    print("\n".join(lines_of(found)))


@app.command(cls=Command)
def export(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; RUN/export if not given.")] = None,
) -> None:
    """Write a run's student (safetensors, ONNX, model card) and its releases (npz)."""
    _must_exist(run, "run folder")
    from simulations.export.command import export_run

    print(export_run(run, out or run / "export"))


@app.command(cls=Command)
def predict(
    model: Annotated[Path, typer.Argument(help="Folder that `fedkr export` wrote.")],
    images: Annotated[Path, typer.Argument(help="An image, a folder of images or an npz file.")],
) -> None:
    """Classify images with an exported student; CSV on stdout. Files that cannot be read are named on stderr."""
    _must_exist(model, "exported model")
    _must_exist(images, "image, folder or npz file")
    from simulations.export.predict import predict as predict_images

    rows, refused = predict_images(model, images)
    if rows:
        table = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    for reason in refused:
        print(f"fedkr: warning: {one_line(reason)}", file=sys.stderr)
    if refused:
        raise UserError(f"{images}: {len(refused)} of {len(refused) + len(rows)} files not classified, named above")


@site_app.command("check", cls=Command)
def check(site: Annotated[Path, typer.Argument(metavar="SITE_YAML", help="The site's own file.")]) -> None:
    """Read a site's file and data, and print the card that the server would see."""
    _must_exist(site, "site file")
    from sites.check import check_site

    card = check_site(site)
    print(json.dumps(card, indent=2, ensure_ascii=False))
    if problems := card["problems"]:
        raise UserError(f"{site}: would not take part in a study: {'; '.join(problems)}")


@site_app.command("approve", cls=Command)
def approve(
    study: Annotated[Path, typer.Argument(metavar="STUDY_JSON", help="The study, as the coordinator sent it.")],
    site: Annotated[Path, typer.Argument(metavar="SITE_YAML", help="The site's own file.")],
    yes: Annotated[
        str, typer.Option(metavar="DIGEST", help="Approve it, where this is the digest that was shown.")
    ] = "",
) -> None:
    """Say what a study would do and send; with --yes approve it, and the site answers approved studies only."""
    _must_exist(study, "study")
    _must_exist(site, "site file")
    from sites.approval import approve_study

    print("\n".join(approve_study(study, site, yes)))


@site_app.command("revoke", cls=Command)
def revoke(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="Of the study, as `fedkr site approve` showed it.")],
    site: Annotated[Path, typer.Argument(metavar="SITE_YAML", help="The site's own file.")],
) -> None:
    """Take back the approval of a study; the site goes on answering approved studies only."""
    _must_exist(site, "site file")
    from sites.approval import revoke_study

    print(revoke_study(digest, site))


@site_app.command("join", cls=Command)
def join(site: Annotated[Path, typer.Argument(metavar="SITE_YAML", help="The site's own file.")]) -> None:
    """Connect to the coordinator that the site file names, and answer its studies until a signal ends it."""
    _must_exist(site, "site file")
    from sites.join import join_network

    join_network(site)


@site_app.command("key", cls=Command)
def key(
    folder: Annotated[Path, typer.Argument(help="Folder that gets site.key and site.key.pub.")] = Path(),
) -> None:
    """Make the key pair that a site joins with; the coordinator is sent site.key.pub."""
    from fedkr.network.certificates import make_node_key

    if (folder / "site.key").exists():
        raise UserError(f"{folder / 'site.key'}: is there already")
    print(make_node_key(folder, "site.key").public)


Coordinator = Annotated[Path, typer.Argument(metavar="FOLDER", help="The coordinator's folder.")]


@server_app.command("init", cls=Command)
def server_init(
    folder: Coordinator,
    host: Annotated[list[str], typer.Argument(help="Names or addresses under which sites reach this machine.")],
    publisher: Annotated[str, typer.Option(help="Name under which sites list the key that signs bundles.")] = "fedkr",
) -> None:
    """Make a coordinator's folder: certificates, publisher's key, signed bundle; print what the sites need."""
    from server.deployment import set_up

    print(set_up(folder, host, publisher), end="")


@server_app.command("start", cls=Command)
def server_start(
    folder: Coordinator,
    listen: Annotated[str, typer.Option(help="HOST:PORT that the sites connect to.")] = "0.0.0.0:8443",
) -> None:
    """Start gate, hub and SuperLink, and keep them until a signal ends this command."""
    from server.deployment import serve

    serve(folder, listen)


@server_app.command("add", cls=Command)
def server_add(
    folder: Coordinator,
    name: Annotated[str, typer.Argument(help="The site's name; its site file must say the same.")],
    public_key: Annotated[Path, typer.Argument(help="The site's site.key.pub.")],
) -> None:
    """Register a site's key under its name."""
    _must_exist(public_key, "public key")
    from server.deployment import register

    print(f"{name} is node {register(folder, name, public_key)}")


@server_app.command("remove", cls=Command)
def server_remove(
    folder: Coordinator, name: Annotated[str, typer.Argument(help="The site's name, as it was registered.")]
) -> None:
    """Take a site's key out: it is served no longer, and its name is free for another key."""
    from server.deployment import remove

    print(f"{name} was node {remove(folder, name)}; its key is served no longer")


@server_app.command("run", cls=Command)
def server_run(
    folder: Coordinator,
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that gets the results.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="OVERRIDES", help="As in simulate.")] = None,
) -> None:
    """Run a study over the registered sites."""
    from server.deployment import run

    run(folder, overrides or [], run_dir)


@site_app.command("ledger", cls=Command)
def ledger(site: Annotated[Path, typer.Argument(metavar="SITE_YAML", help="The site's own file.")]) -> None:
    """Show what left a site so far, by study: answers, models, images, guesses, epsilon."""
    _must_exist(site, "site file")
    from sites.ledger import show_ledger

    show_ledger(site)


@bench_app.command("audit", cls=Command)
def bench_audit(
    models: Annotated[int, typer.Option(help="How many reference models, an even number.")] = 64,
    size: Annotated[int, typer.Option(help="Height and width of the images in pixels.")] = 28,
    steps: Annotated[int, typer.Option(help="Training steps of each model.")] = 20,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int, typer.Option(help="torch threads on a processor.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Also write the figures, as JSON, to this file.")] = None,
) -> None:
    """Train the audit's reference models together and one after the other, in one run, and compare the times."""
    from fedkr.benchmarks.audit import measure_audit, print_audit
    from fedkr.learning.runtime import Runtime

    result = measure_audit(models, size, steps, Runtime.choose(device, threads=threads))
    print_audit(result)
    _write_json(out, result)


@bench_app.command("generator", cls=Command)
@options_of(GeneratorOptions)
def bench_generator(
    out: Annotated[Path | None, typer.Option(help="Also write the figures, as JSON, to this file.")] = None,
    **asked: Any,
) -> None:
    """Train and sample edm and biggan_deep against the plain diffusers loop, in one run, and compare."""
    from fedkr.benchmarks.generator import bench_generators, print_generators
    from simulations.live import shown_progress

    with shown_progress("benchmark") as progress:
        result = bench_generators(GeneratorOptions(**asked), progress)
    print_generators(result)
    _write_json(out, result)


@app.command(cls=Command)
def version() -> None:
    """Print the installed version."""
    print(f"fedkr {__version__}")


def main() -> None:
    """Enter by the console script ``fedkr``."""
    app(prog_name="fedkr")


def _explain(mistake: ClickException) -> str:
    """Return what was wrong with a command line, and which help says more."""
    text = " ".join(mistake.format_message().split()).rstrip(".")
    context = mistake.ctx if isinstance(mistake, UsageError) else None
    return f"{text}; `{context.command_path} --help` lists what there is" if context else text


def _application(context: typer.Context, module: str) -> int | None:
    """Hand the whole command line to the ``main`` of a module, which is a Hydra application; return its exit status."""
    status: int | None = importlib.import_module(module).main(context.args)
    return status


def _write_json(out: Path | None, values: object) -> None:
    """Write what a command found to the file that ``--out`` named, if any."""
    if out is not None:
        from fedkr.disk import write_json

        write_json(out, values)


def _must_exist(path: Path, what: str) -> None:
    if not path.exists():
        raise UserError(f"{path}: no such {what}")


if __name__ == "__main__":
    main()
