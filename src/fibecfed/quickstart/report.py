"""The table of a quick start and what it means, for the screen, quickstart.md and quickstart.json."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fibecfed.commands import command_line
from fibecfed.config import Config, load_config, to_dict, to_yaml
from fibecfed.errors import InputError
from fibecfed.federation import write_atomically
from fibecfed.methods import method_class
from fibecfed.quickstart.recipe import METHODS, Plan
from fibecfed.results import REPORT_FILE, RunDirectory, only_writer

RECIPE_FILE, MARKDOWN_FILE, JSON_FILE = "recipe.yaml", "quickstart.md", "quickstart.json"
_TENTH = 10  # up to so many devices, the worst tenth of them is the worst device
_TOO_NEAR = 0.02  # accuracy
_MESSAGE_LENGTH = 60  # characters of a message that fits a command line

_RECIPE_HEADER = """\
The settings of `fibecfed quickstart`, for runs of your own:
    {command}"""


@dataclass(frozen=True)
class Row:
    """One method's line: accuracies in [0, 1], megabytes both ways, seconds of training."""

    method: str
    trains: str
    sends: str
    accuracy_global: float
    accuracy_personalized: float
    worst_device: float
    megabytes: float
    cpu_seconds: float
    simulated_seconds: float

    def numbers(self) -> tuple[str, ...]:
        """As text, in the order of ``headings``."""
        accuracies = (self.accuracy_global, self.accuracy_personalized, self.worst_device)
        costs = (f"{self.megabytes:.1f}", f"{self.cpu_seconds:.0f}", f"{self.simulated_seconds:.0f}")
        return tuple(f"{value:.3f}" for value in accuracies) + costs


def headings(config: Config) -> tuple[str, ...]:
    """What the numbers of a row are."""
    worst = "worst device" if config.federation.device_count <= _TENTH else "worst tenth of devices"
    return ("global", "personalized", worst, "MB sent", "CPU s", "simulated s")


def row(summary: Mapping[str, Any]) -> Row:
    """The line of one run's summary.json."""
    method = method_class(summary["method"])
    return Row(
        method=method.name,
        trains=method.trains,
        sends=method.sends,
        accuracy_global=summary["accuracy"]["global"],
        accuracy_personalized=summary["accuracy"]["personalized"],
        worst_device=summary["worst_tenth"],
        megabytes=(summary["bytes"]["up"] + summary["bytes"]["down"]) / 1e6,
        cpu_seconds=summary["seconds"]["cpu"],
        simulated_seconds=summary["seconds"]["simulated"],
    )


@dataclass(frozen=True)
class Findings:
    """The summaries of the runs that have ended, in the order of the table."""

    plan: Plan
    summaries: tuple[dict[str, Any], ...]

    @property
    def rows(self) -> list[Row]:
        """The table."""
        return [row(summary) for summary in self.summaries]

    def reading(self) -> list[str]:
        """How to read the table."""
        config, rows = self.plan.config, self.rows
        examples = int(self.summaries[0]["data"]["held_out_examples"])
        best = max(r.accuracy_global for r in rows)
        error = 100 * math.sqrt(best * (1 - best) / examples)
        methods = {r.method for r in rows}
        sentences = [
            f"global: one model, the server's as it is saved, on all {examples} {config.evaluation.split} examples.",
            "personalized: each device's own model on its own part of them, pooled; "
            f"{headings(config)[2]}: the lowest of these. Equal to global where devices keep nothing of their own.",
        ]
        if {"fibecfed-plus", "fedavg-plus"} <= methods:
            sentences.append(
                "fedavg-plus has the same heads and loss as fibecfed-plus and no curriculum: what both gain over "
                "fedavg-lora is owed to these."
            )
        if "local-only" in methods:
            sentences.append(
                "local-only is what federation has to beat: no device learns from another. "
                "Its global is the mean over the devices' models."
            )
        if "centralized-lora" in methods:
            sentences.append(
                "centralized-lora is what gathering all text in one place would give: one device, one accuracy."
            )
        prior = "fedavg+prior, a mere label prior," if "fedavg+prior" in methods else "a mere label prior"
        return [
            *sentences,
            *self._whether_it_decides(),
            "Knowing a device's label mix lifts personalized accuracy by itself: "
            f"a gain there that {prior} also has is no gain.",
            f"One seed, {examples} examples: an accuracy is known to about {error:.1f} points (standard error).",
            f"CPU s: training only. simulated s: the same work on devices of {config.cost.device_gflops:g} GFLOP/s "
            f"over `{config.cost.network}` links.",
        ]

    def _whether_it_decides(self) -> list[str]:
        """Where ridge-head is within two points of centralized training, data decide nothing (docs/baselines.md)."""
        reached = {r.method: r.accuracy_global for r in self.rows}
        if not {"ridge-head", "centralized-lora"} <= reached.keys():
            return []
        if reached["ridge-head"] < reached["centralized-lora"] - _TOO_NEAR:
            return ["ridge-head takes no rounds at all: only what lies above it is owed to training."]
        return ["ridge-head takes no rounds and reaches centralized-lora: these data decide nothing between methods."]

    def places(self) -> list[tuple[str, str]]:
        """Where the results lie."""
        out = self.plan.out
        return [
            (f"{out / REPORT_FILE}", "this table and pictures, to look at in a browser"),
            (f"{out / MARKDOWN_FILE}, {JSON_FILE}", "this table, with versions, hardware, seed and commit"),
            (
                f"{self._favourite() / 'README.md'}",
                "a method's model card; beside it adapter/, curves.png, summary.json",
            ),
            (f"{out / RECIPE_FILE}", "the settings"),
        ]

    def next_steps(self, message: str) -> list[tuple[str, str]]:
        """Commands to try, each with what it does."""
        out, longer = self.plan.out, ("evaluation.every=1", "federation.rounds=20")
        own = ("data.file=messages.csv", "data.text=body", "data.label=topic")
        return [
            (command_line("predict", self._favourite(), message), "label a message"),
            (
                command_line("run", *own, "--out", "runs/mine"),
                "your own file; add --dry-run to see first what it takes",
            ),
            (command_line("methods"), "what else can be compared"),
            (
                f"{command_line('run', out / RECIPE_FILE, *longer, '--out', 'runs/longer')} --dry-run",
                "the same for longer, evaluated every round; without --dry-run it trains",
            ),
        ]

    def _favourite(self) -> Path:
        """The run to predict with: the default method's, if it is among them."""
        names = [r.method for r in self.rows]
        return self.plan.out / (Config().method if Config().method in names else names[0])

    def environment(self) -> str:
        """Seed, versions, hardware and commit of the runs; more than one of each if they differ."""
        versions = _distinct([s["versions"] for s in self.summaries])
        hardware = _distinct([s["hardware"] for s in self.summaries])
        commits = _distinct([s["git_commit"] or "no git checkout" for s in self.summaries])
        return "; ".join(
            [
                f"Seed {self.plan.config.seed}",
                " / ".join(", ".join(f"{name} {v}" for name, v in found.items()) for found in versions),
                " / ".join(f"{h['processor']}, {h['cores']} cores" for h in hardware),
                f"commit {' / '.join(commits)}",
            ]
        )

    def markdown(self, message: str) -> str:
        """The report as Markdown."""
        config = self.plan.config
        head = ("method", "trains", "sends", *headings(config))
        lines = [
            f"# Quick start: {config.dataset}, {config.federation.devices} devices",
            "",
            "Written by `fibecfed quickstart`.",
            "",
            _markdown_row(head),
            _markdown_row([*["---"] * 3, *["---:"] * (len(head) - 3)]),
            *(_markdown_row([r.method, r.trains, r.sends, *r.numbers()]) for r in self.rows),
            "",
            *(f"- {sentence}" for sentence in self.reading()),
            "",
            "Try next:",
            "",
            "```bash",
            *(f"{command}  # {what}" for command, what in self.next_steps(message)),
            "```",
            "",
            f"{self.environment()}.",
        ]
        return "\n".join(lines) + "\n"

    def content(self) -> dict[str, Any]:
        """The report for programs; ``runs`` holds every run's summary.json."""
        first = self.summaries[0]
        return {
            "dataset": self.plan.config.dataset,
            "seed": self.plan.config.seed,
            "evaluated_on": self.plan.config.evaluation.split,
            "held_out_examples": first["data"]["held_out_examples"],
            "rows": [asdict(r) for r in self.rows],
            "versions": first["versions"],
            "hardware": first["hardware"],
            "git_commit": first["git_commit"],
            "config": to_dict(self.plan.config),
            "runs": {summary["method"]: summary for summary in self.summaries},
        }

    def write(self, message: str) -> None:
        """quickstart.md and quickstart.json, each atomically."""
        text = json.dumps(self.content(), indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.plan.out / JSON_FILE, text.encode())
        write_atomically(self.plan.out / MARKDOWN_FILE, self.markdown(message).encode())


def findings(plan: Plan) -> Findings:
    """What the ended runs came to."""
    return _findings(plan, [wanted.directory for wanted in plan.runs])


def is_quickstart(folder: Path) -> bool:
    """Whether a quick start was begun there."""
    return (folder / RECIPE_FILE).is_file()


def findings_in(folder: Path) -> Findings:
    """The same of a quick start's directory, from its recipe and its runs. Raises InputError where none has ended."""
    found = _findings(Plan(load_config(folder / RECIPE_FILE), folder, ()), [folder / name for name in METHODS])
    if not found.summaries:
        again = command_line("quickstart", "--out", folder)
        raise InputError(f"No run of the quick start in '{folder}' has ended; go on with it: {again}")
    return found


def _findings(plan: Plan, directories: Iterable[Path]) -> Findings:
    begun = (RunDirectory.open(path) for path in directories if (path / "config.yaml").is_file())
    return Findings(plan, tuple(summary for run in begun if (summary := run.summary()) is not None))


def begin(plan: Plan, force: bool) -> None:
    """Write the recipe; remove an old report, which may be of other settings, and with ``force`` the old runs."""
    plan.out.mkdir(parents=True, exist_ok=True)
    for name in (MARKDOWN_FILE, JSON_FILE, REPORT_FILE):
        (plan.out / name).unlink(missing_ok=True)
    for wanted in plan.runs:
        if force and (wanted.directory / "config.yaml").is_file():
            with only_writer(wanted.directory):
                RunDirectory(wanted.directory).remove()
    path = plan.out / RECIPE_FILE
    header = _RECIPE_HEADER.format(command=command_line("run", path, "method=NAME", "--out", "DIR"))
    write_atomically(path, to_yaml(plan.config, header).encode())


def example_message(texts: Sequence[str]) -> str:
    """The text nearest to 60 characters that needs no escaping on a command line."""
    plain = [t for t in texts if "\n" not in t and "'" not in t] or ["where is my parcel?"]
    return min(plain, key=lambda text: (abs(len(text) - _MESSAGE_LENGTH), text))


def _distinct(values: Sequence[Any]) -> list[Any]:
    return [value for i, value in enumerate(values) if value not in values[:i]]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
