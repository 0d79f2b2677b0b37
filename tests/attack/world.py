"""A small world in which every command runs: checkpoints, adapter, probe, similarity, benchmark, samples, answers."""

import json
import shutil
from pathlib import Path

from peft import LoraConfig, get_peft_model

from data import build_similarity
from models import load_model
from models.tiny import build_tiny
from tests.pictures import picture
from tests.probe_runs import run_here, write_probe

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "train"


def build(root: Path) -> Path:
    """Write it into `root`, which must not change afterwards."""
    for family in ("qwen2_5_vl", "llava"):
        build_tiny(family, root / family)
        config = json.loads((root / family / "config.json").read_text())
        (root / family / "config.json").write_text(json.dumps(config | {"position_balance": True}))
    write_probe(root / "probe", captions=1)
    base, _ = load_model(root / "llava")
    targets = r".*language_model.*\.q_proj"
    get_peft_model(base, LoraConfig(r=2, target_modules=targets)).save_pretrained(root / "adapter")
    source = root / "source"
    source.mkdir()
    for name in ("a", "b"):
        picture(60, 50, seed=ord(name)).save(source / f"{name}.jpg")
    captions = [{"image": "a.jpg", "caption": "one"}, {"image": "b.jpg", "caption": "two"}]
    (source / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in captions))
    similarity = ["--source", source, "--num_captions", 1, "--output_dir", root / "similarity", "--workers", 1]
    build_similarity.main([str(word) for word in similarity])
    question = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "no"}
    (root / "coco_pope_random.json").write_text(json.dumps(question) + "\n")
    turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
    samples = [{"id": name, "image": f"{name}.jpg", "conversations": turns} for name in ("a", "b")]
    (root / "samples.json").write_text(json.dumps(samples))
    run_here(root / "qwen2_5_vl", root / "probe", root / "answers.jsonl", "--max_new_tokens", 2)
    shutil.copyfile(CONFIGS / "tiny_llava_1_5_lora.yaml", root / "lora.yaml")
    return root


def state(root: Path) -> dict[str, tuple]:
    """Every file of the world, with its size and the time of its last change."""
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        changed = None if path.is_dir() else (status.st_size, status.st_mtime_ns)  # a lock comes and goes in a folder
        found[str(path.relative_to(root))] = (changed, status.st_mode)
    return found
