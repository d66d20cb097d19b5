"""The server of a run over machines: its experiment has a method and a model, but no text of the devices."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.serverapp import Grid

from fibecfed.config import Config, DataConfig, PartitionConfig, settle, shared_settings
from fibecfed.errors import InputError
from fibecfed.federation import Delivery, Failure, MemoryStore, Reply, Request, Server, ServerState
from fibecfed.methods import method_class, resolve
from fibecfed.runtime.assembly import Experiment, learner_of
from fibecfed.runtime.flower import wire
from fibecfed.runtime.flower.judging import FederatedEvaluator, state_request
from fibecfed.runtime.flower.own_data import labels_of, server_data
from fibecfed.runtime.flower.traffic import Traffic
from fibecfed.runtime.flower.transport import FlowerTransport, Joined, introduction
from fibecfed.runtime.handshake import Description, describe, differences
from fibecfed.tasks import task_kind
from fibecfed.training import torch_device

_OF_DEVICES = ("file", "device", "train_examples", "test_examples", "label_noise", "name", "allow_download")


@dataclass(frozen=True)
class ServerExperiment(Experiment):
    """An experiment whose devices, with their text and states, are elsewhere."""

    transport: FlowerTransport = field(kw_only=True)
    evaluate: FederatedEvaluator

    @property
    def devices_here(self) -> bool:
        return False

    def _joined(self) -> list[Joined]:
        return [self.transport.joined[device] for device in sorted(self.transport.joined)]

    def states_lost(self, state: ServerState) -> dict[int, str]:
        """What the devices said in the latest evaluation."""
        return dict(sorted(self.evaluate.states_lost.items()))

    def data_summary(self) -> dict[str, Any]:
        """What the devices said when they joined: numbers of examples only."""
        return {
            "origin": self.data.origin,
            "dataset": "the sites' own text",
            "train_examples": sum(int(j.said["examples"]) for j in self._joined()),
            "held_out_examples": len(self.data.held_out)
            or sum(int(j.said["held_out_examples"]) for j in self._joined()),
        }

    def partition(self) -> dict[str, Any]:
        """Examples of each device that has joined; which labels they have is not known here."""
        return {
            "devices": self.config.federation.devices,
            "labels": list(self.data.task.output_names),
            "train_sizes": {str(j.device): int(j.said["examples"]) for j in self._joined()},
        }

    def save_on_devices(self, state: ServerState) -> list[Failure]:
        """Let every device keep its own adapter; returns those that could not."""
        run, limit = self.server.run_name, self.config.federation.deadline_seconds
        requests = [state_request(state, run, "save", j.device) for j in self._joined()]
        answers = self.transport.ask(wire.SAVE, requests, limit)
        return [answer for answer in answers if isinstance(answer, Failure)]


def assemble_server(
    config: Config,
    run: str,
    grid: Grid,
    report: Callable[[str], None] = print,
    poll_seconds: float = 0.5,
    traffic: Traffic | None = None,
) -> ServerExperiment:
    """Load the model, wait for the devices, wire method and transport. ``run`` names this run to the devices.

    What crosses is counted in ``traffic``.

    Raises InputError for settings that mean nothing over machines, RunFailed if too few devices join in time.
    """
    check_settings(config)
    config = settle(resolve(config))
    torch_device(config.runtime.device)
    learner = learner_of(config, task_kind(config).of(labels_of(config)).outputs)
    mine = describe(learner, labels_of(config))

    def check(reply: Reply) -> str | None:
        if not 0 <= reply.address.device < config.federation.device_count:
            return f"there is no device {reply.address.device}; federation.devices is {config.federation.devices}"
        if not all(type(reply.info.get(key)) is int for key in ("examples", "held_out_examples")):
            return "it does not say how many examples it has"
        try:
            found = differences(mine, Description.of(reply.info["site"]))
        except (KeyError, TypeError, ValueError):
            return "it does not describe itself"
        return " ".join(found) or None

    said = {"settings": shared_settings(config), "server": mine.to_content()}
    transport = FlowerTransport(grid, introduction(run, said), check, report, learner.initial, traffic)
    transport.poll_seconds = poll_seconds
    federation = config.federation
    transport.gather(federation.device_count, federation.minimum_replies, federation.deadline_seconds)
    data = server_data(learner)
    site = learner.site(data, MemoryStore())

    def judged(requests: Sequence[Request]) -> Iterator[Delivery | Failure]:
        return transport.ask(wire.EVALUATE, requests, federation.deadline_seconds)

    return ServerExperiment(
        config=config,
        pretrained=learner.pretrained,
        model=learner.model,
        layout=learner.layout,
        data=data,
        method=learner.method,
        site=site,
        server=Server(config, learner.method, transport, federation.device_count, run),
        evaluate=FederatedEvaluator(learner.method, site, run, judged),
        start=learner.method.init(learner.initial),
        transport=transport,
    )


def check_settings(config: Config) -> None:
    """Refuse what only makes sense where all text is in one place. Raises InputError."""
    method, data, unset = method_class(config.method), config.data, DataConfig()
    labels_of(config)
    if method.pooled_data or method.global_is_mean_of_devices:
        raise InputError(f"method={config.method} is no federation: it cannot run over machines.")
    for key in _OF_DEVICES:
        if getattr(data, key) != getattr(unset, key):
            raise InputError(f"data.{key} means nothing to the server: every device has text of its own.")
    if data.partition.kind != "column" and data.partition != PartitionConfig():
        raise InputError("data.partition means nothing here: every device has text of its own.")
    if data.test_file is not None and config.evaluation.split == "validation":
        raise InputError("data.test_file is the server's test data; evaluation.split=validation would not use it.")
