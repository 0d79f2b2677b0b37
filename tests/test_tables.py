"""Data sets as tables: which data a run's manifest says it was, and what is told of damaged files."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from eval.table_source import Table, open_source, provenance
from models.errors import InputError
from tests.benchmark_folders import LAYOUTS, encoded, write_parquet
from tests.benchmark_runs import ask
from tests.hub import REPOSITORY, Hub
from tests.probe_runs import manifest_of

pytestmark = pytest.mark.usefixtures("table_cache")
FIRST, SECOND, NONE = "a" * 40, "b" * 40, "c" * 40
SHARD = "data/test-00000-of-00001.parquet"
# In a process of its own, since the address of the hub is read when its library is imported.
READ = f"""
import datasets, io, json, sys, urllib.request
from PIL import Image
from eval.table_source import Table, open_source, provenance
from eval.tables import stored_picture
from models.errors import InputError

def read(*tables):
    try:
        pictures = [Image.open(io.BytesIO(stored_picture(table, 0, "image"))) for table in tables]
        return provenance(tables) | {{"images": [picture.height for picture in pictures]}}
    except InputError as error:
        return str(error)

table = Table("{REPOSITORY}", "test")
found = [read(table), read(Table("{REPOSITORY}", "test", revision="{SECOND}"))]
urllib.request.urlopen(sys.argv[1] + "/move")
moved = Table("{REPOSITORY}", "test", "default")
found += [read(moved), read(table, moved), read(Table("{REPOSITORY}", "test", revision="{NONE}"))]
datasets.config.HF_HUB_OFFLINE = True
open_source.cache_clear()
found += [read(table), read(Table("{REPOSITORY}", "test", revision="{FIRST}"))]
print(json.dumps(found))
"""


def test_of_the_hub_the_commit_is_told(tmp_path):
    """Also where the command names none, and the hub moves on between two reads."""
    files = {FIRST: LAYOUTS["pope"][1](tmp_path / FIRST)[1], SECOND: tmp_path / SECOND}
    rows = pyarrow.parquet.read_table(files[FIRST] / SHARD).to_pylist()
    write_parquet(files[SECOND] / SHARD, [row | {"image": encoded(7)} for row in rows])
    card = b"---\nlicense: mit\n---\n"
    commits = {commit: {"README.md": card, SHARD: (folder / SHARD).read_bytes()} for commit, folder in files.items()}
    with Hub(commits) as hub:
        there = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-c", READ, hub.address], env=os.environ | there, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    told = [{"dataset_path": REPOSITORY, "dataset_revision": commit} for commit in (FIRST, SECOND)]
    first, pinned, moved, both, none, offline, gone = json.loads(done.stdout.splitlines()[-1])
    assert [first, pinned] == [told[0] | {"images": [60]}, told[1] | {"images": [67]}]
    assert moved == pinned
    assert both == (
        f"--dataset_path {REPOSITORY}: it has changed while it was read ({FIRST} and {SECOND}); give a "
        "--dataset_revision"
    )
    assert none.startswith(f"--dataset_path {REPOSITORY}, --dataset_revision {NONE}, test: no such folder, and the hub")
    assert offline == pinned, "what the cache has, with its commit"
    assert gone.startswith(f"--dataset_revision {FIRST}: the hub does not give it, and the newest of {REPOSITORY} in")


def test_of_a_folder_path_and_files_are_told(tiny_folders, tmp_path, monkeypatch):
    arguments = LAYOUTS["mmmu_pro"][0](tmp_path / "data")
    answers = tmp_path / "a.jsonl"
    assert ask("mmmu_pro", tiny_folders["qwen2_5_vl"], answers, arguments) == 0
    manifest = json.loads(manifest_of(answers).read_text())
    assert manifest["dataset_path"] == str(tmp_path / "data")
    shards = [f"{variant}/test-00000-of-00001.parquet" for variant in ("standard (10 options)", "vision")]
    assert [*manifest["dataset_files"]] == shards
    monkeypatch.chdir(tmp_path)
    assert ask("mmmu_pro", tiny_folders["qwen2_5_vl"], answers, ["--dataset_path", "data"]) == 0, "the same folder"

    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    with pytest.raises(InputError, match='answers of another run .dataset_path: ".*data" -> ".*moved".; choose'):
        ask("mmmu_pro", tiny_folders["qwen2_5_vl"], answers, ["--dataset_path", tmp_path / "moved"])

    vision = tmp_path / "data" / shards[1]
    rows = pyarrow.parquet.read_table(vision).to_pylist()
    write_parquet(vision, [rows[0], rows[1] | {"image": encoded(3)}])
    open_source.cache_clear()
    with pytest.raises(InputError, match=r"answers of another run \(dataset_files: 1 differ \(vision/test-00000"):
        ask("mmmu_pro", tiny_folders["qwen2_5_vl"], answers, arguments)


def test_files_and_pictures_in_folders_have_no_table(tiny_folders, tmp_path):
    arguments = LAYOUTS["pope"][0](tmp_path)
    assert ask("pope", tiny_folders["qwen2_5_vl"], tmp_path / "a.jsonl", arguments) == 0
    assert not {"dataset_path", "dataset_files"} & json.loads(manifest_of(tmp_path / "a.jsonl").read_text()).keys()
    assert provenance(None) == {}


@pytest.mark.parametrize("column", ["question", "image.bytes"])
def test_a_damaged_page_is_told_with_its_file(tmp_path, column):
    files = [tmp_path / f"test-{number:05d}-of-00002.parquet" for number in range(2)]
    for number, file in enumerate(files):
        write_parquet(file, [{"question": f"Which of {number}?", "image": encoded(number)}])
    metadata = pyarrow.parquet.read_metadata(files[1]).row_group(0)
    (chunk,) = (metadata.column(k) for k in range(2) if metadata.column(k).path_in_schema == column)
    with open(files[1], "r+b") as file:
        file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
        file.write(b"\xff" * 40)
    with pytest.raises(InputError) as error:
        open_source(Table(str(tmp_path), "test"))
    assert str(error.value).startswith(f"{files[1]}: damaged (")
    assert str(error.value).endswith("; download it again")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "state.json"])
def test_a_damaged_file_of_save_to_disk_is_named(tmp_path, name):
    folder = Path(LAYOUTS["chartqa"][0](tmp_path)[1])
    file = folder / "test" / name
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(InputError) as error:
        open_source(Table(str(folder), "test"))
    assert str(error.value).startswith(f"{file}: damaged (")
    with pytest.raises(InputError, match="no such split; it has test"):
        open_source(Table(str(folder), "val"))


def pope_table(folder: Path, cells: pyarrow.Array) -> Path:
    """A table of POPE with these pictures."""
    count = len(cells)
    columns = {"question_id": [str(number) for number in range(count)], "category": ["random"] * count}
    columns |= {"question": ["Is there a dog?"] * count, "answer": ["no"] * count, "image": cells}
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "test-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("cell", ["struct of bytes", "struct of a path", "bytes", "path", "absolute path"])
def test_pictures_in_all_forms(tiny_folders, tmp_path, cell):
    folder = tmp_path / "table"
    folder.mkdir()
    content = encoded(3)["bytes"]
    (folder / "a.png").write_bytes(content)
    both = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    cells = {
        "struct of bytes": pyarrow.array([{"bytes": content, "path": "/gone.png"}] * 2, both),
        "struct of a path": pyarrow.array([{"bytes": None, "path": "a.png"}] * 2, both),
        "bytes": pyarrow.array([content] * 2),
        "path": pyarrow.array(["a.png"] * 2),
        "absolute path": pyarrow.array([str(folder / "a.png")] * 2),
    }
    pope_table(folder, cells[cell])
    assert (
        ask("pope", tiny_folders["llava"], tmp_path / "a.jsonl", ["--dataset_path", folder], "--max_new_tokens", 1) == 0
    )
    hashes = [json.loads(line)["image_sha256"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert hashes == [hashlib.sha256(content).hexdigest()[:16]] * 2


def test_a_table_names_no_pictures_out_of_its_folder(tiny_folders, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(3)["bytes"])
    folder = pope_table(tmp_path / "table", pyarrow.array([{"bytes": None, "path": "../a.png"}]))
    arguments = ["--dataset_path", folder]
    with pytest.raises(InputError, match=r"test, row 0: picture '../a.png' lies outside .*; give --follow_paths"):
        ask("pope", tiny_folders["llava"], tmp_path / "a.jsonl", arguments)
    assert (
        ask("pope", tiny_folders["llava"], tmp_path / "a.jsonl", arguments, "--follow_paths", "--max_new_tokens", 1)
        == 0
    )


def test_a_row_whose_picture_is_a_lost_file_is_an_error(tiny_folders, tmp_path):
    folder = pope_table(tmp_path / "table", pyarrow.array(["lost.png"]))
    assert (
        ask("pope", tiny_folders["llava"], tmp_path / "a.jsonl", ["--dataset_path", folder], "--max_new_tokens", 1) == 1
    )
    (row,) = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert row["error"] == "picture: No such file or directory"
