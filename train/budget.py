"""From counted bytes and FLOPs to the memory of a GPU and the hours of a run."""

from models.errors import InputError
from models.outside import read_json_object
from train.counting import Step
from train.settings import Settings, find_file

# Memory (a GB is 1e9 bytes) and dense bfloat16 TFLOP/s, from NVIDIA's data sheets of the SXM cards (L40S: PCIe).
GPUS = {
    "H200-141GB": (141, 989),
    "H100-80GB": (80, 989),
    "A100-80GB": (80, 312),
    "A100-40GB": (40, 312),
    "L40S-48GB": (48, 362),
}
ADAMW_STATES, MASTER_COPY, HALF = 8, 4, 2  # bytes a trained weight (any weight for HALF)
GB, TERA = 1e9, 1e12


def read_zero(path: str | None) -> dict:
    """The section `zero_optimization` of a DeepSpeed config; {} without one."""
    if path is None:
        return {}
    file = find_file(path)
    section = read_json_object(file, "deepspeed: give a config of DeepSpeed's").get("zero_optimization")
    if not isinstance(section, dict) or section.get("stage") not in (1, 2, 3):
        raise InputError(f"deepspeed: {path}: zero_optimization.stage is not 1, 2 or 3")
    return section


def memory_by_part(weights: dict, step: Step, zero: dict, gpus: int) -> dict[str, float]:
    """Bytes on each of `gpus` GPUs by part, in the backward pass of an update after the first.

    Args:
        weights: "all" and "trained" (numbers of weights), "bytes" of all and "trained_bytes" without DeepSpeed,
            "hidden_size" of the language model.
        step: of one GPU's micro-batch.
        zero: of `read_zero`. Its buffers are counted as large as its config lets them become.

    What the kernels, NCCL, the CUDA context and fragmentation take is not in it.
    """
    if not zero:
        return {
            "weights": weights["bytes"],
            "gradients": weights["trained_bytes"],
            "optimizer": ADAMW_STATES * weights["trained"],
            "buffers": weights["trained_bytes"] if gpus > 1 else 0,  # DDP's buckets
            "activations": step.activations,
        }
    stage = zero["stage"]

    def on_gpu(key: str) -> bool:
        return zero.get(key, {}).get("device", "none") == "none"

    def size(key: str, default: float, automatic: float) -> float:
        value = zero.get(key, default)
        return automatic if value == "auto" else value

    # "auto" as transformers fills it in (integrations/deepspeed.py), defaults as DeepSpeed does (zero/config.py).
    overlap = zero.get("overlap_comm", stage == 3)
    bucket = min(size("reduce_bucket_size", 5e8, weights["hidden_size"] ** 2), weights["trained"])
    gathered = min(size("stage3_max_live_parameters", 1e9, 1e9), weights["all"]) if stage == 3 else 0
    return {
        "weights": HALF * weights["all"] / (gpus if stage == 3 else 1) * on_gpu("offload_param"),
        "gradients": HALF * weights["trained"] / (gpus if stage >= 2 else 1) * on_gpu("offload_optimizer"),
        "optimizer": (ADAMW_STATES + MASTER_COPY) * weights["trained"] / gpus * on_gpu("offload_optimizer"),
        "buffers": HALF * (gathered + bucket * (2 if overlap else 1)),
        "activations": step.activations,
    }


def gpu_counts(settings: Settings, most: int = 64) -> list[int]:
    """Numbers of GPUs, ascending, up to `most`, into which the recipe's global batch divides."""
    micro_batches = settings.global_batch_size // settings.per_device_batch_size
    return [number for number in range(1, min(micro_batches, most) + 1) if micro_batches % number == 0]


def hours(flops: float, gpus: int, gpu: str, utilisation: float) -> float:
    """Time of `flops` floating-point operations at `utilisation` of the GPUs' peak."""
    return flops / (gpus * GPUS[gpu][1] * TERA * utilisation) / 3600
