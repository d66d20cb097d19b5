"""The command line."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fibecfed.cli.explaining import explained, read_arguments
from fibecfed.cli.flower_command import app as flower_app
from fibecfed.config import expanded
from fibecfed.config.loading import parse_overrides
from fibecfed.errors import InputError

app = typer.Typer(
    help="Federated fine-tuning of language models on text that may not leave its sites.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = Console()

Arguments = Annotated[list[str] | None, typer.Argument(metavar="[CONFIG.yaml] [KEY=VALUE ...]", show_default=False)]
RunDir = Annotated[Path, typer.Argument(metavar="DIR", help="The directory of a run.")]


@app.command()
def run(
    arguments: Arguments = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the results.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier run in --out.")] = False,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with a run that was stopped, or with KEY=VALUE.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be trained and sent, and what it takes.")
    ] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the curves for TensorBoard, too (extra tensorboard).")
    ] = None,
    trackio: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="Write the curves for Trackio, too (extra trackio).")
    ] = None,
) -> None:
    """Fine-tune one model over all devices."""
    out, resume = (None if path is None else expanded(path) for path in (out, resume))
    with explained(resume or out):
        if resume is not None:
            if any("=" not in a for a in arguments or []) or out is not None or force or dry_run:
                raise InputError(
                    "--resume takes everything from its directory; give no configuration, --out, --force or --dry-run, "
                    "only settings that may change, as federation.rounds=40."
                )
            wanted = parse_overrides(arguments or [])
            from fibecfed.cli.running import go_on, loggers_of

            go_on(resume, wanted, loggers_of(tensorboard, trackio), console)
            return
        config = read_arguments(arguments or [])
        from fibecfed.cli.running import dry, loggers_of, start  # takes seconds, which a mistake need not

        if dry_run:
            dry(config, console)
            return
        if out is None:
            raise InputError("Say where the results go: --out DIR.")
        start(config, out, force, loggers_of(tensorboard, trackio), console)


@app.command()
def evaluate(
    directory: RunDir,
    split: Annotated[str | None, typer.Option(help="test or validation; default: as in the run.")] = None,
) -> None:
    """Evaluate a run's saved model again, by both protocols."""
    with explained():
        from fibecfed.cli.running import evaluate_directory

        console.print_json(json.dumps(evaluate_directory(directory, split)))


@app.command()
def predict(
    directory: RunDir,
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT ...]", show_default=False)] = None,
    file: Annotated[
        Path | None, typer.Option(help="A file with one text a line (two texts separated by a tab for pairs).")
    ] = None,
    device: Annotated[int | None, typer.Option(help="Use this device's own model.")] = None,
) -> None:
    """Label texts (arguments, a file, or standard input) with a run's model: one JSON object a line."""
    with explained():
        from fibecfed.cli.running import predict_lines

        if texts and file:
            raise InputError("Give texts as arguments or --file, not both.")
        if file is not None and not file.is_file():
            raise InputError(f"File '{file}' does not exist.")
        if texts:
            lines = list(texts)
        else:
            content = file.read_text(encoding="utf-8") if file else sys.stdin.read()
            lines = content.splitlines()
        if not lines:
            raise InputError("There is no text to predict; give it as arguments, with --file, or on standard input.")
        for line in predict_lines(directory, lines, device):
            print(json.dumps(line, ensure_ascii=False))


@app.command()
def quickstart(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", show_default=False)] = None,
    out: Annotated[Path, typer.Option(help="Directory for the results.")] = Path("runs/quickstart"),
    force: Annotated[bool, typer.Option("--force", help="Run everything again.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side. Default: 2, on one core 1.", show_default=False)
    ] = None,
) -> None:
    """Compare a few methods on the messages shipped with the package, in about two minutes, offline."""
    with explained():
        from fibecfed.cli.quickstart_command import quick_start, usual_jobs

        quick_start(overrides or [], out, force, jobs or usual_jobs(), console)


@app.command()
def compare(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="SPEC.yaml [KEY=VALUE ...]", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the runs and the tables.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Runs side by side. Default: one a core, or one a GPU.", show_default=False),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after so long; go on with the same command.")
    ] = None,
) -> None:
    """Run methods x data sets x partitions x seeds as a file says; what is done is kept, what was stopped goes on."""
    with explained():
        from fibecfed.cli.comparison_command import compare as carry_out
        from fibecfed.cli.comparison_command import read_spec_arguments

        path, overrides = read_spec_arguments(arguments or [])
        if out is None:
            raise InputError("Say where the runs and tables go: --out DIR.")
        carry_out(path, overrides, out, jobs, hours, console)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of a comparison.")],
) -> None:
    """Write the tables and pictures of a comparison: Markdown, CSV, LaTeX, PNG."""
    with explained():
        from fibecfed.cli.comparison_command import report as write

        write(directory, console)


@app.command()
def methods(arguments: Arguments = None) -> None:
    """List the methods; with settings (such as model.name=minilm) also what a round of each takes on one device."""
    with explained():
        from fibecfed.cli.tables import methods_table

        if not arguments:
            console.print(methods_table())
            console.print(
                "For parameters and bytes a round, name a model: fibecfed methods model.name=minilm", highlight=False
            )
            return
        from fibecfed.cli.running import rounds_of_methods

        console.print(methods_table(rounds_of_methods(read_arguments(arguments))))
        console.print("Of one device in a round in mid-run; 0 where there are no rounds.", highlight=False)


@app.command()
def datasets(arguments: Arguments = None) -> None:
    """List the data sets known by name, and whether they are found in data.dir."""
    with explained():
        from fibecfed.cli.data_commands import datasets_table

        console.print(datasets_table(read_arguments(arguments or []).data.dir))


@app.command()
def partition(
    arguments: Arguments = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Save a picture of it, too.")] = None,
) -> None:
    """Print who would hold which training examples; nothing is trained."""
    with explained():
        from fibecfed.cli.data_commands import show_partition

        show_partition(read_arguments(arguments or []), plot, console)


@app.command()
def doctor(
    arguments: Arguments = None,
    out: Annotated[Path, typer.Option(help="Where results would go: is it writable, is there room?")] = Path("."),
    server: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Check a run over machines: the server's folder (see --host).")
    ] = None,
    device: Annotated[
        Path | None, typer.Option(metavar="DEVICE.yaml", help="Check a device of such a run instead (see --connect).")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(metavar="PEM", help="A server's certificate.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="PEM", help="Its private key.")] = None,
    authority: Annotated[
        Path | None, typer.Option(metavar="PEM", help="The certificate of the authority that devices trust.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="The name or address by which devices reach the server.")] = None,
    listen: Annotated[
        list[str] | None, typer.Option(metavar="[HOST:]PORT", help="Is this port free? Can be repeated.")
    ] = None,
    connect: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help="Does this address answer? Can be repeated.")
    ] = None,
) -> None:
    """Check versions, settings, model, data and disk for a run, and certificates and ports; say what to fix."""
    with explained():
        from fibecfed.cli.doctor_command import Wanted, examine

        if certificate is None and (key or authority or (host and server is None)):
            raise InputError("--key, --authority and --host belong to a certificate; name it with --certificate.")
        if device is not None and (arguments or server or certificate or listen):
            raise InputError("--device takes everything from its file; give nothing else but --connect HOST:PORT.")
        wanted = Wanted(out, server, device, certificate, key, authority, host, listen or [], connect or [])
        examine(read_arguments(arguments or []), wanted, console)


@app.command()
def config() -> None:
    """Print every configuration key with its default and meaning."""
    from fibecfed.cli.tables import print_config_keys

    print_config_keys(console)


app.add_typer(flower_app, name="flower")


def main() -> None:
    """Entry point of the ``fibecfed`` command."""
    app()
