"""Several processes, real launchers, real kills: DDP, ZeRO-2 and ZeRO-3 give what one process gives."""

import os
import socket
import subprocess
import sys

import pytest

from tests.training import ROOT, flags, kill_after_checkpoint, largest_difference, start, train_apart, train_here

ZERO = {2: "configs/deepspeed/zero2.json", 3: "configs/deepspeed/zero3.json"}
LORA = {"projector": "full", "projector_learning_rate": 1e-3, "learning_rate": 0.01}
FULL = {"stage": "finetune", "learning_rate": 1e-3, "max_grad_norm": 0.1}
COMMON = {"per_device_batch_size": 1, "max_steps": -1, "num_epochs": 1, "global_batch_size": 12, "save_steps": 2}


@pytest.fixture(scope="module")
def alone(tiny_folders, tmp_path_factory):
    """Runs of one process; the last of their four updates has five samples: an odd number of batches."""
    root = tmp_path_factory.mktemp("alone")
    base = tiny_folders["llava"]
    return {
        "lora": train_here(root / "lora", model_path=base, **COMMON, **LORA),
        "full": train_here(root / "full", model_path=base, **COMMON, **FULL),
    }


@pytest.mark.parametrize(
    ("kind", "zero"), [("lora", None), ("lora", 2), ("lora", 3), ("full", 3)], ids=["DDP", "ZeRO-2", "ZeRO-3", "full"]
)
def test_two_processes_are_one_also_after_a_kill(tiny_folders, alone, tmp_path, kind, zero):
    settings = {"model_path": tiny_folders["llava"]} | COMMON | (LORA if kind == "lora" else FULL)
    if zero:
        settings["deepspeed"] = ZERO[zero]
    run = tmp_path / "run"
    kill_after_checkpoint(run, 2, **settings)
    train_apart(run, 2, resume="auto", **settings)
    of_losses, of_weights = largest_difference(run, alone[kind])
    assert of_losses < 1e-4
    assert of_weights < 1e-3


@pytest.mark.parametrize("zero", [2, 3])
def test_one_process_has_deepspeed_too(tiny_folders, alone, tmp_path, zero):
    """Started by python, as the scripts do on one GPU: no launcher says which process it is."""
    settings = {"model_path": tiny_folders["llava"], "deepspeed": ZERO[zero]} | COMMON | FULL
    run = train_apart(tmp_path / "run", **settings)
    of_losses, of_weights = largest_difference(run, alone["full"])
    assert of_losses < 1e-4
    assert of_weights < 1e-3


def test_one_process_goes_on_after_a_kill_bit_for_bit(tiny_folders, alone, tmp_path):
    settings = {"model_path": tiny_folders["llava"]} | COMMON | LORA
    kill_after_checkpoint(tmp_path / "run", **settings)
    train_apart(tmp_path / "run", resume="auto", **settings)
    assert largest_difference(tmp_path / "run", alone["lora"]) == (0, 0)


def test_bad_input_of_several_processes_is_told_once(tiny_folders, tmp_path):
    run = start(tmp_path / "run", 2, model_path=tiny_folders["llava"], data=tmp_path / "nowhere.json")
    output, _ = run.communicate()
    assert run.returncode != 0
    assert output.count("error: data:") == 1, output


def test_two_nodes_of_a_slurm_job_are_one_process(tiny_folders, alone, tmp_path):
    """scripts/slurm.sh with accelerate's launcher; two local processes are the nodes, for want of a cluster."""
    cluster = {
        "scontrol": "#!/bin/sh\nprintf '127.0.0.1\\nanother\\n'\n",
        "srun": '#!/bin/sh\nshift\nSLURM_PROCID=1 "$@" &\nSLURM_PROCID=0 "$@"\nstatus=$?\nwait $! && exit $status\n',
    }
    for name, text in cluster.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    job = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_ID": "1", "MASTER_PORT": port}
    job |= {"NUM_PROCESSES": "1", "ACCELERATE_CONFIG": "configs/accelerate/ddp.yaml", "INSTALL": "no"}
    job |= {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": sys.prefix, "OMP_NUM_THREADS": "1"}
    run = tmp_path / "run"
    words = flags(run, model_path=tiny_folders["llava"], **COMMON, **LORA)
    (tmp_path / "recipe.yaml").write_text("stage: lora\n")
    command = ["sh", "scripts/slurm.sh", "scripts/finetune_lora.sh", tmp_path / "recipe.yaml", *words]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | job, capture_output=True, text=True)
    # Had they not found each other, the second would have been kept out of the folder.
    assert ended.returncode == 0, ended.stdout + ended.stderr
    of_losses, of_weights = largest_difference(run, alone["lora"])
    assert of_losses < 1e-4
    assert of_weights < 1e-3
