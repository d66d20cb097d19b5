"""sharing.average_local: whose local layers are averaged at the end."""

import torch

from baselines import changed, watched
from fibecfed import Config


def test_the_merge_averages_local_layers_and_nothing_of_devices_without(small: Config) -> None:
    """A device that trained in the warm-up only keeps a second head, and has no local layers."""
    config = changed(
        small, method="fibecfed", warm_up={"rounds": 1}, personal={"head": "trained"},
        sharing={"layers": "last", "count": 1, "average_local": True},
        federation={"devices": 6, "sampled": 2, "rounds": 2}, data={"partition": {"alpha": 5.0}},
    )  # fmt: skip
    run = watched(config)
    asked = {request.address.device for request, _ in run.of("merge")}
    assert asked < set(run.state.device_versions)
    devices = [run.experiment.device(number, run.state) for number in sorted(asked)]
    local = [p.name for p in run.experiment.layout if p.layer == 0]
    for name in local:
        mean = sum(d.state.local[name] * d.examples for d in devices) / sum(d.examples for d in devices)
        torch.testing.assert_close(run.state.tensors[name], mean)
    for number in set(run.state.device_versions) - asked:  # its second head over the server's model
        device = run.experiment.device(number, run.state)
        kept = run.experiment.method.kept(device, run.state)
        assert all(torch.equal(kept[name], run.state.tensors[name]) for name in kept)
