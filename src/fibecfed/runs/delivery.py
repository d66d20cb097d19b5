"""The cost of what devices do by themselves once they have the final model (docs/method.md section 9 [D])."""

from fibecfed.federation import Costs, ServerState, compute_seconds
from fibecfed.runtime import Experiment

DELIVERED = "delivered"  # in the server's memory, so that it is booked once; and among the costs of stages


def delivery_costs(experiment: Experiment, state: ServerState) -> Costs | None:
    """The forward passes that this takes; None where there is nothing to do, or it is booked.

    One over a device's training examples where it fits a head; two over those that it kept out where it may fall back.
    The simulated time is the slowest device's computing. The convex fit itself, a few milliseconds, is not counted.
    """
    method = experiment.method
    does_something = method.fits_own_heads or method.falls_back
    if not does_something or not experiment.devices.here or state.info.get(DELIVERED):
        return None
    config, executor = experiment.config, experiment.site.executor
    spent, slowest = Costs(), 0.0
    for number in method.personal_devices(state):
        device = experiment.device(number, state)
        passes = [device.indices] if method.fits_own_heads else []
        passes += [device.kept_out] * 2 if method.falls_back else []
        operations = sum(executor.prediction_operations(indices) for indices in passes)
        spent += Costs(examples_scored=sum(map(len, passes)), operations=operations)
        slowest = max(slowest, compute_seconds(config.cost, config.seed, number, operations))
    return spent + Costs(simulated_seconds=slowest)
