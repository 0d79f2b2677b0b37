"""--engine and what goes with it: the part of the command line that says which software gives the replies."""

import argparse
import importlib.metadata
import importlib.util

from models.errors import InputError

ENGINES = ("transformers", "vllm")
# Flags of --engine vllm, passed on under vLLM's own names.
PASSED_ON = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "max_model_len")
VLLM_ONLY = (*PASSED_ON, "gpu_memory_utilization")


def add_engine_arguments(parser: argparse.ArgumentParser, count) -> None:
    """The flags; `count` is argparse's type of a number of things (eval/arguments.py)."""
    add = parser.add_argument
    add(
        "--engine",
        choices=ENGINES,
        default="transformers",
        help="what gives the replies: transformers, or vLLM with its own batches, docs/vllm.md (default: %(default)s)",
    )
    told = {
        "tensor_parallel_size": "GPUs that share each layer",
        "pipeline_parallel_size": "groups of GPUs that share out the layers",
        "data_parallel_size": "copies of the model, that share out the items",
        "max_model_len": "longest prompt with its reply, in tokens; less takes less memory",
    }
    for name in PASSED_ON:
        add(f"--{name}", type=count, metavar="N", help=f"--engine vllm: {told[name]} (default: vLLM's)")
    add(
        "--gpu_memory_utilization",
        type=_fraction,
        metavar="F",
        help="--engine vllm: part of a GPU's memory that it takes, between 0 and 1 (default: vLLM's)",
    )


def check_engine(args: argparse.Namespace, name: str, measures: bool, num_processes: int) -> None:
    """Raise InputError unless --engine, the other flags and the installed software go together.

    `name` is the benchmark's; `measures`: it looks into the model rather than at its replies.
    """
    if args.engine == "transformers":
        given = next((flag for flag in VLLM_ONLY if getattr(args, flag) is not None), None)
        if given:
            raise InputError(f"--{given}: goes with --engine vllm; leave it out, or add that")
        return
    if measures:
        raise InputError(f"{name}: looks into the model, which vLLM keeps closed; use --engine transformers")
    if num_processes > 1:
        raise InputError(
            f"--engine vllm: {num_processes} processes; start one, without torchrun, and give it "
            f"--data_parallel_size {num_processes}"
        )
    reasons = {
        "batch_size": "vLLM makes its own batches",
        "attn_implementation": "vLLM has its own attention; its environment variables and config choose the back end",
    }
    for flag, reason in reasons.items():
        if getattr(args, flag) is not None:
            raise InputError(f"--{flag}: {reason}; leave it out with --engine vllm")
    if args.device != "auto":
        raise InputError(
            f"--device {args.device}: vLLM runs on what it was built for (CUDA_VISIBLE_DEVICES chooses among GPUs); "
            "leave it out with --engine vllm"
        )
    if importlib.util.find_spec("vllm") is None:
        raise InputError(
            "--engine vllm: vllm is not installed here; docs/vllm.md says how, in an environment of its own"
        )


def engine_versions(engine: str) -> dict[str, str]:
    """Distribution -> version of the engine, beside what models/provenance.py records of every run."""
    if engine == "transformers":
        return {}
    names = importlib.metadata.packages_distributions().get("vllm", [])
    return {name: importlib.metadata.version(name) for name in sorted(set(names))}


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0, at most 1")
    return value
