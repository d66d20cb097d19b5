"""The task in NVFlare's simulator, which gives each site a process; the argument is the folder that it works in."""

import sys
from pathlib import Path

from fedavg_of_cohorts import FedAvgOfCohorts
from local_training import classifier, put_trained, read_task, test, write_result
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import ScriptRunner
from safetensors.torch import load_file

MODEL = "global.safetensors"

if __name__ == "__main__":
    workspace = Path(sys.argv[1])
    task = read_task()
    job = FedJob(name="rivals")
    job.to_server(FedAvgOfCohorts(num_rounds=len(task["cohorts"]), persistor_id="", save_filename=MODEL))
    job.to_clients(ScriptRunner(script="client.py"))
    job.simulator_run(str(workspace), n_clients=task["devices"])
    model = classifier()
    put_trained(model, load_file(next(workspace.rglob(MODEL))))
    write_result(test(model))
