"""The shell scripts' own decisions: how many processes on which nodes, which recipe, which folder to write."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Stand-ins for what the scripts start. A cluster: the task runs once for each node, with that node's number.
TOLD = '#!/bin/sh\necho "$(basename "$0")" "$@"\n'
PROGRAMS = {
    "torchrun": TOLD,
    "accelerate": TOLD,
    "scontrol": "#!/bin/sh\nprintf 'node-a\\nnode-b\\n'\n",
    "srun": '#!/bin/sh\nshift\necho "cores $SRUN_CPUS_PER_TASK"\n'
    'for number in 0 1; do SLURM_PROCID=$number "$@" || exit 1; done\n',
}


@pytest.fixture
def run(tmp_path):
    """Run a script in a copy of the repository whose path has a space, from another folder; its output's lines."""
    home = tmp_path / "the copy"
    for name in ("scripts", "configs"):
        shutil.copytree(ROOT / name, home / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").write_text('PATH="$VIRTUAL_ENV/bin:$PATH"\n')
    # `python -c`, by which the scripts ask, is the real one; of what they start, only the command line is wanted.
    python = f'#!/bin/sh\ncase $1 in -c) exec "{sys.executable}" "$@" ;; *) echo python "$@" ;; esac\n'
    python += 'case $1 in eval/crpe.py) exit "${STATUS:-0}" ;; esac\n'
    for name, text in (PROGRAMS | {"python": python}).items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)

    def run_script(script: str, *arguments: str, **variables: str) -> list[str]:
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        known = {"PATH": path, "VIRTUAL_ENV": tmp_path, "INSTALL": "no", "NUM_PROCESSES": "1"}
        # sbatch runs its script in the folder in which it was called.
        folder, name = (home, script) if script == "scripts/slurm.sh" else (tmp_path, home / script)
        command = ["sh", name, *arguments]
        result = subprocess.run(command, cwd=folder, env=known | variables, capture_output=True, text=True, check=True)
        return result.stdout.splitlines()

    return run_script


def test_one_process_needs_no_launcher(run):
    (line,) = run("scripts/finetune_lora.sh", "gemma3_lora", "--seed", "3")
    assert line == "python train/sft.py --config configs/train/gemma3_lora.yaml --resume auto --seed 3"


def test_a_recipe_is_a_name_or_a_file(run):
    for recipe in ("tiny_gemma3_lora", "configs/train/tiny_gemma3_lora.yaml"):
        (line,) = run("scripts/finetune_lora.sh", recipe)
        assert "--config configs/train/tiny_gemma3_lora.yaml " in line
    (line,) = run("scripts/pretrain.sh", RECIPE="there is/none.yaml")  # which train/sft.py will say
    assert "--config there is/none.yaml " in line


def test_several_processes_and_nodes(run):
    (line,) = run("scripts/finetune.sh", NUM_PROCESSES="8", NNODES="2", NODE_RANK="1", MASTER_ADDR="10.0.0.1")
    assert line.startswith("torchrun --nnodes 2 --node_rank 1 --nproc_per_node 8 --master_addr 10.0.0.1 --master_port ")
    (line,) = run("scripts/finetune.sh", NUM_PROCESSES="4", NNODES="2", ACCELERATE_CONFIG="x.yaml")
    assert line.startswith(
        "accelerate launch --config_file x.yaml --num_machines 2 --machine_rank 0 --num_processes 8 "
    )


def test_slurm_gives_each_node_its_number_and_its_cores(run):
    job = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_ID": "70123"}
    cores, *nodes = run(
        "scripts/slurm.sh", "scripts/finetune.sh", "--seed", "3", **job, SLURM_CPUS_PER_TASK="64", NUM_PROCESSES="8"
    )
    assert cores == "cores 64"
    place = "--nproc_per_node 8 --master_addr node-a --master_port 20123 train/sft.py"
    assert [line.split(" --config")[0] for line in nodes] == [
        f"torchrun --nnodes 2 --node_rank {number} {place}" for number in (0, 1)
    ]
    assert all(line.endswith(" --resume auto --seed 3") for line in nodes)


def test_a_merged_checkpoint_comes_beside_the_adapter(run):
    for given in ("runs/my adapter", "runs/my adapter/"):
        (line,) = run("scripts/merge_lora.sh", MODEL_PATH=given, MODEL_BASE="base")
        assert line.endswith("--save_model_path runs/my adapter-merged --model_base base")


def test_the_miniature_is_trained_stage_upon_stage(run):
    lines = run("scripts/train_miniature.sh", "--max_steps", "2", SEED="3", POSITION_BALANCE="true")
    stages = [line for line in lines if line.startswith("python train/sft.py")]
    assert [line.split()[1] for line in lines[:3]] == [
        "data/build_miniature.py",
        "train/pretrain_tower.py",
        "train/pretrain_language_model.py",
    ]
    folder = "checkpoints/miniature"
    for line, name, after in zip(stages, ("pretrain", "finetune"), (None, "pretrain"), strict=True):
        assert f"--config configs/train/miniature/{name}.yaml " in line
        assert f"--output_dir {folder}/{name}-3-on " in line
        assert "--seed 3 --position_balance true --resume auto " in line
        assert line.endswith(" --max_steps 2")
        assert after is None or f"--model_path {folder}/{after}-3-on" in line
    assert "--language_model checkpoints/miniature/language_model-3" in stages[0]
    assert "--data results/miniature/data/scenes.jsonl " in lines[2]


def test_a_tower_that_is_there_is_not_trained(run):
    lines = run("scripts/train_miniature.sh", TOWER="models/miniature")
    assert not any("pretrain_tower.py" in line for line in lines)
    (stage,) = [line for line in lines if "miniature/pretrain.yaml" in line]
    assert "--vision_tower models/miniature " in stage


def test_the_arms_of_the_experiment(run):
    """Which weights answer with which flag; LoRA starts from the model that was trained without BaPA."""
    lines = run("scripts/experiment_miniature.sh", SEEDS="5", GRIDS="3", SIZES="144", PAGE="no", STORE="arms")
    measured = {
        line.split("--arm ")[1].split()[0]: line for line in lines if line.startswith("python eval/miniature_measure")
    }
    folder = "checkpoints/miniature"
    wanted = {
        "a": ("arm-5-off", "false"),
        "b": ("arm-5-off", "true"),
        "c0": ("lora-5-off-merged", "false"),
        "c": ("lora-5-on-merged", "true"),
        "d": ("arm-5-on", "true"),
    }
    assert measured.keys() == wanted.keys()
    for arm, (model, flag) in wanted.items():
        assert f"--model_path {folder}/{model} --position_balance {flag} " in measured[arm]
        assert "--seed 5 " in measured[arm]
        assert " --grids 3 --sizes 144 " in measured[arm]
    tuned = [line for line in lines if "miniature/lora.yaml" in line]
    assert [line.split("--model_path ")[1].split()[0] for line in tuned] == [
        f"{folder}/arm-5-off",
        f"{folder}/arm-5-off-balanced",  # whose config.json says true: an adapter of another flag is not merged
    ]
    assert ["--position_balance true" in line for line in tuned] == [False, True]
    arms = [line.split()[2:] for line in lines if "miniature_arms.py" in line]
    names = ["--checkpoints", folder, "--store", "arms", "--seed", "5", "--arm"]
    restored = [action[1:] for action in arms if action[0] == "restore"]
    assert restored == [[*names, "off"], [*names, "off", "--balanced"], [*names, "on"]]
    trained = [action[1:] for action in arms if action[0] == "keep"]
    assert trained == [[*names, "off"], [*names, "off"], [*names, "on"]], "which no kept arm stops here"


def test_downstream_asks_every_benchmark_with_the_flag_off_and_on(run):
    lines = run(
        "scripts/eval_downstream.sh", "--batch_size", "4", MODEL_PATH="checkpoints/m", PARTIAL="--allow_partial"
    )
    asked = [line for line in lines if "--model_path checkpoints/m" in line]
    assert [(line.split()[1], line.split("--output_dir ")[1].split()[0]) for line in asked] == [
        (f"eval/{name}.py", f"results/{name}/m/balance-{side}")
        for name in ("scienceqa", "crpe", "hallusionbench")
        for side in ("off", "on")
    ]
    assert all(line.endswith("--batch_size 4") for line in asked)
    assert ["--position_balance false" in line for line in asked] == [True, False] * 3
    names = ("scienceqa", "crpe", "hallusionbench")
    table = " ".join(f"results/{name}/m/scores.json" for name in names)
    assert lines[-1] == f"python eval/score_table.py --scores {table}"
    two = run("scripts/eval_downstream.sh", MODEL_PATH="m", BENCHMARKS="crpe", PROCESSES="2")
    assert two[0].startswith("torchrun --nproc_per_node 2 eval/crpe.py --model_path m --position_balance false")


def test_downstream_goes_on_after_error_rows_only_where_partial_is_asked_for(run):
    for partial, ends_with in (("--allow_partial", "eval/score_table.py"), ("", "eval/crpe.py")):
        with pytest.raises(subprocess.CalledProcessError) as stop:
            run("scripts/eval_downstream.sh", MODEL_PATH="m", BENCHMARKS="crpe", STATUS="1", PARTIAL=partial)
        assert stop.value.returncode == 1
        assert stop.value.stdout.splitlines()[-1].split()[1] == ends_with
    with pytest.raises(subprocess.CalledProcessError) as stop:
        run("scripts/eval_downstream.sh", MODEL_PATH="m", BENCHMARKS="crpe", STATUS="2", PARTIAL="--allow_partial")
    assert stop.value.returncode == 2


@pytest.fixture
def sourced(tmp_path):
    """What a script that sources environment.sh prints, with the machine's own Python first on the path."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / "global").mkdir()
    (tmp_path / "global" / "python").symlink_to(Path(sys.base_prefix, "bin", "python3").resolve())
    script = ". scripts/environment.sh; echo went on; python -c 'import sys; print(sys.prefix)'"

    def source(**variables) -> subprocess.CompletedProcess:
        known = {"PATH": f"{tmp_path / 'global'}{os.pathsep}/usr/bin{os.pathsep}/bin"} | variables
        command = ["sh", "-euc", script]
        return subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, text=True, check=False)

    return source


def test_an_environment_that_is_named_but_not_active_is_the_one_in_use(sourced, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "environment"], check=True)
    ended = sourced(VIRTUAL_ENV=tmp_path / "environment", INSTALL="no")
    assert ended.stdout.splitlines() == ["went on", str(tmp_path / "environment")]


def test_nothing_is_installed_into_the_machines_own_python(sourced, tmp_path):
    (tmp_path / "environment" / "bin").mkdir(parents=True)
    (tmp_path / "environment" / "bin" / "activate").write_text("")  # and still no virtual environment
    (tmp_path / "requirements.txt").write_text("nonsense==none")
    ended = sourced(VIRTUAL_ENV=tmp_path / "environment")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")
    assert "global/python is no virtual environment's; activate one, or set INSTALL" in ended.stderr
    assert "went on" in sourced(VIRTUAL_ENV=tmp_path / "environment", INSTALL="no").stdout


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"VIRTUAL_ENV": "/none"}, "error: VIRTUAL_ENV is /none, which is no virtual environment; unset it"),
        ({"CONDA_PREFIX": "/none", "INSTALL": "maybe"}, "error: INSTALL is maybe; give yes, no or global"),
    ],
)
def test_an_environment_that_cannot_be(sourced, variables, told):
    ended = sourced(**variables)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(told)
