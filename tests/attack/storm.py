"""Kills, full disks and lost processes at random moments, against what an undisturbed run gives. For nights, not CI.

    python tests/attack/storm.py --rounds 20 --work results/storm

Each round takes one job (a probe, a build, a sample, a merge, LoRA), disturbs it, runs the same command again until it
ends well, and compares every file that it leaves with the undisturbed run's. A full disk is a small tmpfs where the
system lets this process mount one, else a limit on the size of files. Prints one line a round; exit status 1 if a
command left a traceback, a wrong status or other bytes, or did not end within --patience seconds.
"""

import argparse
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.attack.world import build  # noqa: E402

# What differs between two runs of the same command, and may: times, places, figures drawn from them.
PASSED_OVER = ("manifest.json", "training.json", "log.jsonl", "loss.png", "settings.yaml", "whole.json", "README.md")
MEGABYTE = 1 << 20


def jobs(world: Path) -> dict[str, tuple[list, str]]:
    """Name -> (script and arguments without the output, the option of the output)."""
    probe = ["--eval_file", world / "probe/probe.jsonl", "--img_path", world / "probe/images", "--max_new_tokens", 8]
    model = ["--model_path", world / "qwen2_5_vl", "--device", "cpu", "--num_workers", 0, "--batch_size", 1]
    source = ["--source", world / "source", "--num_captions", 2, "--workers", 1]
    lora = ["--config", world / "lora.yaml", "--model_path", world / "llava", "--data", world / "samples.json"]
    lora += ["--image_folder", world / "source", "--max_steps", 6, "--save_steps", 1, "--resume", "auto"]
    sample = ["--input", world / "samples.json", "--image_folder", world / "source", "--num_samples", 2]
    return {
        "probe": (["eval/probe.py", *model, *probe], "--output_dir"),
        "build": (["data/build_similarity.py", *source], "--output_dir"),
        "sample": (["data/sample_instructions.py", *sample], "--output_dir"),
        "merge": (["train/merge_lora.py", "--model_path", world / "adapter"], "--save_model_path"),
        "lora": (["train/sft.py", *lora], "--output_dir"),
    }


def start(job: tuple[list, str], output: Path, before: Callable | None = None, launcher: list | None = None):
    """The command as a process of its own session, so that all that it starts can be killed with it."""
    (script, *arguments), option = job
    words = [*(launcher or []), str(ROOT / script), *map(str, arguments), option, str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(
        [sys.executable, *words], env=environment, start_new_session=True, preexec_fn=before, cwd=ROOT, **pipes
    )


def ended(process: subprocess.Popen, patience: float) -> tuple[int | None, str]:
    """Exit status (None: it had to be killed after `patience` seconds) and what was said."""
    try:
        said, _ = process.communicate(timeout=patience)
        return process.returncode, said
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]


def digests(folder: Path) -> dict[str, str]:
    """Hashes of all files that two runs of one command must share."""
    files = {path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(PASSED_OVER)}
    kept = {path for path in files if not {"data", ".lock"} & {*path.relative_to(folder).parts}}
    kept = {path for path in kept if not path.name.startswith(("optimizer", "scheduler", "rng_state", "trainer_state"))}
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(kept)}


def killed(job, output: Path, length: float, patience: float, rng: random.Random) -> str | None:
    """Kill it with all that it started, up to three times, each time at any moment."""
    for _ in range(rng.randint(1, 3)):
        process = start(job, output)
        time.sleep(rng.uniform(0, length))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        _, said = ended(process, patience)
        if "Traceback" in said:
            return f"a traceback before the kill: {said[-300:]}"
    return None


@contextmanager
def small_disk(folder: Path, size: int):
    """`folder` as a tmpfs of `size` bytes; yields what a process must call first, where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "storm", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        yield limit
    else:
        try:
            yield None
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(job, output: Path, length: float, patience: float, rng: random.Random) -> str | None:
    """A disk that fills up: status 2 (1 where answers are safe) and one line, or it was large enough."""
    with small_disk(
        output.parent / "disk", rng.choice([4096, 32_768, MEGABYTE // 4, MEGABYTE, 3 * MEGABYTE])
    ) as before:
        status, said = ended(start(job, output.parent / "disk" / "out", before), patience)
    shutil.rmtree(output.parent / "disk", ignore_errors=True)
    if status is None:
        return "did not end on a full disk"
    if "Traceback" in said or status not in (0, 1, 2):
        return f"status {status} on a full disk: {said[-500:]}"
    return None


def lost_rank(job, output: Path, length: float, patience: float, rng: random.Random) -> str | None:
    """Two processes by torchrun, of which one is killed: the other must not wait for it for ever."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = start(job, output, launcher=launcher)
    time.sleep(rng.uniform(0, 2 * length))
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    if children:
        os.kill(int(rng.choice(children)), signal.SIGKILL)
    status, said = ended(process, patience)
    return "the other process waited for the lost one" if status is None else None


DISTURBANCES = {"kill": killed, "full disk": full_disk, "lost rank": lost_rank}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="disturbed runs. Default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when. Default: %(default)s")
    parser.add_argument("--work", type=Path, default=Path("results/storm"), help="a folder to work in, made anew")
    parser.add_argument("--patience", type=float, default=180, help="seconds for one command. Default: %(default)s")
    arguments = parser.parse_args()
    rng, work = random.Random(arguments.seed), arguments.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    named = jobs(build(work / "world"))
    expected, length = {}, {}
    for name, job in named.items():
        begun = time.monotonic()
        status, said = ended(start(job, work / "undisturbed" / name), arguments.patience)
        length[name] = time.monotonic() - begun
        if status:
            raise SystemExit(f"{name}: ends with {status} undisturbed: {said[-500:]}")
        expected[name] = digests(work / "undisturbed" / name)
    failures = 0
    for number in range(arguments.rounds):
        name, disturbance = rng.choice(list(named)), rng.choice(list(DISTURBANCES))
        if disturbance == "lost rank" and name not in ("probe", "lora"):
            disturbance = "kill"
        output = work / str(number) / "out"
        output.parent.mkdir()
        wrong = DISTURBANCES[disturbance](named[name], output, length[name], arguments.patience, rng)
        if wrong is None:
            status, said = ended(start(named[name], output), arguments.patience)
            if status != 0:
                wrong = f"the same command again ends with {status}: {said[-500:]}"
            elif digests(output) != expected[name]:
                wrong = "other bytes than the undisturbed run"
            elif hidden := [path.name for path in output.parent.iterdir() if path.name.startswith(".")]:
                wrong = f"left beside its output: {hidden[0]}"
        failures += wrong is not None
        print(f"{number}: {name}, {disturbance}: {wrong or 'as undisturbed'}", flush=True)
        shutil.rmtree(output.parent, ignore_errors=True)
    print(f"{arguments.rounds} rounds, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
