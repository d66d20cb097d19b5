"""What a server and a site must have in common before the first round, and sentences about what they do not."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from fibecfed.config import WHERE, Config, dotted
from fibecfed.methods import method_names, package_of
from fibecfed.runtime.assembly import Learner
from fibecfed.runtime.experiment import Experiment
from fibecfed.tasks import TASKS

SHOWN = 5  # differences that are named

# Settings that every site has for itself: where its files are and how they are written, and its hardware. Base
# weights are compared by what they are, not by the name that a machine has for them.
OWN_SETTINGS = (*WHERE, "data.group", "runtime.threads", "runtime.device", "runtime.device_states")


@dataclass(frozen=True)
class Description:
    """What one party of a federation has. JSON-able with ``to_content``; holds no text and no example."""

    version: str  # of fibecfed
    settings: Mapping[str, Any]  # dotted keys, without OWN_SETTINGS
    base_sha256: str
    tokenizer_sha256: str
    outputs: tuple[str, ...]  # their names
    parameters: tuple[tuple[str, tuple[int, ...]], ...]  # name and shape of all that trains, in the order of the layout
    template_sha256: str = ""  # of a language model: how conversations become text; "": no language model
    package: str = ""  # that brings the method, with its version; "": fibecfed itself

    @property
    def config_hash(self) -> str:
        """16 hex digits over the settings that must agree."""
        return hashlib.sha256(json.dumps(dict(self.settings), sort_keys=True).encode()).hexdigest()[:16]

    def to_content(self) -> dict[str, Any]:
        """As JSON has it."""
        content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        for key in ("package", "template_sha256"):
            if not content[key]:
                del content[key]
        return content

    @staticmethod
    def of(content: Mapping[str, Any]) -> "Description":
        """The reverse of ``to_content``. Raises KeyError, TypeError or ValueError for anything else."""
        return Description(
            version=str(content["version"]),
            settings=dict(content["settings"]),
            base_sha256=str(content["base_sha256"]),
            tokenizer_sha256=str(content["tokenizer_sha256"]),
            outputs=tuple(str(name) for name in content["outputs"]),
            parameters=tuple((str(name), tuple(int(n) for n in shape)) for name, shape in content["parameters"]),
            template_sha256=str(content.get("template_sha256", "")),
            package=str(content.get("package", "")),
        )


def describe(process: Experiment | Learner, outputs: Sequence[str]) -> Description:
    """What this process has, ready to be sent and compared."""
    return Description(
        version=importlib.metadata.version("fibecfed"),
        settings=common_settings(process.config),
        base_sha256=process.pretrained.sha256,
        tokenizer_sha256=tokenizer_sha256(process.pretrained.tokenizer),
        outputs=tuple(outputs),
        parameters=tuple((p.name, p.shape) for p in process.layout),
        template_sha256=template_sha256(process.pretrained.tokenizer) if process.pretrained.generates else "",
        package=package_of(process.config.method),
    )


def common_settings(config: Config) -> dict[str, Any]:
    """The settings that all parties of a federation must share, by dotted key, as JSON has them."""
    return {key: value for key, value in dotted(config).items() if key not in OWN_SETTINGS}


def tokenizer_sha256(tokenizer: Any) -> str:
    """A digest over all that decides how text becomes token ids: the tokenizer, its template, pad token, longest text.

    How it pads and cuts from call to call does not count.
    """
    core = getattr(tokenizer, "backend_tokenizer", None)
    content = {"vocabulary": tokenizer.get_vocab()} if core is None else json.loads(core.to_str())
    content.pop("padding", None)
    content.pop("truncation", None)
    content["chat_template"] = getattr(tokenizer, "chat_template", None)
    content |= {"pad_token": tokenizer.pad_token, "model_max_length": int(tokenizer.model_max_length)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def template_sha256(tokenizer: Any) -> str:
    """A digest over what writes a conversation: the chat template, and the special tokens that it and its end take."""
    content = {
        "chat_template": tokenizer.chat_template,
        "special": sorted(tokenizer.all_special_tokens),
        "begin_end": [tokenizer.bos_token, tokenizer.eos_token],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def differences(server: Description, site: Description) -> list[str]:
    """What a site must change before it can join, one sentence each; [] if it can.

    At most five, the likeliest causes first: of two versions everything else may differ, too, and a setting that
    differs may change the parameters.
    """
    if server.version != site.version:
        return [
            f"The server runs fibecfed {server.version}, this site {site.version}; install the server's version here, "
            "from the same checkout."
        ]
    found = [*_settings(server, site), *_model(server, site), *_outputs(server, site)]
    if not found:
        found = list(_parameters(server, site))
    if len(found) > SHOWN:
        return [*found[:SHOWN], f"{len(found) - SHOWN} further differences are not shown; mend these first."]
    return found


def method_difference(server: Description, name: str) -> str | None:
    """Why a site cannot have the server's method, from what is installed here; imports nothing of another package."""
    theirs = server.package or f"fibecfed {server.version}"
    if name not in method_names():
        return f"it has no method '{name}', which is of the package {theirs} at the server; install that there"
    mine = package_of(name)
    if mine != server.package:
        return (
            f"its method '{name}' is of the package {mine or 'fibecfed'}, the server's of {theirs}; install the "
            "server's there"
        )
    return None


def _settings(server: Description, site: Description) -> Iterator[str]:
    for key in sorted(server.settings.keys() | site.settings.keys()):
        theirs, mine = (json.dumps(d.settings.get(key), sort_keys=True) for d in (server, site))
        if theirs != mine:
            yield f"{key} is {theirs} at the server and {mine} here; set {key}={theirs} in this site's configuration."


def _model(server: Description, site: Description) -> Iterator[str]:
    if server.base_sha256 != site.base_sha256:
        yield (
            f"The base model's weights differ (sha256 {server.base_sha256[:16]} at the server, {site.base_sha256[:16]} "
            "here); let model.name be a copy of the server's model."
        )
    if server.template_sha256 != site.template_sha256:
        yield (
            f"The chat templates differ, or the special tokens that begin and end a text (sha256 "
            f"{server.template_sha256[:16]} at the server, {site.template_sha256[:16]} here), so that the same "
            "conversation would be other tokens; copy the server's tokenizer files, chat_template.jinja with them, "
            "beside the model."
        )
    elif server.tokenizer_sha256 != site.tokenizer_sha256:
        yield (
            f"The tokenizers differ (sha256 {server.tokenizer_sha256[:16]} at the server, "
            f"{site.tokenizer_sha256[:16]} here); copy the server's tokenizer files beside the model."
        )


def _outputs(server: Description, site: Description) -> Iterator[str]:
    names = f"{TASKS[site.settings['task.kind']].group}s"
    theirs, mine = server.outputs, site.outputs
    missing, unknown = [[n for n in a if n not in b] for a, b in ((theirs, mine), (mine, theirs))]
    if missing:
        yield (
            f"This site's data lacks the {names} {_listed(missing)}, which the server has; every site needs the same "
            f"list of {names}."
        )
    if unknown:
        yield (
            f"This site's data has the {names} {_listed(unknown)}, which the server does not know; rename or remove "
            f"these rows, or add the {names} at the server and at every site."
        )
    if not missing and not unknown and theirs != mine:
        first = next(i for i, (a, b) in enumerate(zip(theirs, mine, strict=False)) if a != b)
        yield (
            f"The {names} are the same but in another order: number {first + 1} is '{theirs[first]}' at the server and "
            f"'{mine[first]}' here; write them alike at both."
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _parameters(server: Description, site: Description) -> Iterator[str]:
    """The first parameter that differs; the cause is none of the above, so it is a library's."""
    for theirs, mine in zip_longest(server.parameters, site.parameters):
        if theirs != mine:
            yield (
                f"The parameters that train differ: {_parameter(theirs)} at the server, {_parameter(mine)} here; "
                "install the server's versions of peft and transformers."
            )
            return


def _parameter(parameter: tuple[str, tuple[int, ...]] | None) -> str:
    return "none more" if parameter is None else f"'{parameter[0]}' of shape {parameter[1]}"
