"""Miniatures of the benchmarks' official layouts on disk, with drawn pictures; each gives the script's arguments."""

import io
import json
from pathlib import Path

import datasets
import pyarrow.parquet

from tests.pictures import picture

OPTIONS = "A. red\nB. green\nC. blue\nD. grey"
LETTER = "Answer with the option's letter from the given choices directly."
TEN = ["stop"] * 6 + ["STOP"] * 2 + ["halt", "go"]


def draw(path: Path, seed: int, size: tuple[int, int] = (70, 60)) -> None:
    """A picture in a file of any format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(*size, seed).save(path)


def encoded(seed: int, size: tuple[int, int] | None = None) -> dict:
    """A picture as a table has it; without a size, one that tells its seed."""
    content = io.BytesIO()
    picture(*(size or (70, 60 + seed)), seed).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: list[dict], pictures: tuple[str, ...] = ("image",)) -> Path:
    """Rows as `datasets` writes them to the hub."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_list(rows)
    for name in pictures:
        table = table.cast_column(name, datasets.Image(decode=False))
    table.to_parquet(path)
    assert pyarrow.parquet.read_metadata(path).num_rows == len(rows)
    return path


def scienceqa(folder: Path) -> list:
    rows = []
    for number, image in enumerate(["5/image.png", None, "9/image.png"]):
        text = f"Context: A. is a letter.\nWhich colour is {number}?\n{OPTIONS}\n{LETTER}"
        said = [
            {"from": "human", "value": text if image is None else f"<image>\n{text}"},
            {"from": "gpt", "value": "ABC"[number]},
        ]
        rows.append({"id": str(number), "conversations": said} | ({"image": image} if image else {}))
        if image:
            draw(folder / "images" / image, number)
    file = write_json(folder / "llava_test_CQM-A.json", rows)
    return ["--eval_file", file, "--img_path", folder / "images"]


def scienceqa_table(folder: Path) -> list:
    rows = [
        {
            "image": encoded(number),
            "question": f"Which colour is {number}?",
            "choices": ["red", "green", "blue"],
            "answer": number,
            "hint": "" if number else "It is warm.",
        }
        for number in range(2)
    ]
    write_parquet(folder / "ScienceQA-IMG" / "test-00000-of-00001.parquet", rows)
    return ["--dataset_path", folder]


def crpe(folder: Path) -> list:
    files = []
    for name, category, image in (
        ("crpe_exist", "exist", "coco/val2017/1.jpg"),
        ("crpe_relation", "subject", "abnormal_images/2.jpg"),
    ):
        draw(folder / image, len(files))
        rows = [
            {"question_id": number, "image": image, "text": f"What is it?\n{OPTIONS}\n{LETTER}", "category": category}
            | {"correct_option": "ABCD"[number]}
            for number in range(4)
        ]
        files.append(write_lines(folder / f"{name}.jsonl", rows))
    return ["--eval_file", *files, "--img_path", folder]


def hallusionbench(folder: Path) -> list:
    rows = []
    for category, figure, visual in (("VS", "0", "0"), ("VS", "1", "2"), ("VD", "0", "1"), ("VD", "1", "2")):
        filename = None if visual == "0" else f"./{category}/chart/0_{figure}.png"
        if filename:
            draw(folder / "data" / filename, len(rows))
        for question in ("0", "1"):
            rows.append(
                {"category": category, "subcategory": "chart", "set_id": "0", "figure_id": figure, "sample_note": "x"}
                | {"visual_input": visual, "question_id": question, "question": f"Is it {question}?"}
                | {"gt_answer": question, "gt_answer_details": "It is.", "filename": filename}
            )
    file = write_json(folder / "HallusionBench.json", rows)
    return ["--eval_file", file, "--img_path", folder / "data"]


def mmmu_pro(folder: Path) -> list:
    images = [f"image_{number}" for number in range(1, 8)]
    standard, vision = [], []
    for number in range(2):
        options = ["<image 2>", "none"] if number else [f"option {place}" for place in range(10)]
        row = {"id": f"test_{number}", "question": "What do <image 1> and <image 1> show?", "options": str(options)}
        row |= {"answer": "AB"[number], "subject": "Art"}
        shown = {"image_1": encoded(2 * number), "image_2": encoded(2 * number + 1, (56, 90)) if number else None}
        standard.append(row | dict.fromkeys(images) | shown)
        vision.append({"id": row["id"], "image": encoded(7 + number), "options": str(options), "answer": "A"})
    write_parquet(folder / "standard (10 options)" / "test-00000-of-00001.parquet", standard, tuple(images))
    write_parquet(folder / "vision" / "test-00000-of-00001.parquet", vision)
    return ["--dataset_path", folder]


def mme(folder: Path) -> list:
    """A flat subtask and a nested one, as the official zip has them."""
    root = folder / "MME_Benchmark"
    for subtask, pictures, texts in (
        ("color", "color", "color"),
        ("artwork", "artwork/images/toy_dataset", "artwork/questions_answers_YN"),
    ):
        for number in (10, 9):
            draw(root / pictures / f"{number}.jpg", number)
            text = root / texts / f"{number}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(
                f"Is {subtask} {number} warm? Please answer yes or no.\tYes\nIs it cold? Please answer yes or no.\tNo\n"
            )
    return ["--path_to_mme", folder, "--subtasks", "color", "artwork"]


def mme_paper(folder: Path) -> list:
    """The paper's copy: JSON lines beside the pictures."""
    rows = [
        {"image": f"color/{number}.jpg", "question": f"Is it {colour}? Please answer yes or no.", "answer": answer}
        for number in range(2)
        for colour, answer in (("red", "Yes"), ("blue", "No"))
    ]
    for number in range(2):
        draw(folder / "color" / f"{number}.jpg", number)
    write_lines(folder / "color_data.json", rows)
    return ["--path_to_mme", folder, "--subtasks", "color"]


def pope(folder: Path) -> list:
    files = []
    for split in ("random", "popular"):
        rows = [
            {"question_id": number, "image": f"COCO_val2014_{number}.jpg", "text": "Is there a dog in the image?"}
            | {"label": label}
            for number, label in enumerate(("yes", "no"), start=1)
        ]
        files.append(write_lines(folder / f"coco_pope_{split}.json", rows))
    for number in (1, 2):
        draw(folder / "val2014" / f"COCO_val2014_{number}.jpg", number)
    return ["--eval_file", *files, "--img_path", folder / "val2014"]


def pope_table(folder: Path) -> list:
    rows = [
        {"question_id": str(number), "question": "Is there a dog in the image?", "answer": answer, "image_source": "x"}
        | {"image": encoded(number), "category": "adversarial"}
        for number, answer in enumerate(("yes", "no"))
    ]
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", rows)
    return ["--dataset_path", folder]


def textvqa(folder: Path) -> list:
    rows = [
        {"question_id": number, "question": "what does the sign say?", "image_id": f"00{number}", "answers": TEN}
        for number in range(2)
    ]
    for row in rows:
        draw(folder / "train_images" / f"{row['image_id']}.jpg", row["question_id"])
    file = write_json(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": rows})
    return ["--eval_file", file, "--img_path", folder / "train_images"]


def textvqa_table(folder: Path) -> list:
    rows = [
        {"question_id": number, "question": "what does it say?", "image_id": "7", "answers": TEN, "image": encoded(7)}
        for number in range(2)
    ]
    write_parquet(folder / "data" / "validation-00000-of-00001.parquet", rows)
    return ["--dataset_path", folder]


def chartqa(folder: Path) -> list:
    """As `save_to_disk` writes a table."""
    rows = [
        {"type": kind, "question": "How many?", "answer": "14", "image": encoded(number)}
        for number, kind in enumerate(("human_test", "augmented_test", "human_test"))
    ]
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image(decode=False))
    datasets.DatasetDict({"test": table}).save_to_disk(folder / "saved")
    return ["--dataset_path", folder / "saved"]


def chartqa_files(folder: Path) -> list:
    draw(folder / "png" / "a.png", 1)
    rows = [
        {"imgname": "a.png", "query": "How many?", "label": "14"},
        {"imgname": "a.png", "query": "Who?", "label": "I"},
    ]
    files = [write_json(folder / f"test_{half}.json", rows) for half in ("human", "augmented")]
    return ["--eval_file", *files, "--img_path", folder / "png"]


def docvqa(folder: Path) -> list:
    for split, answers in (("validation", ["1 May", "May 1"]), ("test", None)):
        rows = [
            {"questionId": str(number), "question": "Which date?", "image": encoded(number), "answers": answers}
            for number in range(2)
        ]
        write_parquet(folder / "DocVQA" / f"{split}-00000-of-00001.parquet", rows)
    return ["--dataset_path", folder]


def docvqa_file(folder: Path) -> list:
    draw(folder / "documents" / "a_1.png", 1)
    row = {"questionId": 3, "question": "Which date?", "image": "documents/a_1.png", "answers": ["1 May"]}
    file = write_json(folder / "val_v1.0_withQT.json", {"dataset_name": "docvqa", "data": [row]})
    return ["--eval_file", file, "--img_path", folder]


def refcoco(folder: Path) -> list:
    rows = [
        {
            "answer": ["the left one", "it"],
            "bbox": [5.0, 10.0, 20.0, 30.5],
            "image": encoded(number, (120, 90 + number)),
        }
        for number in range(2)
    ]
    write_parquet(folder / "data" / "val-00000-of-00001.parquet", rows)
    return ["--dataset_path", folder]


def refcoco_file(folder: Path) -> list:
    draw(folder / "coco" / "1.jpg", 1, (120, 90))
    row = {"image": "coco/1.jpg", "sent": "the left one", "bbox": [5.0, 10.0, 25.0, 40.5]}
    file = write_lines(folder / "refcoco_val.jsonl", [row, row | {"sent": "it", "width": 120, "height": 90}])
    return ["--eval_file", file, "--img_path", folder]


# Script -> its layouts.
LAYOUTS = {
    "scienceqa": (scienceqa, scienceqa_table),
    "crpe": (crpe,),
    "hallusionbench": (hallusionbench,),
    "mmmu_pro": (mmmu_pro,),
    "mme": (mme, mme_paper),
    "pope": (pope, pope_table),
    "textvqa": (textvqa, textvqa_table),
    "chartqa": (chartqa, chartqa_files),
    "docvqa": (docvqa, docvqa_file),
    "refcoco": (refcoco, refcoco_file),
}
