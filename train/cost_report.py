"""Costs as people read them: Markdown tables and a picture of memory by part."""

from matplotlib.figure import Figure

from eval.heatmaps import save
from eval.markdown import table
from train.budget import GPUS

PARTS = ("weights", "gradients", "optimizer", "buffers", "activations")
# Okabe and Ito's colours, which stay apart in every common form of colour blindness.
COLOURS = dict(zip(PARTS, ("#0072B2", "#56B4E9", "#009E73", "#F0E442", "#E69F00"), strict=True))
MODEL_PARTS = ("vision tower", "projector", "language model", "LoRA")


def tables(costs: list[dict], gpu: str, utilisation: float, reserved_gb: float) -> str:
    """Three Markdown tables: memory and hours, weights, and what one knob brings."""
    memory = [["recipe", "GPUs", *PARTS, "sum, GB a GPU", "at mean length", "hours", "GPU hours"]]
    weights = [["recipe, weights in millions", *MODEL_PARTS, "trained"]]
    knobs = [["recipe, GB a GPU", "knobs"]]
    for cost in costs:
        total = sum(cost["memory"].values())
        number = str(cost["gpus"]) if cost["fits"] else f"does not fit {cost['gpus']}"
        sizes = [f"{cost['memory'][part]:.1f}" for part in PARTS]
        rows = f"{total:.1f} ({cost['rows']} x {cost['tokens']} tokens)"
        mean = f"{cost['memory_at_mean']:.1f} ({cost['mean_tokens']} tokens)"
        spent = [f"{cost['hours']:.1f}", f"{cost['hours'] * cost['gpus']:.1f}"]
        memory.append([cost["recipe"], number, *sizes, rows, mean, *spent])
        counts = [cost["parameters"].get(part, {"all": 0, "trained": 0}) for part in MODEL_PARTS]
        trained = sum(count["trained"] for count in counts)
        weights.append([cost["recipe"], *(f"{count['all'] / 1e6:,.1f}" for count in counts), f"{trained / 1e6:,.1f}"])
        turned = []
        for name, knob in cost["knobs"].items():
            others = "" if knob["gpus"] == cost["gpus"] else f" on {knob['gpus']} GPUs"
            turned.append(f"{name}{others}: {knob['gb']:.1f}")
        knobs.append([cost["recipe"], "; ".join(turned)])
    heading = f"{gpu}; assumed: {utilisation:.0%} of its peak, {reserved_gb:g} GB kept free on each GPU."
    return "\n\n".join([heading, *map(table, (memory, weights, knobs))])


def draw_memory(costs: list[dict], gpu: str, reserved_gb: float, path: str) -> None:
    """Draw a stacked bar of GB a GPU for each recipe, beside the card's size, and write it to `path`."""
    figure = Figure(figsize=(9, 1.6 + 0.5 * len(costs)), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    names = [f"{cost['recipe']}, {cost['gpus']} GPU{'s' * (cost['gpus'] > 1)}" for cost in costs]
    left = [0.0] * len(costs)
    for part in PARTS:
        sizes = [cost["memory"][part] for cost in costs]
        axes.barh(names, sizes, left=left, color=COLOURS[part], label=part, edgecolor="white", linewidth=0.5)
        left = [start + size for start, size in zip(left, sizes, strict=True)]
    reserved = [reserved_gb] * len(costs)
    axes.barh(
        names, reserved, left=left, color="#eeeeee", edgecolor="#999999", hatch="////", label="kept free (assumed)"
    )
    for row, total in enumerate(left):
        axes.text(total + reserved_gb + 0.8, row, f"{total:.1f}", va="center", fontsize=9, color="#1a1a1a")
    limit = GPUS[gpu][0]
    axes.axvline(limit, color="#D55E00", linestyle="--", linewidth=1.2, label=gpu)
    axes.set_xlim(0, 1.1 * max(limit, *(total + reserved_gb for total in left)))
    axes.set_xlabel("GB on each GPU at the longest samples, computed (1 GB = 1e9 bytes)")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=7, frameon=False, fontsize=9)
    save(figure, path)
