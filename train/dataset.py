"""Instruction files -> a data set on disk whose samples are checked, measured and found, and its samples one by one.

Everything that can be known without decoding pictures is known before training starts: malformed samples stop it,
samples that are over-long or whose image is missing are left out and listed. Rows are memory-mapped (Arrow, by the
`datasets` library), so 665k samples cost disk, not memory.
"""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import torch
from tqdm import tqdm

from data.files import write_atomic, writing
from data.instructions import find_images, read_samples
from data.pictures import size_and_orientation
from models.errors import InputError, steady
from models.fingerprint import hash_json
from models.outside import read_json_object
from models.resized_pixels import too_many_pixels
from train.box_texts import with_boxes
from train.encode import Encoder, image_size, open_image
from train.settings import Settings

FEATURES = datasets.Features(
    {
        "name": datasets.Value("string"),
        "file": datasets.Value("int32"),
        "images": datasets.List(datasets.Value("string")),
        "messages": datasets.List(
            {
                "role": datasets.Value("string"),
                "content": datasets.Value("string"),
                "supervised": datasets.Value("bool"),
            }
        ),
        "objects": datasets.Value("string"),  # boxes, as JSON, until they are written into the messages; or empty
        "tokens": datasets.Value("int32"),
        "dropped": datasets.Value("string"),  # over-long, unreadable image, malformed; or empty
        "reason": datasets.Value("string"),
    }
)
READY = "ready.json"
_NUMBER = r"\s*\d+(?:\.\d+)?\s*"
# [1, 2, 3, 4], (0.1, 0.2, 0.3, 0.4) and Qwen's (1,2),(3,4).
WRITTEN_BOX = re.compile(rf"[\[(]{_NUMBER}(?:,{_NUMBER}){{3}}[\])]|\({_NUMBER},{_NUMBER}\),\({_NUMBER},{_NUMBER}\)")


def prepare(settings: Settings, encoder: Encoder, folder: Path) -> None:
    """Write the data set into `folder`, unless it is there already for the same files and settings.

    What is left out is listed in `dropped.jsonl` beside it. Raises InputError for a file that is not what it should
    be, a sample that is malformed or that the family's template refuses (unless `skip_malformed`), more than
    `max_bad_samples` unreadable images, or nothing left.
    """
    key = data_key(settings, encoder)
    if folder.is_dir() and (folder / READY).is_file() and read_json_object(folder / READY).get("key") == key:
        return
    (folder / READY).unlink(missing_ok=True)  # first: a kill must not leave a part that looks ready
    shutil.rmtree(folder, ignore_errors=True)
    for name in os.listdir(folder.parent):  # what an earlier process was writing: the run's folder is locked
        if re.fullmatch(rf"\.{folder.name}\.\d+", name):
            shutil.rmtree(folder.with_name(name), ignore_errors=True)
    half = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with writing(half, only_full=True):
            counts = write_rows(settings, encoder, half)
        write_atomic(half / READY, json.dumps({"key": key} | counts) + "\n")
        os.replace(half, folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def write_rows(settings: Settings, encoder: Encoder, half: Path) -> dict:
    """Read, measure and write all samples; returns the counts of what is kept and left out."""
    half.mkdir(parents=True)
    quiet = datasets.utils.logging.get_verbosity()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        try:
            rows = datasets.Dataset.from_generator(
                read_rows,
                gen_kwargs={"settings": settings},
                features=FEATURES,
                cache_dir=str(half / "read"),
                fingerprint="read",
            )
        except datasets.exceptions.DatasetGenerationError as error:
            raise error.__cause__ or error from None  # what read_rows raised
        datasets.enable_progress_bars()
        rows = rows.map(
            measure,
            fn_kwargs={"encoder": encoder, "settings": settings},
            features=FEATURES,
            num_proc=settings.num_workers if len(rows) > 1000 and settings.num_workers > 1 else None,
            cache_file_name=str(half / "measured.arrow"),
            new_fingerprint="measured",
            desc="measuring samples",
        )
        datasets.disable_progress_bars()
        whys = np.asarray(rows["dropped"])
        left_out = rows.select(np.flatnonzero(whys != ""))
        list_dropped(settings, left_out)
        kept = rows.select(np.flatnonzero(whys == ""))
        if not len(kept):
            raise InputError(f"data: no sample is left of {len(rows)}; see {dropped_path(settings)}")
        kept.save_to_disk(half / "rows")
    finally:
        datasets.enable_progress_bars()
        datasets.utils.logging.set_verbosity(quiet)
    shutil.rmtree(half / "read")
    for file in half.glob("measured*"):
        file.unlink()
    counts = Counter(whys.tolist())
    return {"kept": counts.pop(""), "dropped": dict(counts)}


def read_rows(settings: Settings) -> Iterator[dict]:
    """The samples of all files, in order, with the places of their images."""
    folders = settings.image_folder * (len(settings.data) if len(settings.image_folder) == 1 else 1)
    for number, (path, folder) in enumerate(zip(settings.data, folders, strict=True)):
        malformed: list[InputError] = []
        samples = read_samples(path, malformed.append if settings.skip_malformed else None)
        for sample in tqdm(samples, desc=f"reading {path}", unit=" samples", leave=False):
            name = f"{path}, sample {sample['index']} (id {sample['id']})"
            row = {
                "name": name,
                "file": number,
                "messages": [{"supervised": True} | turn for turn in sample["messages"]],
                "objects": json.dumps(sample["objects"]) if "objects" in sample else "",
                "tokens": 0,
                "dropped": "",
                "reason": "",
            }
            try:
                found = find_images(folder, sample["images"], name, settings.follow_paths)
            except InputError as error:
                if not settings.skip_malformed:
                    raise
                malformed.append(error)
                continue
            missing = [image for image, file in zip(sample["images"], found, strict=True) if file is None]
            if missing:
                row |= {"dropped": "unreadable image", "reason": f"{missing[0]}: not in {folder}"}
            yield row | {"images": [str(file) for file in found if file is not None]}
        for error in malformed:
            empty = {"name": path, "file": number, "messages": [], "objects": "", "images": [], "tokens": 0}
            yield empty | {"dropped": "malformed", "reason": str(error)}


def measure(row: dict, encoder: Encoder, settings: Settings) -> dict:
    """`row` with its number of tokens, and why it is left out, if it is."""
    if row["dropped"]:
        return row
    try:
        check_boxes(row)
        sizes = [image_size(path) for path in row["images"]]
        for path, (height, width) in zip(row["images"], sizes, strict=True):
            if complaint := too_many_pixels(encoder.processor.image_processor, width, height):
                return row | {"dropped": "unreadable image", "reason": f"{path}: {complaint}"}
        if row["objects"]:
            pictures = [size_and_orientation(path) for path in row["images"]]
            arguments = json.loads(row["objects"]), pictures, encoder.processor, settings.box_coordinates, row["name"]
            row |= {"messages": with_boxes(row["messages"], *arguments), "objects": ""}
        row["tokens"] = encoder.count_tokens(row["messages"], sizes, row["name"])
    except InputError as error:
        if not settings.skip_malformed:
            raise
        return row | {"dropped": "malformed", "reason": str(error)}
    except (OSError, ValueError) as error:
        return row | {"dropped": "unreadable image", "reason": steady(" ".join(str(error).split()))}
    if row["tokens"] > settings.cutoff_len:
        row |= {"dropped": "over-long", "reason": f"{row['tokens']} tokens, cutoff_len is {settings.cutoff_len}"}
    return row


def check_boxes(row: dict) -> None:
    """InputError for a text with a box of a picture that EXIF turns: nobody can tell which way up the box was drawn."""
    if not any(map(WRITTEN_BOX.search, (turn["content"] for turn in row["messages"]))):
        return
    for path in row["images"]:
        if (orientation := size_and_orientation(path)[1]) != 1:
            raise InputError(
                f"{row['name']}: its text holds a box, and EXIF turns its image {path} (orientation {orientation}); "
                "save the image upright without EXIF, with the box as it then is"
            )


def list_dropped(settings: Settings, rows: datasets.Dataset) -> None:
    """Write dropped.jsonl; InputError if too many images cannot be read."""
    path = dropped_path(settings)
    lines = [{"sample": row["name"], "dropped": row["dropped"], "reason": row["reason"]} for row in rows]
    write_atomic(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    unreadable = [line for line in lines if line["dropped"] == "unreadable image"]
    if len(unreadable) > settings.max_bad_samples:
        raise InputError(
            f"data: {len(unreadable)} samples without a readable image (first: {unreadable[0]['sample']}: "
            f"{unreadable[0]['reason']}), more than max_bad_samples {settings.max_bad_samples}; all are in {path}"
        )


def dropped_path(settings: Settings) -> Path:
    return Path(settings.output_dir) / "dropped.jsonl"


def data_key(settings: Settings, encoder: Encoder) -> str:
    """Hash of all that decides what `prepare` writes. Files count by size and time: hashing 1 GB would take long."""
    files = []
    for path in map(Path, settings.data):
        try:
            state = path.stat()
        except OSError as error:
            raise InputError(f"data: {path}: {error.strerror}; give the path of an instruction file") from None
        files.append([str(path.resolve()), state.st_size, state.st_mtime_ns])
    folders = [str(Path(folder).resolve()) for folder in settings.image_folder]
    for folder in folders:
        if not Path(folder).is_dir():
            raise InputError(f"image_folder: {folder}: no such folder; give the one that the images' paths start from")
    processor = encoder.processor.to_json_string(), encoder.processor.chat_template
    decided = (
        settings.cutoff_len,
        settings.skip_malformed,
        settings.max_bad_samples,
        settings.box_coordinates,
        settings.follow_paths,
    )
    return hash_json([files, folders, processor, encoder.plain, encoder.llama_factory, decided])


class Samples(torch.utils.data.Dataset):
    """The prepared samples in `folder`, encoded when asked for."""

    def __init__(self, folder: Path, encoder: Encoder):
        self.rows = datasets.load_from_disk(str(folder / "rows"))
        self.encoder = encoder
        counts = read_json_object(folder / READY, "delete the folder; it is made again")
        self.dropped: dict[str, int] = counts["dropped"]
        columns = self.rows.with_format("numpy")
        self.lengths = np.asarray(columns["tokens"][:], dtype=np.int64)
        self.files = np.asarray(columns["file"][:], dtype=np.int64)
        images = self.rows.data.column("images")
        self.has_image = np.concatenate([np.asarray(chunk.value_lengths()) for chunk in images.chunks]) > 0

    def digest(self) -> str:
        """Hash of which samples there are, in which order, and of their lengths."""
        digest = hashlib.sha256(self.lengths.tobytes())
        for name in self.rows.data.column("name").to_pylist():
            digest.update(name.encode() + b"\n")
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        """An encoded sample with its `name`; `{"name", "bad"}` with the reason if an image cannot be decoded."""
        row = self.rows[int(index)]
        try:
            images = [open_image(path) for path in row["images"]]
            return self.encoder.encode(row["messages"], images, row["name"]) | {"name": row["name"]}
        except InputError:
            raise
        except (OSError, ValueError) as error:
            return {"name": row["name"], "bad": steady(" ".join(str(error).split())) or type(error).__name__}
