"""The task in Flower's simulation engine: its FedAvg over a ClientApp that Ray runs on every core."""

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.strategy_utils import sample_nodes
from flwr.simulation import run_simulation
from local_training import classifier, put_trained, read_task, test, train, trained, write_result

client_app = ClientApp()
server_app = ServerApp()


@client_app.train()
def on_device(message: Message, context: Context) -> Message:
    model, config = classifier(), message.content["config"]
    put_trained(model, message.content["arrays"].to_torch_state_dict())
    examples = train(model, config["server-round"] - 1, config["device"])
    content = {"arrays": ArrayRecord(trained(model)), "metrics": MetricRecord({"num-examples": examples})}
    return Message(content=RecordDict(content), reply_to=message)


class FedAvgOfCohorts(FedAvg):
    """FedAvg that asks the devices of the task's cohorts in place of random ones."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        devices = read_task()["devices"]
        nodes, _ = sample_nodes(grid, devices, devices)
        for node, device in zip(nodes, read_task()["cohorts"][server_round - 1], strict=False):
            settings = ConfigRecord({"server-round": server_round, "device": device})
            content = RecordDict({"arrays": arrays, "config": settings})
            yield Message(content=content, message_type=MessageType.TRAIN, dst_node_id=node)


@server_app.main()
def on_server(grid: Grid, context: Context) -> None:
    model = classifier()
    strategy = FedAvgOfCohorts(fraction_evaluate=0.0)
    result = strategy.start(grid, ArrayRecord(trained(model)), num_rounds=len(read_task()["cohorts"]))
    put_trained(model, result.arrays.to_torch_state_dict())
    write_result(test(model))


if __name__ == "__main__":
    one_core_each = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, client_app, num_supernodes=read_task()["devices"], backend_config=one_core_each)
