"""Keep the arms of the miniature's experiment small, and make checkpoints of them again.

    python train/miniature_arms.py keep --checkpoints checkpoints/miniature --seed 1 --arm on
    python train/miniature_arms.py restore --checkpoints checkpoints/miniature --seed 1 --arm on

Arms are trained from one vision tower, the bundled model's, which stays as it is; so what an arm has of its own is its
language model and its projector: `<seed>-<arm>.safetensors`, bfloat16, 1.5 MB. `<seed>-<arm>.json` says what its stages
took. An arm without weights of its own is the bundled model. With them, the experiment can be measured again without
the hours of training: of what is restored, `arm-<seed>-<arm>`, never of what was trained, which has more digits.
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from data.files import write_json
from models import load_model
from models.errors import ArgumentParser, InputError, run_script
from models.outside import read_json_object
from models.reading import WEIGHT_ERRORS, told_as
from models.writing import new_folder
from train.bundle_miniature import STAGES, TOWER, summary

BUNDLED = Path(__file__).parents[1] / "models/miniature"
STORE = BUNDLED / "arms"
NOT_OF_A_CHECKPOINT = ("README.md", "stages.json", "curves.png")


def keep(checkpoints: Path, store: Path, seed: int, arm: str) -> None:
    """Write a trained arm's files into `store`, the description last.

    Raises InputError for a stage that is not finished, or a tower that is not the bundled model's.
    """
    stages = {
        stage: summary(checkpoints / folder.format(seed=seed, arm=arm))
        for stage, folder in STAGES.items()
        if stage != TOWER  # which arms do not have of their own
    }
    folder = checkpoints / f"finetune-{seed}-{arm}"
    model, _ = load_model(folder, dtype="bfloat16")
    bundled = load_model(BUNDLED, dtype="bfloat16")[0].state_dict()
    own = {}
    for name, weight in model.to(torch.bfloat16).state_dict().items():
        if not is_towers(name):
            own[name] = weight.clone().contiguous()
        elif not torch.equal(weight, bundled[name]):
            raise InputError(
                f"{folder}: its vision tower is not the bundled model's; train with TOWER=models/miniature"
            )
    store.mkdir(parents=True, exist_ok=True)
    hidden = store / f".{seed}-{arm}.safetensors"
    save_file(own, hidden)
    hidden.replace(store / f"{seed}-{arm}.safetensors")
    description = {"seed": seed, "arm": arm, "stages": stages}
    write_json(store / f"{seed}-{arm}.json", description)


def restore(checkpoints: Path, store: Path, seed: int, arm: str, balanced: bool) -> None:
    """Write a kept arm as a checkpoint in bfloat16, `arm-<seed>-<arm>` in `checkpoints`; whole or not at all.

    `balanced`: as `arm-<seed>-<arm>-balanced`, with BaPA in its config.json however it was trained.
    """
    describe(store, seed, arm)  # or there is no such arm
    weights = store / f"{seed}-{arm}.safetensors"
    flag = balanced or arm == "on"
    with new_folder(checkpoints / f"arm-{seed}-{arm}{'-balanced' if balanced else ''}") as folder:
        if not weights.is_file():
            for file in BUNDLED.iterdir():
                if file.is_file() and file.name not in NOT_OF_A_CHECKPOINT:
                    shutil.copyfile(file, folder / file.name)
            config = read_json_object(folder / "config.json", finite=False)
            write_json(folder / "config.json", config | {"position_balance": flag})
            return
        model, processor = load_model(BUNDLED, flag, dtype="bfloat16")
        with told_as(f"{weights}: cannot be read; get the repository's again", *WEIGHT_ERRORS):
            left_out = model.load_state_dict(load_file(weights), strict=False).missing_keys
        if not all(map(is_towers, left_out)):
            raise InputError(f"{weights}: lacks {next(name for name in left_out if not is_towers(name))}")
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def describe(store: Path, seed: int, arm: str) -> dict:
    """What `keep` wrote of an arm: seed, arm, stages. Raises InputError if it is not there."""
    path = store / f"{seed}-{arm}.json"
    return read_json_object(path, f"there are the arms {kept(store)}")


def kept(store: Path) -> str:
    return ", ".join(sorted(path.stem for path in store.glob("*.json"))) or "none"


def is_towers(name: str) -> bool:
    """Whether a weight of this name is the vision tower's."""
    return "vision_tower" in name


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("action", choices=("keep", "restore"), help="from --checkpoints into --store, or back")
    add("--checkpoints", type=Path, required=True, help="where scripts/train_miniature.sh writes; where to restore")
    add("--store", type=Path, default=STORE, help="folder of the kept arms (%(default)s)")
    add("--seed", type=int, required=True, help="of the arm")
    add("--arm", choices=("off", "on"), required=True, help="the flag that it was trained with")
    add("--balanced", action="store_true", help="restore: with position_balance true, to be adapted with BaPA")
    arguments = vars(parser.parse_args(argv))
    if arguments.pop("action") == "restore":
        restore(**arguments)
    elif arguments.pop("balanced"):
        raise InputError("--balanced: is for restore; leave it out")
    else:
        keep(**arguments)


if __name__ == "__main__":
    run_script(main)
