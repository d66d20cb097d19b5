"""The server against a transport under the test's control: order, bad replies, missing replies, cohorts."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from fibecfed import RunFailed, load_config
from fibecfed.config import settle
from fibecfed.federation import (
    Address,
    Delivery,
    Failure,
    Reply,
    Request,
    Server,
    TensorSpec,
    cohort,
    next_stage,
)
from fibecfed.federation.server import _of_the_others
from fibecfed.methods import METHODS, resolve
from fibecfed.tuning import Layout, Parameter

LAYOUT = Layout((Parameter("w", (2,), 0, "head"),), 1)


def reply(request: Request, value: float, examples: int = 1) -> Reply:
    info = {"examples": examples, "examples_trained": examples, "operations": 1e9, "loss": value}
    return Reply(request.address, {"w": torch.full((2,), value)}, info)


class Script:
    """Answers with what a function of the request says, in the order another one says."""

    def __init__(
        self,
        answer: Callable[[Request], Reply | Failure],
        order: Callable[[Sequence[Request]], Sequence[Request]] = lambda requests: requests,
    ) -> None:
        self.answer = answer
        self.order = order

    def exchange(self, requests: Sequence[Request], deadline: float) -> Iterator[Delivery | Failure]:
        for request in self.order(requests):
            answer = self.answer(request)
            yield answer if isinstance(answer, Failure) else Delivery(answer, 100, 50)


def server(transport: Script, devices: int = 4, **federation: int) -> Server:
    config = load_config(federation={"devices": devices, "sampled": devices, "rounds": 1} | federation)
    return Server(config, METHODS["fedavg-lora"](config, LAYOUT), transport, devices, "run")


def start(of: Server):  # type: ignore[no-untyped-def]
    return of.method.init({"w": torch.zeros(2)})


def test_reply_order_changes_nothing() -> None:
    values = {0: 0.1, 1: 1e8, 2: -1e8, 3: 0.2}
    results = []
    for order in (lambda r: r, lambda r: r[::-1], lambda r: [r[2], r[0], r[3], r[1]]):
        one = server(Script(lambda request: reply(request, values[request.address.device]), order))
        (done,) = one.run(start(one))
        results.append(done)
    assert results[0].state.round == 1
    for other in results[1:]:
        assert torch.equal(other.state.tensors["w"], results[0].state.tensors["w"])
        assert other.loss == results[0].loss


def test_costs_are_those_of_the_slowest_device_and_the_sum_of_the_bytes() -> None:
    one = server(Script(lambda request: reply(request, 1.0, 3)))
    (done,) = one.run(start(one))
    costs = done.state.costs
    assert (costs.bytes_down, costs.bytes_up, costs.examples_trained) == (400, 200, 12)
    # 1e9 operations at 50 gflops, 50 bytes up at 50 Mbit/s, 100 down at 100 Mbit/s, two latencies of 50 ms
    assert costs.simulated_seconds == pytest.approx(0.02 + 8e-6 + 8e-6 + 0.1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: Reply(Address("other", 1, "train", r.address.device), r.tensors, r.info), "run 'other'"),
        (lambda r: Reply(Address("run", 2, "train", r.address.device), r.tensors, r.info), "round 2"),
        (lambda r: Reply(r.address, {"w": torch.zeros(3)}, r.info), "w"),
        (lambda r: Reply(r.address, {}, r.info), "w"),
        (lambda r: Reply(r.address, {**r.tensors, "x": torch.zeros(1)}, r.info), "x"),
        (lambda r: Reply(r.address, {"w": torch.tensor([0.0, float("nan")])}, r.info), "NaN"),
        (lambda r: Reply(r.address, {"w": torch.tensor([0.0, float("inf")])}, r.info), "NaN or infinite"),
        (lambda r: Reply(r.address, {"w": torch.zeros(2, dtype=torch.float64)}, r.info), "torch.float64"),
        (lambda r: Reply(r.address, {"w": torch.tensor([2e6, 0.0])}, r.info), "federation.maximum_norm"),
        (lambda r: Reply(r.address, r.tensors, {**r.info, "examples": 0}), "examples = 0"),
        (lambda r: Reply(r.address, r.tensors, {**r.info, "examples": 10**9}), "federation.maximum_examples"),
        (lambda r: Reply(r.address, r.tensors, {**r.info, "loss": "nan"}), "loss = "),
        (lambda r: Reply(r.address, r.tensors, {**r.info, "secret": 1}), "'secret', which nobody asked for"),
    ],
)
def test_an_unusable_reply_is_left_out_with_its_reason(change: Callable[[Reply], Reply], reason: str) -> None:
    def answer(request: Request) -> Reply:
        good = reply(request, float(request.address.device))
        return change(good) if request.address.device == 2 else good

    one = server(Script(answer))
    (done,) = one.run(start(one))
    assert [f.device for f in done.failures] == [2]
    assert reason in done.failures[0].reason
    assert done.state.tensors["w"].tolist() == pytest.approx([(0 + 1 + 3) / 3] * 2)


def test_too_few_replies_stop_the_run_and_say_why() -> None:
    def answer(request: Request) -> Reply | Failure:
        return reply(request, 1.0) if request.address.device else Failure(0, "its disk is full")

    one = server(Script(answer), minimum_replies=4)
    with pytest.raises(RunFailed, match=r"3 of 4 devices.*its disk is full"):
        list(one.run(start(one)))
    enough = server(Script(answer), minimum_replies=3)
    assert len(list(enough.run(start(enough)))) == 1


def test_a_device_that_never_answers_is_named() -> None:
    class Silent(Script):
        def exchange(self, requests: Sequence[Request], deadline: float) -> Iterator[Delivery | Failure]:
            return super().exchange([r for r in requests if r.address.device != 1], deadline)

    one = server(Silent(lambda request: reply(request, 1.0)))
    (done,) = one.run(start(one))
    assert [(f.device, f.kind) for f in done.failures] == [(1, "late")]


def test_a_lost_state_is_passed_on() -> None:
    def answer(request: Request) -> Reply:
        good = reply(request, 1.0)
        if request.address.device != 3:
            return good
        return Reply(good.address, good.tensors, {**good.info, "state_lost": "damaged"})

    one = server(Script(answer))
    (done,) = one.run(start(one))
    assert done.states_lost == ((3, "damaged"),)
    assert not done.failures


def test_cohorts_depend_on_seed_and_round_only() -> None:
    drawn = [cohort(3, r, 5, 100) for r in range(1, 40)]
    assert drawn == [cohort(3, r, 5, 100) for r in range(1, 40)]
    assert all(len(set(c)) == 5 and list(c) == sorted(c) for c in drawn)
    assert len(set(drawn)) > 30
    assert drawn != [cohort(4, r, 5, 100) for r in range(1, 40)]


def test_every_method_has_the_cohorts_of_its_seed() -> None:
    layout = Layout(
        (
            Parameter("w.lora_A", (2, 2), 0, "lora_A"),
            Parameter("head.weight", (3, 2), None, "head"),
            Parameter("head.bias", (3,), None, "head"),
        ),
        1,
        3,
    )
    start_tensors = {p.name: torch.zeros(p.shape) for p in layout}
    seen: dict[str, list[tuple[int, ...]]] = {}
    for name, kind in METHODS.items():
        config = settle(resolve(load_config(method=name, federation={"rounds": 3})))
        method = kind(config, layout)
        if method.pooled_data or name == "local-only":  # which asks every device
            continue
        expected: dict[str, TensorSpec] = {}

        def answer(request: Request, expected: dict[str, TensorSpec] = expected) -> Reply:
            tensors = {n: torch.ones(spec.shape, dtype=spec.dtype) for n, spec in expected.items()}
            if "triangle" in tensors:
                tensors["triangle"] *= 3  # the sums of three examples, one of each label
            if "square_norm" in tensors:
                tensors["square_norm"] *= 6
            return Reply(request.address, tensors, {"examples": 3, "examples_trained": 1, "loss": 1.0})

        one = Server(config, method, Script(answer), 20, "run")
        state = method.init(start_tensors)
        while (stage := next_stage(method, state)) is not None:
            expected.clear()
            expected.update(stage.expected(state)[0])
            done = one.exchange(state, stage)
            state = done.state
            if stage.is_round:
                seen.setdefault(name, []).append(done.cohort)
    assert len(seen) >= 8
    assert all(cohorts == seen["fedavg-lora"] for cohorts in seen.values())
    assert len(set(seen["fedavg-lora"])) == 3


@pytest.mark.parametrize("own", [(), (0,), (4,), (0, 1, 2), (1, 3), (0, 2, 4)], ids=str)
def test_the_others_are_counted_without_being_listed(own: tuple[int, ...]) -> None:
    others = [device for device in range(5) if device not in own]
    assert [_of_the_others(own, place) for place in range(len(others))] == others
