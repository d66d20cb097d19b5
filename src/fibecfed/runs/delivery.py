"""The cost of heads that devices fit by themselves once they have the final model (docs/method.md section 9 [D])."""

from fibecfed.federation import Costs, ServerState, compute_seconds
from fibecfed.runtime import Experiment

DELIVERED = "delivered"  # in the server's memory, so that it is booked once; and among the costs of stages


def delivery_costs(experiment: Experiment, state: ServerState) -> Costs | None:
    """One forward pass of every device over its training examples; None where there are no such heads, or it is booked.

    The simulated time is the slowest device's computing. The convex fit itself, a few milliseconds, is not counted.
    """
    if not experiment.method.fits_own_heads or not experiment.devices.here or state.info.get(DELIVERED):
        return None
    config, data, executor = experiment.config, experiment.data, experiment.site.executor
    spent, slowest = Costs(), 0.0
    for device in range(data.devices.devices):
        indices = data.devices.indices(device)
        operations = executor.features_operations(indices)
        spent += Costs(examples_scored=len(indices), operations=operations)
        slowest = max(slowest, compute_seconds(config.cost, config.seed, device, operations))
    return spent + Costs(simulated_seconds=slowest)
