"""The server's part: NVFlare's FedAvg with the task's cohorts, LoRA and head as the model, and safetensors files."""

from local_training import FOLDER, read_task
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.fedavg import FedAvg
from safetensors.numpy import load_file, save_file


class FedAvgOfCohorts(FedAvg):
    def sample_clients(self, num_clients: int | None = None) -> list[str]:
        return [f"site-{device + 1}" for device in read_task()["cohorts"][self.current_round]]

    def load_model(self) -> FLModel:
        return FLModel(params=load_file(FOLDER / "initial.safetensors"))

    def save_model_file(self, model: FLModel, filepath: str) -> None:
        save_file(model.params, filepath)
