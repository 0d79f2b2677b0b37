"""Ask a model where in a picture the thing is that an expression names: RefCOCO, RefCOCO+, RefCOCOg.

    python eval/refcoco.py --model_path checkpoints/Qwen2.5-VL-7B-Instruct --eval_file refcoco_val.jsonl \\
        --img_path data --answers_file results/refcoco_val.jsonl

One expression is one question. The data is JSON lines as Qwen-VL's evaluation has them (image, sent and bbox as xyxy)
beside the folder that their names start from, or a table of the hub (lmms-lab/RefCOCO, RefCOCOplus, RefCOCOg), whose
val is not the published one: 8,811 boxes in place of 3,811 in RefCOCO. A picture that EXIF turns is shown upright, and
its box is turned with it (`as_shown`). What the numbers of a reply mean depends on the model: pixels of the picture as
its processor scales it, where that takes any size; else say so by --coordinates.
eval/scorers/refcoco.py has the rules.
"""

import argparse
from pathlib import Path

from data.pictures import ON_ITS_SIDE, PictureError, size_and_orientation, upright_box
from eval import question_source, tables
from eval.harness import Benchmark, run
from eval.picture_folder import PictureFolder
from eval.prompts import add_prompt, user_turn
from eval.records import BadRecord, Records, build_items, json_records, require_fields
from eval.scored_run import print_score
from eval.scorers import refcoco
from eval.table_source import Table
from models.errors import InputError, run_script

PROMPTS = {
    "json": "a request for the box as JSON, in the units of --coordinates",
    "plain": "LLaVA's request for the box of the region that the sentence describes",
}
UNITS = {
    "resized_pixels": "in pixels",
    "normalized_1000": "in thousandths of the picture's width and height, 0 to 1000",
    "normalized_1": "in shares of the picture's width and height, 0 to 1",
}
JSON_REQUEST = (
    'Where is "{expression}"? Give its bounding box in the picture as JSON, {{"bbox_2d": [left, top, right, bottom]}}, '
    "{units}."
)
PLAIN_REQUEST = "Please provide the bounding box coordinate of the region this sentence describes: {expression}."
FIELDS = {"expression": str, "box": list, "image_size": list}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the expressions are, how they are put, and what the model answers in."""
    question_source.add_arguments(
        parser, "JSON lines with image, sent and bbox (xyxy)", "folder of their images", "lmms-lab/RefCOCO"
    )
    parser.add_argument("--split", default="val", help="of the table: val, testA, testB or test (default: %(default)s)")
    parser.add_argument(
        "--coordinates",
        choices=refcoco.COORDINATES,
        help="what the model's boxes are in (default: resized_pixels, for models that take pictures of any size)",
    )
    add_prompt(parser, PROMPTS, default="json")


def load_items(args: argparse.Namespace) -> list[dict]:
    """One item an expression, in the order of the rows. Raises InputError naming the place."""
    folder = None if question_source.comes_as_table(args) else PictureFolder(args.img_path)
    seen = coordinates(args)
    units = UNITS[seen["coordinates"]]
    request = PLAIN_REQUEST if args.prompt == "plain" else JSON_REQUEST
    split = args.split if folder is None else args.eval_file.stem

    def item_of(record: dict) -> dict:
        item = {"id": record["id"], "split": split, "expression": record["expression"].strip()}
        item |= {"answer": record["box"], "image_size": record["image_size"], **seen}
        if complaint := refcoco.check(item):
            raise BadRecord(complaint.replace("`answer`", "`bbox`"))
        item["text"] = request.format(expression=item["expression"], units=units)
        return item | question_source.picture_of(record, folder)

    if folder is None:
        tables.require_pictures(table(args))
        return build_items(table_records(table(args)), FIELDS, item_of, ("id",))
    items = build_items(file_records(args.eval_file, folder), FIELDS | {"image": str}, item_of, ("id",))
    folder.check_any((item["image"] for item in items), args.eval_file)
    return items


def coordinates(args: argparse.Namespace) -> dict:
    """The fields of an item that say what a reply's numbers mean: coordinates, min_pixels, max_pixels.

    Raises InputError if that has to be said and is not, or contradicts the checkpoint's processor.
    """
    from models.outline import load_outline
    from models.processors import pixel_bounds, set_pixel_bounds

    _, processor = load_outline(args.model_path)
    set_pixel_bounds(processor, args.min_pixels, args.max_pixels, args.model_path)
    bounds = pixel_bounds(processor)
    name = args.coordinates or (None if bounds is None else "resized_pixels")
    if name is None or (name == "resized_pixels" and bounds is None):
        raise InputError(
            f"--coordinates: the processor of {args.model_path} scales to sizes of its own, so replies are not "
            "in pixels; give normalized_1 or normalized_1000, as the model was trained"
        )
    least, most = bounds if name == "resized_pixels" else (None, None)
    return {"coordinates": name, "min_pixels": least, "max_pixels": most}


def table(args: argparse.Namespace) -> Table | None:
    """The table, if the expressions come from one."""
    return tables.table_of(args, args.split)


def table_records(source: Table) -> Records:
    """One record an expression of a row, with the row's box as xyxy and the size of its picture."""
    for where, record in tables.table_records(source, ("answer", "bbox")):
        require_fields(where, record, {"answer": list, "bbox": list})
        expressions, box = record["answer"], record["bbox"]
        if len(box) != 4 or not all(isinstance(number, int | float) for number in box):
            raise InputError(f"{where}: field `bbox` is {box}; four numbers, xywh, are expected")
        left, top, width, height = box
        box = [left, top, left + width, top + height]
        try:
            stored = tables.stored_picture(source, record["row"], "image")
        except PictureError as error:
            raise InputError(f"{where}: its picture cannot be opened ({error})") from None
        size, box = as_shown(where, stored, box)
        for number, expression in enumerate(expressions):
            yield (
                where,
                {
                    "id": f"{record['row']}_{number}",
                    "row": record["row"],
                    "expression": expression,
                    "box": box,
                    "image_size": size,
                },
            )


def file_records(file: Path, folder: PictureFolder) -> Records:
    """The records of JSON lines, with the size of the picture where they do not say it."""
    for number, (where, record) in enumerate(json_records(file)):
        require_fields(where, record, {"image": str, "sent": str, "bbox": list})
        try:
            folder.check(record["image"])
        except BadRecord as error:
            raise InputError(f"{where}: {error}") from None
        said = [record.get("width"), record.get("height")]
        size, box = as_shown(where, folder.path / record["image"], record["bbox"], None if None in said else said)
        named = {"id": number, "expression": record["sent"], "box": box, "image_size": size}
        yield where, named | {"image": record["image"]}


def as_shown(where: str, picture: Path | bytes, box: list, said: list | None = None) -> tuple[list[int], list]:
    """[width, height] and the box of a picture as the model sees it: upright.

    The box of a file that EXIF turns is taken to be of the pixels as they are stored, and turned with the picture: by
    those COCO's annotations count width and height, and evaluations that open files without turning them (Qwen-VL's)
    show them. `said`, [width, height] of the record, tells otherwise if it is the size of the upright picture alone.
    Raises InputError for a size that is not the picture's, and for a picture that cannot be opened, unless the size is
    said: then the run has an error row.
    """
    try:
        size, orientation = size_and_orientation(picture)
    except PictureError as error:
        if said is not None:
            return said, box
        raise InputError(f"{where}: its picture cannot be opened ({error})") from None
    stored = [*size][::-1] if orientation in ON_ITS_SIDE else [*size]
    if said not in (None, stored, [*size]):
        raise InputError(
            f"{where}: fields `width` and `height` say {said[0]} x {said[1]}, its picture has {stored[0]} x {stored[1]}"
            " px; give the picture that the box is of"
        )
    if orientation != 1 and said in (None, stored) and refcoco.is_box(box) and box[0] < box[2] and box[1] < box[3]:
        box = upright_box(box, size, orientation)
    return [*size], box


def messages(item: dict, args: argparse.Namespace) -> list[dict]:
    """One expression and its picture."""
    return user_turn([question_source.item_image_part(item, args, table(args))], item["text"])


BENCHMARK = Benchmark("refcoco", add_arguments, load_items, messages, afterwards=print_score, tables=table)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    run_script(main)
