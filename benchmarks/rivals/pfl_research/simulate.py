"""The task in pfl-research's simulator: FederatedAveraging over a SimulatedBackend, in one process or torchrun."""

import dataclasses
from functools import cache
from typing import Any

import torch
from local_training import Classifier, collate, questions_of, read_task, write_result
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchDataDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import HyperParam, NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops import all_reduce_metrics, get_ops
from pfl.metrics import Metrics, StringMetricName, Weighted, get_overall_value
from pfl.model.pytorch import PyTorchModel
from torch import Tensor
from torch.nn import functional


class Model(Classifier):
    """What a PyTorchModel asks of a module: its loss, and what is measured."""

    def loss(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(self(input_ids, attention_mask), labels)

    @torch.no_grad()
    def metrics(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Weighted]:
        logits = self(input_ids, attention_mask)
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        right = (logits.argmax(dim=1) == labels).sum()
        return {"accuracy": Weighted(int(right), len(labels)), "loss": Weighted(float(loss), len(labels))}


class RateOfRound(HyperParam, TrainingProcessCallback):
    """The device's learning rate, which falls from round to round."""

    def __init__(self, rates: list[float]) -> None:
        self._rates = rates
        self._round = 0

    def value(self) -> float:
        return self._rates[self._round]

    def after_central_iteration(self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int) -> Any:
        self._round = min(central_iteration + 1, len(self._rates) - 1)
        return False, Metrics()


class WithoutTrainingMetrics(FederatedAveraging):
    """pfl-research tests the first round's devices before and after their training, which no other row does."""

    def get_next_central_contexts(self, *arguments: Any, **settings: Any) -> Any:
        contexts, model, metrics = super().get_next_central_contexts(*arguments, **settings)
        if contexts is not None:
            contexts = tuple(dataclasses.replace(context, do_evaluation=False) for context in contexts)
        return contexts, model, metrics


@cache
def dataset_of(visit: tuple[int, int]) -> PyTorchDataDataset:
    """A device's questions in a round."""
    return PyTorchDataDataset(questions_of(*visit), collate_fn=collate)


def main() -> None:
    torch.set_num_threads(1)
    task = read_task()
    module = Model(task)
    trainable = [p for p in module.parameters() if p.requires_grad]
    average = torch.optim.SGD(trainable, lr=1.0)
    local = lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, weight_decay=task["weight_decay"])  # noqa: E731
    model = PyTorchModel(module, local, average)
    visits = [(number, device) for number, cohort in enumerate(task["cohorts"]) for device in cohort]
    several = get_ops().distributed.world_size > 1  # then pfl-research balances the devices of a round by their sizes
    data = FederatedDataset(
        dataset_of,
        get_user_sampler("minimize_reuse", visits),
        {v: len(dataset_of(v)) for v in visits} if several else None,
    )
    rate = RateOfRound(task["learning_rates"])
    rounds, sampled = len(task["cohorts"]), len(task["cohorts"][0])
    WithoutTrainingMetrics().run(
        algorithm_params=NNAlgorithmParams(
            rounds, evaluation_frequency=rounds, train_cohort_size=sampled, val_cohort_size=0
        ),
        backend=SimulatedBackend(data, data, [WeightByDatapoints()]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_batch_size=task["batch_size"],
            local_num_epochs=1,
            local_learning_rate=rate,
            local_max_grad_norm=task["max_grad_norm"],
        ),
        callbacks=[rate],
    )
    test = PyTorchDataDataset(task["test"], collate_fn=collate).get_worker_partition()
    metrics = all_reduce_metrics(model.evaluate(test, eval_params=NNEvalHyperParams(task["test_batch_size"])))
    if get_ops().distributed.global_rank == 0:
        write_result({name: get_overall_value(metrics[StringMetricName(name)]) for name in ("accuracy", "loss")})


if __name__ == "__main__":
    main()
