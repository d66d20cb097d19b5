"""What a device does with the server's messages: joins, trains, evaluates, keeps its own adapter."""

import dataclasses
import json
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fibecfed.commands import command_line
from fibecfed.config import Config, DeviceConfig, build_config, to_yaml
from fibecfed.data.told import told_by_columns
from fibecfed.errors import FibecFedError
from fibecfed.federation import (
    Device,
    DeviceSide,
    DiskStore,
    Method,
    Reply,
    Request,
    Site,
    decode,
    encode,
    write_atomically,
)
from fibecfed.flower import wire
from fibecfed.flower.federated_evaluator import counted, server_state
from fibecfed.flower.own_data import UnknownLabels, labels_of, own_data
from fibecfed.flower.resending import Held, Lacking
from fibecfed.methods import resolve, tuning
from fibecfed.runtime.assembly import Learner, learner_of
from fibecfed.runtime.experiment import describe_adapter
from fibecfed.runtime.handshake import Description, describe, differences, method_difference
from fibecfed.tasks import task_kind
from fibecfed.training import DeviceFailed
from fibecfed.tuning import put_tensors, save_adapter


class Refused(FibecFedError):
    """Why a device does not answer; nothing in it comes from the device's text."""


class DeviceServer:
    """One device on its own machine. The backbone and the text are loaded once for each run, then kept.

    Its folder holds, for each run: settings.json (what the server said), states/, and when the run has ended
    adapter/ and config.yaml, as a run's directory has them.
    """

    def __init__(self, config: DeviceConfig, report: Callable[[str], None] = print) -> None:
        self._config = config
        self._folder = Path(config.folder)
        self._report = report
        self._run: str | None = None
        self._told: dict[str, Any] | None = None  # settings of the run that is loaded
        self._learner: Learner | None = None
        self._site: Site | None = None
        self._held: Held | None = None

    def __call__(self, kind: str, data: bytes) -> bytes:
        """The encoded reply to an encoded request. Raises Refused, whose text may be sent.

        What goes wrong with the device's own text is reported here only, since error messages may quote it.
        """
        try:
            request = decode(data, Request)
            return encode(self._answer(kind, request))
        except Exception as error:
            raise Refused(self._explained(error)) from None

    def _explained(self, error: Exception) -> str:
        """Say here what went wrong; returns what may be sent of it."""
        if isinstance(error, (Refused, DeviceFailed)):
            self._report(f"Not answered: {error}")
            return str(error)
        if isinstance(error, FibecFedError):
            self._report(f"Error: {error}")
            if isinstance(error, UnknownLabels):
                several = "a label" if error.count == 1 else f"{error.count} labels"
                return f"its text has {several} that data.labels does not name; its own log says why"
            return "its settings or its text cannot be used; its own log says why"
        self._report("".join(traceback.format_exception(error)))
        return f"{type(error).__name__}; its own log says more"

    def _answer(self, kind: str, request: Request) -> Reply:
        if kind == wire.JOIN:
            try:
                return self._join(request)
            except Exception as error:  # told in a reply, which says which device this is
                address = dataclasses.replace(request.address, device=self._config.device)
                return Reply(address, {}, {wire.REFUSAL: self._explained(error)})
        site = self._at(request.address.run)
        assert self._held is not None
        try:
            request = self._held.completed(kind, request)
        except Lacking:
            raise Refused(wire.LACKS) from None
        address = dataclasses.replace(request.address, device=self._config.device)
        if address != request.address:
            raise Refused(f"it is device {self._config.device}, not {request.address.device}")
        device = Device(site, address.device, address.state_version)
        if device.state_lost is not None:
            self._report(f"The state of version {address.state_version} is {device.state_lost}; it is made anew.")
        if kind == wire.EVALUATE:
            return counted(self._method(), device, request)
        if kind == wire.SAVE:
            self._save_adapter(device, request)
            return Reply(address, {})
        return DeviceSide(self._method(), site).answer(request)

    def _join(self, request: Request) -> Reply:
        run, settings = request.address.run, request.info["settings"]
        server = Description.of(request.info["server"])
        if (differs := method_difference(server, str(settings["method"]))) is not None:
            raise Refused(differs)
        folder = self._of(run)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "settings.json", json.dumps(settings).encode())
        if settings != self._told:  # a run that was stopped may go on with more rounds or another deadline
            self._run = self._site = self._learner = None
        site = self._at(run)
        address = dataclasses.replace(request.address, device=self._config.device)
        assert self._learner is not None
        mine = describe(self._learner, site.data.task.output_names)
        if found := differences(server, mine):
            raise Refused(" ".join(found))
        train, held_out = len(site.data.train), len(site.data.held_out)
        self._report(f"Joined run {run} with {train} training and {held_out} held-out examples.")
        for note in site.data.notes:
            self._report(f"Note: {note}")
        counts = {"examples": train, "held_out_examples": held_out}
        return Reply(address, {}, {"site": mine.to_content(), wire.KEEPS: True, **counts})

    def _method(self) -> Method:
        assert self._learner is not None  # it came with the site
        return self._learner.method

    def _of(self, run: str) -> Path:
        if not run.isalnum():
            raise Refused("the run's name is no name")
        return self._folder / run

    def _at(self, run: str) -> Site:
        """The site of a run, built when it is first asked for. Raises Refused for a run that it never joined."""
        if self._site is not None and self._run == run:
            return self._site
        path = self._of(run) / "settings.json"
        if not path.is_file():
            raise Refused("it has not joined this run")
        told = json.loads(path.read_text(encoding="utf-8"))
        config = self._settings(told)
        self._run = self._site = self._learner = None  # one backbone at a time
        self._learner = learner_of(resolve(config), task_kind(config).of(labels_of(config)))
        store = DiskStore(self._of(run) / "states", run)
        self._site = self._learner.site(own_data(self._learner, self._config.device), store)
        self._held = Held(self._site.initial)
        self._run, self._told = run, told
        return self._site

    def _settings(self, told: dict[str, Any]) -> Config:
        """The run's configuration here: what the server told, with what only this device decides."""
        return told_by_columns(build_config(self._config.apply(told)))

    def _save_adapter(self, device: Device, request: Request) -> None:
        """The device's own model (or the server's, where the method keeps none) as an adapter in its folder."""
        learner = self._learner
        assert learner is not None
        state = server_state(request, device)
        own = learner.method.keeps_device_state and device.number in learner.method.personal_devices(state)
        own = own and device.state_lost is None
        put_tensors(learner.model, learner.method.personal(device, state) if own else state.tensors)
        folder = self._of(request.address.run)
        fresh = folder / ".adapter.tmp"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        description = describe_adapter(learner.config, learner.pretrained, device.site.data.task)
        form = tuning(learner.config).saved_form(learner.model)
        save_adapter(fresh, learner.model, learner.pretrained.tokenizer, description, form)
        shutil.rmtree(folder / "adapter", ignore_errors=True)
        fresh.rename(folder / "adapter")
        assert self._told is not None
        text = to_yaml(self._settings(self._told), "Written by fibecfed: this device's settings in a run.")
        write_atomically(folder / "config.yaml", text.encode())
        self._report(f"The run has ended; this device has an adapter. Try: {command_line('predict', folder, 'a text')}")
