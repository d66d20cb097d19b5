"""curriculum.steps: one pass over the easy part, or as many optimizer steps as without a curriculum."""

from typing import Any

import numpy as np
import pytest

import fibecfed
from baselines import changed
from fibecfed import Config
from fibecfed.training import SequentialExecutor, TrainJob

Steps = dict[tuple[int, int], list[np.ndarray]]  # by round and device: the batches


@pytest.fixture
def trained(small: Config, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(**settings: Any) -> Steps:
        found: Steps = {}
        train = SequentialExecutor._train

        def watch(self: SequentialExecutor, job: TrainJob) -> Any:
            found[job.round, job.device] = list(job.batches)
            return train(self, job)

        with monkeypatch.context() as patch:
            patch.setattr(SequentialExecutor, "_train", watch)
            training = {"batch_size": 4, **settings.pop("training", {})}
            rounds = {"federation": {"rounds": 4}, "evaluation": {"every": 4}}
            fibecfed.run(changed(small, **rounds, training=training, **settings))
        return found

    return run


@pytest.mark.parametrize("training", [{}, {"local_epochs": 2}, {"local_steps": 2}])
@pytest.mark.parametrize("method", ["random-pace", "random-subset"])
def test_match_takes_the_steps_of_fedavg_over_the_part_in_use(
    trained: Any, method: str, training: dict[str, Any]
) -> None:
    plain = trained(method="fedavg-lora", training=training)
    settings = {"method": method, "warm_up": {"rounds": 1}, "training": training}
    matched = trained(**settings, curriculum={"steps": "match", "start": 0.4})
    paced = trained(**settings, curriculum={"start": 0.4})
    assert {k: len(b) for k, b in matched.items()} == {k: len(b) for k, b in plain.items()}
    assert sum(map(len, paced.values())) < sum(map(len, plain.values())) or training.get("local_steps")
    for key in plain:
        if key[0] == 2:  # the first round of the curriculum: the same part, passed again
            part, times = np.unique(np.concatenate(matched[key]), return_counts=True)
            assert len(part) < len(np.unique(np.concatenate(plain[key]))) or training.get("local_steps")
            assert times.max() - times.min() <= 1
