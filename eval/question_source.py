"""Where a benchmark's questions are that come in two ways: a file beside a folder of pictures, or a table with both."""

import argparse
from pathlib import Path

from eval import picture_folder, tables
from eval.picture_folder import PictureFolder, image_part
from eval.table_source import Table
from eval.tables import table_image_part
from models.errors import InputError


def add_arguments(
    parser: argparse.ArgumentParser, eval_file: str, img_path: str, example: str, several: bool = False
) -> None:
    """--eval_file and --img_path, with what they are, or --dataset_path, with an id of the hub as an example."""
    picture_folder.add_arguments(parser, eval_file, img_path, required=False, several=several)
    tables.add_arguments(parser, f"{example}; instead of --eval_file and --img_path", required=False)


def comes_as_table(args: argparse.Namespace) -> bool:
    """Which of the two was given. Raises InputError for neither, and for a mixture."""
    given = [args.eval_file is not None, args.img_path is not None, args.dataset_path is not None]
    if given not in ([True, True, False], [False, False, True]):
        raise InputError("give --eval_file with --img_path, or --dataset_path alone")
    return given[2]


def picture_of(record: dict, folder: PictureFolder | None) -> dict:
    """The field of an item that names the picture of a record: `image`, a file of the folder, or a table's `row`.

    Raises BadRecord for a name that is none.
    """
    if folder is None:
        return {"row": record["row"]}
    folder.check(record["image"])
    return {"image": record["image"]}


def item_image_part(item: dict, args: argparse.Namespace, table: Table | None) -> dict:
    """The part of a chat message that shows the picture of an item."""
    if table is not None:
        return table_image_part(table, item["row"])
    return image_part(Path(args.img_path), item["image"])
