"""The command line."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fibecfed import __version__
from fibecfed.cli.explaining import errors, explained, read_arguments
from fibecfed.cli.flower_command import app as flower_app
from fibecfed.cli.texts import TextsCommand
from fibecfed.commands import command_line
from fibecfed.config import expanded
from fibecfed.config.loading import parse_overrides
from fibecfed.errors import InputError
from fibecfed.importing import uncollected
from fibecfed.screen import plain_console, say

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = plain_console()

Arguments = Annotated[list[str] | None, typer.Argument(metavar="[CONFIG.yaml] [KEY=VALUE ...]", show_default=False)]
RunDir = Annotated[Path, typer.Argument(metavar="DIR", help="The directory of a run.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fibecfed {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Federated fine-tuning of language models on text that may not leave its sites."""


@app.command()
def run(
    arguments: Arguments = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the results.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier run in --out.")] = False,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with a stopped run; KEY=VALUE changes what may change.")
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
            with uncollected():
                from fibecfed.cli.running import go_on, loggers_of

            go_on(resume, wanted, loggers_of(tensorboard, trackio), console)
            return
        config = read_arguments(arguments or [])
        from fibecfed.cli.data_notes import check_data

        check_data(config)
        with uncollected():
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
        with uncollected():
            from fibecfed.cli.running import evaluate_directory

        console.print_json(json.dumps(evaluate_directory(directory, split)))


@app.command(cls=TextsCommand)
def predict(
    directory: RunDir,
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT ...]", show_default=False)] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="A CSV, TSV, JSONL or Parquet file with the run's own columns, or any other with one text a line "
            "(for pairs: two, with a tab between them)."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the predictions there, as .csv or .jsonl.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --out.")] = False,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Use the own model of this device (its name or number).")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Language models: tokens of an answer at most. Default: 200.", show_default=False),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Language models: 0, the default, takes the most probable token.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Language models: of draws with --temperature.", show_default=False)
    ] = None,
) -> None:
    """Label texts (arguments, a file, or standard input) with a run's model, or answer them: one JSON object a line.

    A text that begins with "-" goes behind "--". A file with labels also gives the accuracy and a confusion table. A
    language model's answer to one argument comes as plain text, bit by bit.
    """
    with explained():
        with uncollected():
            from fibecfed.cli.answering_command import Generation
            from fibecfed.cli.predict_command import Request
            from fibecfed.cli.predict_command import predict as carry_out

        generation = Generation(max_new_tokens, temperature, seed)
        carry_out(Request(directory, texts or [], file, device, out, force, generation), console, errors)


@app.command()
def chat(
    directory: RunDir,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Use the own model of this device (its name or number).")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of an answer at most. Default: 200.", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.0, help="0, the default, takes the most probable token.", show_default=False),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of draws with --temperature.", show_default=False)] = None,
) -> None:
    """Talk with a run's language model over several turns; lines from a pipe are answered as one JSON object a line."""
    with explained():
        with uncollected():
            from fibecfed.cli.answering_command import Generation
            from fibecfed.cli.chat_command import chat as carry_out

        carry_out(directory, device, Generation(max_new_tokens, temperature, seed), errors)


@app.command()
def export(
    directory: RunDir,
    merge: Annotated[bool, typer.Option("--merge", help="Add the adapter to the weights of its base.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="A new folder for the model.")] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="The own model of this device (its name or number).")
    ] = None,
) -> None:
    """Write a run's model as one folder that plain transformers loads: base and LoRA adapter, merged."""
    out = None if out is None else expanded(out)
    with explained():
        if not merge:
            raise InputError(
                f"Say --merge; the adapter alone is an ordinary PEFT adapter already: {directory}/adapter."
            )
        if out is None:
            raise InputError("Say where the model goes: --out FOLDER.")
        from fibecfed.runs.merging import export_merged

        say(
            console, f"The model is in {export_merged(directory, out, device)}; its README.md has the lines to load it."
        )


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
    log: Annotated[
        Path | None, typer.Option(help="Add a line for each run to this file (JSON lines), tables beside it.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would run, run nothing.")
    ] = False,
) -> None:
    """Run methods x data sets x partitions x seeds as a file says; what is done is kept, what was stopped goes on."""
    with explained():
        from fibecfed.cli.comparison_command import compare as carry_out
        from fibecfed.cli.comparison_command import read_spec_arguments, rehearse

        path, overrides = read_spec_arguments(arguments or [])
        if out is None:
            raise InputError("Say where the runs and tables go: --out DIR.")
        if dry_run:
            rehearse(path, overrides, out, console)
            return
        carry_out(path, overrides, out, jobs, hours, log, console)


@app.command()
def report(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The --out of a run, a comparison or a quick start, or a --log.")
    ],
    reference: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a log: the variant that all others are compared with.")
    ] = None,
) -> None:
    """Write report.html again; of a comparison also its tables and pictures: Markdown, CSV, LaTeX, PNG.

    Of a log (compare --log) print the tables.
    """
    with explained():
        from fibecfed.cli.report_command import log_tables, write_again

        if directory.is_file():
            log_tables(directory, reference, console)
        elif reference is not None:
            raise InputError("--reference is for a log; a comparison's file names its own reference.")
        else:
            write_again(directory, console)


@app.command()
def methods(arguments: Arguments = None) -> None:
    """List the methods; with settings (such as model.name=minilm) also what a round of each takes on one device.

    With task.kind=causal-lm it says which of them a language model can have; that needs no model and no data.
    """
    with explained():
        from fibecfed.cli.methods_command import note_on_rounds, show_methods

        if not arguments:
            example = command_line("methods", "model.name=minilm")
            show_methods(None, f"For parameters and bytes a round, name a model: {example}", console, errors)
            return
        from fibecfed.runs.methods_for import methods_for

        rounds = methods_for(read_arguments(arguments))
        show_methods(rounds.found, note_on_rounds(rounds.uncounted), console, errors)


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
        settings = read_arguments(arguments or [])
        from fibecfed.cli.data_notes import check_data

        check_data(settings)
        from fibecfed.cli.data_commands import show_partition

        show_partition(settings, plot, console)


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
def config(
    section: Annotated[
        str | None, typer.Argument(metavar="[SECTION]", help="Only this one, such as data or lora.", show_default=False)
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The settings that this method brings itself.", show_default=False),
    ] = None,
) -> None:
    """Print every configuration key with its default and meaning; redirected, as a YAML file."""
    with explained():
        from fibecfed.cli.config_command import show_config

        show_config(section, console, method)


app.add_typer(flower_app, name="flower")


def main() -> None:
    """Entry point of the ``fibecfed`` command."""
    app()
