r"""Draw instruction samples for tuning: the paper's (arXiv 2509.21984) are 10,000 of LLaVA-1.5's mix of 665k.

    python data/sample_instructions.py --input playground/data/llava_v1_5_mix665k.json \
        --image_folder playground/data --output_dir results/llava_instruct_10k

Samples with an image only, unless --include_text_only is given. The images of all samples are looked for, not only
those of the chosen. --output_dir gets

    llava.json         the chosen objects as they were, in LLaVA's format; train/sft.py reads this
    sharegpt.json      messages with `<image>` marks, and images, for LLaMA-Factory; train/sft.py reads it as well
    dataset_info.json  the entry that makes it a data set of LLaMA-Factory (`dataset_dir: <--output_dir>`)
    trl.json           messages of typed parts, and images, for TRL, which does not know marks in the text
    manifest.json      arguments, SHA-256 of the input, counts by data set

Images are named relative to --image_folder: give that as LLaMA-Factory's `media_dir`. So the files can move with the
data. --absolute_images names them absolutely, which TRL needs unless it runs in that folder. The order is random, and
the first m of n samples are the sample of m with the same seed: LLaMA-Factory's `max_samples` stays a fair draw.
"""

import argparse
import hashlib
import heapq
import json
import os
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data.files import write_atomic
from data.instruction_formats import LLAMA_FACTORY_ENTRY, as_array, as_llava, as_messages, as_typed_messages
from data.instructions import TEXT_ONLY, canonical_sample, dataset_of, find_images, read_objects
from data.sample_folder import holds, publish
from models.errors import ArgumentParser, InputError, run_script

ROWS_SHOWN = 20  # data sets in the table, malformed samples


class Chosen(NamedTuple):
    """A drawn sample: as it was in the file, and read, with its images' names as they were found."""

    data: str
    written: dict
    sample: dict


class Draw(NamedTuple):
    """The chosen in random order; by data set how many samples were met, chosen, and lack an image; what was left out.

    `missing` are the names of the images not found, `malformed` the number of such samples and `faults` what is wrong
    with the first of them.
    """

    chosen: list[Chosen]
    counts: dict[str, dict[str, int]]
    missing: list[str]
    malformed: int
    faults: list[str]


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Draw instruction samples, with an image each, in the formats of LLaVA, LLaMA-Factory and TRL.",
        allow_abbrev=False,
    )
    parser.add_argument("--input", required=True, type=Path, help="LLaVA's or messages' format: JSON array or lines")
    parser.add_argument("--image_folder", type=Path, help="what the images' names start from (LLaVA's playground/data)")
    parser.add_argument("--output_dir", required=True, type=Path, help="folder to write; it comes whole or not at all")
    parser.add_argument("--num_samples", type=int, default=10_000, help="samples to draw (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (%(default)s)")
    parser.add_argument("--include_text_only", action="store_true", help="draw from samples without an image too")
    parser.add_argument("--skip_missing", action="store_true", help="do not draw samples that lack an image file")
    parser.add_argument("--skip_malformed", action="store_true", help="do not draw malformed samples; count them")
    parser.add_argument("--no_image_check", action="store_true", help="do not look for the image files")
    parser.add_argument("--absolute_images", action="store_true", help="absolute names in sharegpt.json and trl.json")
    parser.add_argument("--follow_paths", action="store_true", help="take images named out of --image_folder, too")
    parser.add_argument("--overwrite", action="store_true", help="replace the sample that --output_dir holds")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    check_arguments(args)
    identity = identify(args)
    if holds(args.output_dir, identity, args.overwrite):
        print(f"{args.output_dir}: this sample is there already and complete; nothing to do (--overwrite draws again)")
        return
    result = draw(args)
    check_draw(args, result)
    publish(args.output_dir, identity, files_of(args, identity, result), args.overwrite)
    missing_list(args).unlink(missing_ok=True)
    print_table(result)
    print(f"{args.output_dir}: {len(result.chosen)} samples; data set {entry_name(args)} of its dataset_info.json")


def check_arguments(args: argparse.Namespace) -> None:
    if args.num_samples < 1:
        raise InputError(f"--num_samples {args.num_samples}: must be 1 or more")
    if args.no_image_check and args.skip_missing:
        raise InputError("--no_image_check: --skip_missing needs the check; give one of them")
    if args.image_folder is None and (args.absolute_images or not args.no_image_check):
        raise InputError("--image_folder: missing; give the folder that the images' names start from")
    if args.image_folder is not None and not args.image_folder.is_dir() and not args.no_image_check:
        raise InputError(f"--image_folder {args.image_folder}: no such folder")


def identify(args: argparse.Namespace) -> dict:
    """Everything that decides the files but the image files themselves. Reads the input once."""
    try:
        with open(args.input, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"--input {args.input}: cannot be read ({error.strerror})") from None
    return {
        "build": "instructions",
        "input_sha256": digest,
        "image_folder": args.image_folder and str(args.image_folder),
        "num_samples": args.num_samples,
        "seed": args.seed,
        "include_text_only": args.include_text_only,
        "skip_missing": args.skip_missing,
        "skip_malformed": args.skip_malformed,
        "no_image_check": args.no_image_check,
        "absolute_images": args.absolute_images,
        "follow_paths": args.follow_paths,
    }


def draw(args: argparse.Namespace) -> Draw:
    """A uniform sample without replacement, in one pass; memory grows with it and with what is missing only.

    Every sample has a random number, the hash of the seed and of its place in the file; the smallest are taken.
    Samples without an image are not even checked unless they are asked for.
    """
    counts, missing, malformed, faults = {}, {}, 0, []
    held: list[tuple[int, int, Chosen]] = []  # a heap, the largest number on top
    for index, written in tqdm(read_objects(args.input), desc="drawing", unit=" samples"):
        if not args.include_text_only and is_text_only(written):
            count(counts, TEXT_ONLY, "samples")
            continue
        try:
            sample = canonical_sample(args.input, index, written)
            where = f"{args.input}, sample {index} (id {sample['id']})"
            check_copied(sample, where)
            found = (
                []
                if args.no_image_check
                else find_images(args.image_folder, sample["images"], where, args.follow_paths)
            )
        except InputError as error:
            if not args.skip_malformed:
                raise InputError(f"{error}; or give --skip_malformed") from None
            malformed += 1
            if malformed <= ROWS_SHOWN:
                faults.append(str(error))
            continue
        data = dataset_of(sample["images"][0] if sample["images"] else None)
        count(counts, data, "samples")
        if not args.no_image_check:
            lost = [name for name, path in zip(sample["images"], found, strict=True) if path is None]
            if lost:
                missing.update(dict.fromkeys(lost))
                count(counts, data, "missing")
                continue
            sample["images"] = [
                os.path.join(os.path.dirname(name), path.name)
                for name, path in zip(sample["images"], found, strict=True)
            ]
        entry = (-random_number(args.seed, index), index, Chosen(data, written, sample))
        if len(held) < args.num_samples:
            heapq.heappush(held, entry)
        elif entry > held[0]:
            heapq.heapreplace(held, entry)
    chosen = [entry for _, _, entry in sorted(held, reverse=True)]
    for entry in chosen:
        count(counts, entry.data, "chosen")
    return Draw(chosen, dict(sorted(counts.items())), list(missing), malformed, faults)


def check_copied(sample: dict, where: str) -> None:
    """Raise InputError for what only train/sft.py reads: to LLaMA-Factory and TRL such a sample means another thing."""
    if "objects" in sample:
        what = 'field "objects": its boxes'
    elif not all(turn.get("supervised", True) for turn in sample["messages"]):
        what = "an answer that is not to be learnt"
    else:
        return
    raise InputError(
        f"{where}: {what} cannot be written for all of LLaVA, LLaMA-Factory and TRL; train/sft.py reads it"
    )


def is_text_only(written: object) -> bool:
    return isinstance(written, dict) and all(written.get(field) in (None, []) for field in ("image", "images"))


def count(counts: dict[str, dict[str, int]], data: str, what: str) -> None:
    counts.setdefault(data, {"samples": 0, "chosen": 0, "missing": 0})[what] += 1


def random_number(seed: int, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\n{index}".encode()).digest())


def check_draw(args: argparse.Namespace, result: Draw) -> None:
    """Raises InputError, with a list of what is missing beside --output_dir, or for too few samples."""
    lacking = {data: row["missing"] for data, row in result.counts.items() if row["missing"]}
    if lacking and not args.skip_missing:
        names = "".join(f"{name}\n" for name in sorted(result.missing))
        write_atomic(missing_list(args), names.encode(errors="backslashreplace"))
        raise InputError(
            f"--image_folder {args.image_folder}: {sum(lacking.values())} samples lack an image ("
            f"{told(lacking)}); the {len(result.missing)} names are in {missing_list(args)}; get them or give "
            "--skip_missing"
        )
    if len(result.chosen) < args.num_samples:
        left_out = {"lack an image": sum(lacking.values()), "are malformed": result.malformed}
        if not args.include_text_only:
            left_out["have none"] = result.counts.get(TEXT_ONLY, {}).get("samples", 0)
        raise InputError(
            f"--input {args.input}: {len(result.chosen)} usable samples ("
            + ", ".join(f"{number} {reason}" for reason, number in left_out.items())
            + f"), fewer than --num_samples {args.num_samples}; lower it"
        )


def missing_list(args: argparse.Namespace) -> Path:
    return args.output_dir.with_name(f"{args.output_dir.name}.missing.txt")


def told(numbers: dict[str, int]) -> str:
    first = sorted(numbers, key=numbers.get, reverse=True)[:ROWS_SHOWN]
    more = [f"{len(numbers) - ROWS_SHOWN} more"] if len(numbers) > ROWS_SHOWN else []
    return ", ".join([f"{data} {numbers[data]}" for data in first] + more)


def files_of(args: argparse.Namespace, identity: dict, result: Draw) -> dict[str, str]:
    """Name -> content of the files in --output_dir."""
    samples = [entry.sample for entry in result.chosen]
    if args.absolute_images:
        folder = args.image_folder.absolute()
        samples = [{**sample, "images": [str(folder / name) for name in sample["images"]]} for sample in samples]
    files = {
        "llava.json": as_array(as_llava(entry.written, entry.sample) for entry in result.chosen),
        "sharegpt.json": as_array(as_messages(sample) for sample in samples),
        "trl.json": as_array(as_typed_messages(sample) for sample in samples),
        "dataset_info.json": json.dumps({entry_name(args): LLAMA_FACTORY_ENTRY}, indent=2) + "\n",
    }
    manifest = {
        "identity": identity,
        "input": str(args.input),
        "samples": len(samples),
        "by_data_set": result.counts,
        "malformed": result.malformed,
        "first_malformed": result.faults,
        "files": {name: hashlib.sha256(content.encode()).hexdigest() for name, content in files.items()},
    }
    return {**files, "manifest.json": json.dumps(manifest, indent=2) + "\n"}


def entry_name(args: argparse.Namespace) -> str:
    thousands, rest = divmod(args.num_samples, 1000)
    return f"llava_instruct_{args.num_samples}" if rest else f"llava_instruct_{thousands}k"


def print_table(result: Draw) -> None:
    rows = sorted(result.counts.items(), key=lambda row: row[1]["samples"], reverse=True)
    width = max(len(data) for data, _ in rows)
    print(f"{'data set':<{width}}  {'samples':>8}  {'chosen':>8}  {'missing':>8}")
    for data, row in rows[:ROWS_SHOWN]:
        print(f"{data:<{width}}  {row['samples']:>8}  {row['chosen']:>8}  {row['missing']:>8}")
    if len(rows) > ROWS_SHOWN:
        print(f"and {len(rows) - ROWS_SHOWN} data sets more: see manifest.json")
    if result.malformed:
        print(f"malformed and left out: {result.malformed}; the first: {result.faults[0]}")


if __name__ == "__main__":
    run_script(main)
