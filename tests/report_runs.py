"""Results of made-up models as the scripts write them, for eval/report.py."""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data.grid import cell_names
from eval import report
from eval.manifest import write_manifest
from models.fingerprint import hash_json
from tests.pictures import picture

CAPTIONS = 12
Row = dict


def probe_rows(
    right: Callable[[int, int, str], bool], captions: int = CAPTIONS, caption: str = "a red bus"
) -> list[Row]:
    """Replies to `captions` captions on the canvas and as many in vain; `right(caption, cell, answer)` is the model."""
    rows = []
    for number in range(captions):
        for cell, position in enumerate(cell_names(3)):
            for answer, wrong in (("Yes", "No"), ("No", "Yes")):
                rows.append(
                    {
                        "id": f"{number}_{cell}_{answer}",
                        "image": f"{number:06d}_{cell}.jpg",
                        "caption": f"{caption} {number}",
                        "position": position,
                        "answer": answer,
                        "prediction": answer if right(number, cell, answer) else wrong,
                        "image_sha256": f"{number:08d}{cell:08d}",
                    }
                )
    return rows


def biased(number: int, cell: int, answer: str) -> bool:
    """A model that finds nothing in the bottom row, but for every sixth caption."""
    return answer == "No" or cell < 6 or number % 6 == 0


def even(number: int, cell: int, answer: str) -> bool:
    """A model that misses one caption in six, wherever it is."""
    return answer == "No" or number % 6 != 0


def write_run(path: Path, flag: bool, rows: list[Row], model: str = "bus-7b", weights: str = "a", **settings) -> Path:
    """Answers with their manifest, of a model whose weights are `weights`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = hash_json([(row.get("caption"), row["image"], row["position"]) for row in rows])
    known = {
        "benchmark": "probe",
        "items": len(rows),
        "items_sha256": asked,
        "questions_sha256": asked,
        "limit": None,
        "model_path": f"/checkpoints/{model}",
        "model_files": {"config.json": f"900 bytes, {flag}", "model.safetensors": f"5000 bytes, {weights}"},
        "position_balance": flag,
    }
    write_manifest(path, known | settings, None)
    return path


def write_pair(folder: Path, off: list[Row], on: list[Row], **settings) -> None:
    """A model's runs with the flag off and on."""
    write_run(folder / "one.jsonl", False, off, **settings)
    write_run(folder / "another.jsonl", True, on, **settings)


def draw_canvases(folder: Path, rows: list[Row]) -> None:
    """Draw the canvases that `rows` name and write their hashes into the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        path = folder / row["image"]
        if not path.exists():
            picture(90, 90, seed=len(list(folder.iterdir()))).save(path)
        row["image_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def study_rows(benchmark: str) -> list[Row]:
    """What a study measures of three captions in nine cells."""
    rng, rows = np.random.default_rng(0), []
    for number in range(3):
        for cell, position in enumerate(cell_names(3)):
            flow, feature = rng.random((2, 4, 4)).astype(np.float32), rng.random(8).astype(np.float16)
            measured = {
                "perception": {"map": rng.random((6, 6)).tolist()},
                "information_flow of probe": {
                    "flow": base64.b64encode(flow / 50).decode(), "shape": [2, 4, 4], "image_share": 0.5
                },
                "similarity": {
                    "similarity": 0.25, "similarity_other": 0.125, "features": base64.b64encode(feature).decode()
                },
            }  # fmt: skip
            row = {"id": f"{number}_{cell}", "image": f"{number}_{cell}.jpg", "position": position, "answer": "Yes"}
            rows.append(row | {"image_sha256": f"{number}{cell}"} | measured[benchmark])
    return rows


def write_rotary(path: Path, model: str = "bus-7b", layer_types: Sequence[str | None] = (None,)) -> None:
    """What eval/rotary_bias.py finds of a model with these types of layers."""
    kernel = {"rkd": 1.5, "ptd": 2.5, "kernel": [[0.5, 1.0], [0.25, 0.75]]}
    found = [
        {"view": "base", "layer_type": name, "layers": 4, "off": kernel, "on": kernel | {"rkd": 0.0}}
        for name in layer_types
    ]
    content = {"model_path": f"/checkpoints/{model}", "image_tokens": 4, "text_tokens": 64, "found": found}
    path.write_text(json.dumps(content))


def make_report(folder: Path, *arguments: str) -> str:
    """The page on what lies below `folder`, with few resamples."""
    output = folder / "page.html"
    report.main(["--results_dir", str(folder), "--output", str(output), "--bootstrap", "200", *arguments])
    return output.read_text()
