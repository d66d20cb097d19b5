"""The server of a run over machines: its experiment has a method and a model, but no text of the devices."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from flwr.serverapp import Grid

from fibecfed.config import Config, DataConfig, FederationConfig, PartitionConfig, settle, shared_settings
from fibecfed.errors import InputError
from fibecfed.federation import Delivery, Failure, MemoryStore, Reply, Request, Server, ServerState
from fibecfed.flower import wire
from fibecfed.flower.federated_evaluator import FederatedEvaluator, state_request
from fibecfed.flower.own_data import labels_of, server_data
from fibecfed.flower.traffic import Traffic
from fibecfed.flower.transport import FlowerTransport, Joined, introduction
from fibecfed.methods import method_class, resolve
from fibecfed.runtime import Experiment, Holdings, learner_of
from fibecfed.runtime.handshake import Description, describe, differences
from fibecfed.tasks import task_kind
from fibecfed.training import torch_device

_OF_DEVICES = ("file", "device", "train_examples", "test_examples", "label_noise", "name", "allow_download", "group")


@dataclass(frozen=True)
class DevicesElsewhere:
    """Devices with their text and states on machines of their own; what they said when they joined is all we know."""

    transport: FlowerTransport
    evaluator: FederatedEvaluator
    run: str
    federation: FederationConfig
    test_examples: int  # the server's own; 0: evaluation is on the devices' held-out text

    @property
    def here(self) -> bool:
        return False

    def _joined(self) -> list[Joined]:
        return [self.transport.joined[device] for device in sorted(self.transport.joined)]

    def states_lost(self, state: ServerState) -> dict[int, str]:
        """What the devices said in the latest evaluation."""
        return dict(sorted(self.evaluator.states_lost.items()))

    def holdings(self) -> Holdings:
        """Numbers of examples of the devices that have joined."""
        joined = self._joined()
        sizes = {j.device: int(j.said["examples"]) for j in joined}
        return Holdings(
            dataset="the sites' own text",
            devices=self.federation.device_count,
            train_sizes=sizes,
            train_examples=sum(sizes.values()),
            held_out_examples=self.test_examples or sum(int(j.said["held_out_examples"]) for j in joined),
        )

    def save(self, state: ServerState) -> list[Failure]:
        """Let every device keep its own adapter; returns those that could not."""
        requests = [state_request(state, self.run, "save", j.device) for j in self._joined()]
        answers = self.transport.ask(wire.SAVE, requests, self.federation.deadline_seconds)
        return [answer for answer in answers if isinstance(answer, Failure)]


def assemble_server(
    config: Config,
    run: str,
    grid: Grid,
    report: Callable[[str], None] = print,
    poll_seconds: float = 0.5,
    traffic: Traffic | None = None,
) -> tuple[Experiment, DevicesElsewhere]:
    """Load the model, wait for the devices, wire method and transport. ``run`` names this run to the devices.

    What crosses is counted in ``traffic``.

    Raises InputError for settings that mean nothing over machines, RunFailed if too few devices join in time.
    """
    check_settings(config)
    config = settle(resolve(config))
    torch_device(config.runtime.device)
    learner = learner_of(config, task_kind(config).of(labels_of(config)))
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

    def ask(requests: Sequence[Request]) -> Iterator[Delivery | Failure]:
        return transport.ask(wire.EVALUATE, requests, federation.deadline_seconds)

    evaluator = FederatedEvaluator(learner.method, site, run, ask)
    devices = DevicesElsewhere(transport, evaluator, run, federation, len(data.held_out))
    experiment = Experiment(
        config=config,
        pretrained=learner.pretrained,
        model=learner.model,
        layout=learner.layout,
        data=data,
        method=learner.method,
        site=site,
        server=Server(config, learner.method, transport, federation.device_count, run),
        devices=devices,
        evaluate=evaluator,
        start=learner.method.init(learner.initial),
    )
    return experiment, devices


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
    if config.sharing.count == "sites" and task_kind(config).generates:
        raise InputError("sharing.count=sites compares groups, and each device here names its own; take another count.")
    if data.partition.habits:
        raise InputError("data.partition.habits means nothing here: every device has labels of its own.")
    if data.test_file is not None and config.evaluation.split == "validation":
        raise InputError("data.test_file is the server's test data; evaluation.split=validation would not use it.")
