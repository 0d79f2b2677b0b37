"""Runs of the harness on tiny real checkpoints and drawn pictures."""

import hashlib
import json
import logging
import shutil
from functools import partial

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from eval import generate, journal
from eval.harness import Benchmark, run
from models import load_model
from models.errors import InputError
from models.tiny import FAMILIES
from tests.pictures import picture
from tests.probe_runs import (
    arguments,
    manifest_of,
    names,
    read_rows,
    run_here,
    run_process,
)


def test_answers_are_complete_ordered_and_varied(unbroken, probe):
    rows, items = read_rows(unbroken), read_rows(probe / "probe.jsonl")
    assert [{field: row[field] for field in item} for row, item in zip(rows, items, strict=True)] == items
    assert all(row["caption"] in row["prompt"] and row["prompt"].endswith("ASSISTANT:") for row in rows)
    assert len({row["prediction"] for row in rows}) > len(rows) / 2  # or the tests below could not fail
    assert names(unbroken.parent) == ["answers.jsonl", "answers.jsonl.manifest.json"]


@pytest.mark.parametrize("family", ["llava", "llava_next_mistral", "qwen2_5_vl"])
def test_answers_do_not_depend_on_the_batch_size(talkative_folders, probe, tmp_path, family):
    files = [tmp_path / f"{size}.jsonl" for size in (1, 2, 5)]
    for answers, size in zip(files, (1, 2, 5), strict=True):
        assert run_here(talkative_folders[family], probe, answers, "--batch_size", size) == 0
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()
    assert manifest_of(files[0]).read_bytes() == manifest_of(files[2]).read_bytes()


def test_loader_processes_give_the_same_file(llava, probe, unbroken, tmp_path):
    assert run_here(llava, probe, tmp_path / "a.jsonl", "--num_workers", 2, "--batch_size", 4) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == unbroken.read_bytes()


def test_errors_of_two_runs_are_the_same_bytes(llava, probe, tmp_path):
    """Pillow's words on what it cannot read hold an address of memory."""
    shutil.copytree(probe, tmp_path / "probe")
    (tmp_path / "probe" / "images" / "000000_1.jpg").write_text("no picture")
    kept = []  # what lies in memory, lies elsewhere in the second run
    for name in ("a.jsonl", "b.jsonl"):
        assert run_here(llava, tmp_path / "probe", tmp_path / name, "--limit", 2) == 1
        kept.append(bytearray(10_000_000))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    (error,) = [row["error"] for row in read_rows(tmp_path / "a.jsonl") if "error" in row]
    assert error == "000000_1.jpg: no picture, or of a kind that Pillow does not read"


def test_unreadable_pictures_become_error_rows_and_are_tried_again(llava, probe, unbroken, tmp_path, capsys):
    broken = tmp_path / "probe"
    shutil.copytree(probe, broken)
    (broken / "images" / "000000_1.jpg").write_bytes((probe / "images" / "000000_1.jpg").read_bytes()[:600])
    (broken / "images" / "000001_8.jpg").unlink()
    answers = tmp_path / "answers.jsonl"
    assert run_here(llava, broken, answers) == 1
    output = capsys.readouterr()
    assert "16 new, 0 resumed, 2 errors" in output.out
    assert "2 of 18 items have no answer (first: id=000000_1" in output.err
    rows = read_rows(answers)
    assert len(rows) == 18
    bad = [row for row in rows if "prediction" not in row]
    assert [row["error"].split(":")[0] for row in bad] == ["000000_1.jpg", "000001_8.jpg"]
    assert bad[1]["error"] == "000001_8.jpg: No such file or directory"
    assert output.err.rstrip().endswith("mend them and run the same command again")
    assert bad[0].keys() == {"id", "image", "caption", "position", "answer", "error"}

    shutil.copytree(probe / "images", broken / "images", dirs_exist_ok=True)
    assert run_here(llava, broken, answers) == 0
    assert "2 new, 16 resumed, 0 errors" in capsys.readouterr().out
    assert answers.read_bytes() == unbroken.read_bytes()


def test_a_picture_that_the_processor_refuses_harms_no_other(talkative_folders, probe, tmp_path):
    odd = tmp_path / "probe"
    shutil.copytree(probe, odd)
    Image.new("RGB", (600, 2)).save(odd / "images" / "000000_2.jpg")  # Qwen2.5-VL: sides of at most 1:200
    for name, folder in (("odd", odd), ("usual", probe)):
        run_here(talkative_folders["qwen2_5_vl"], folder, tmp_path / f"{name}.jsonl", "--batch_size", 9)
    rows, usual = read_rows(tmp_path / "odd.jsonl"), read_rows(tmp_path / "usual.jsonl")
    assert "aspect ratio" in rows[2]["error"]
    assert rows[:2] + rows[3:] == usual[:2] + usual[3:]


def test_an_image_token_in_the_text_is_text(talkative_folders, tmp_path):
    """LLaVA's processors would give it the next prompt's picture, and then have none for the last."""

    def two_questions(args):
        return [{"number": number, "pictures": 1, "text": text} for number, text in enumerate(["a", "<image> b", "c"])]

    benchmark = Benchmark("marked", lambda parser: None, two_questions, question, ("number",), 4)
    command = ["--model_path", talkative_folders["llava"], "--answers_file", tmp_path / "a.jsonl", "--num_workers", 0]
    assert run(benchmark, [str(part) for part in command]) == 0
    rows = read_rows(tmp_path / "a.jsonl")
    assert ["prediction" in row for row in rows] == [True, True, True]
    assert "<image>\n<image> b" in rows[1]["prompt"]
    assert len(set(row["image_sha256"] for row in rows)) == 1


def test_a_process_without_the_data_set_says_so_in_one_line(tiny_folders, tmp_path):
    """And not as an error of every item."""

    def gone():
        raise InputError("--dataset_path x: no such folder")

    def messages(item, args):
        return [{"role": "user", "content": [{"type": "image", "image": gone}, {"type": "text", "text": "?"}]}]

    benchmark = Benchmark("gone", lambda parser: None, four_questions, messages, ("number",))
    with pytest.raises(InputError, match="--dataset_path x: no such folder"):
        run(benchmark, ["--model_path", str(tiny_folders["llava"]), "--answers_file", str(tmp_path / "a.jsonl")])
    assert not (tmp_path / "a.jsonl").exists()


def replies_of_one_token(folder, tmp_path, token, strips=False):
    """The rows of a checkpoint that can say nothing but this token, three times."""
    model = shutil.copytree(folder, tmp_path / "model", dirs_exist_ok=True)
    settings = json.loads((model / "generation_config.json").read_text())
    tokens = AutoTokenizer.from_pretrained(folder).get_vocab()
    settings["suppress_tokens"] = [number for name, number in tokens.items() if name != token]
    (model / "generation_config.json").write_text(json.dumps(settings))
    benchmark = Benchmark("mixed", lambda parser: None, four_questions, question, ("number",), 3, strips=strips)
    answers = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
    command = ["--model_path", model, "--answers_file", answers, "--num_workers", 0]
    assert run(benchmark, [str(part) for part in command]) == 0
    return [(row["prediction"], row.get("truncated")) for row in read_rows(answers)]


def test_replies_that_are_cut_are_marked_and_counted(tiny_folders, tmp_path, capsys):
    end = AutoTokenizer.from_pretrained(tiny_folders["llava"]).eos_token
    assert replies_of_one_token(tiny_folders["llava"], tmp_path, "x") == [("xxx", True)] * 4
    assert "mixed: 4 replies were cut at --max_new_tokens 3\n" in capsys.readouterr().out
    assert replies_of_one_token(tiny_folders["llava"], tmp_path, end) == [("", None)] * 4
    assert "replies were cut" not in capsys.readouterr().out


def test_a_benchmark_may_keep_replies_without_white_space_at_their_ends(tiny_folders, tmp_path):
    line_break = "\u010a"  # as byte-level BPE writes it
    assert replies_of_one_token(tiny_folders["qwen2_5_vl"], tmp_path, line_break) == [("\n\n\n", True)] * 4
    assert replies_of_one_token(tiny_folders["qwen2_5_vl"], tmp_path, line_break, strips=True) == [("", True)] * 4


def question(item, args):
    content = [{"type": "image", "image": partial(picture_bytes, seed)} for seed in range(item["pictures"])]
    return [{"role": "user", "content": [*content, {"type": "text", "text": item["text"]}]}]


def picture_bytes(seed):
    import io

    buffer = io.BytesIO()
    picture(70 + 30 * seed, 60, seed).save(buffer, "PNG")
    return buffer.getvalue()


def four_questions(args):
    return [
        {"number": number, "pictures": pictures, "text": text}
        for number, (pictures, text) in enumerate([(1, "one?"), (0, "no picture at all?"), (2, "two"), (3, "")])
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_with_any_number_of_pictures_share_a_batch(talkative_folders, tmp_path, family):
    benchmark = Benchmark("mixed", lambda parser: None, four_questions, question, ("number",), 12)
    for size in (4, 1):
        command = ["--model_path", talkative_folders[family], "--answers_file", tmp_path / f"{size}.jsonl"]
        status = run(benchmark, [str(part) for part in (*command, "--batch_size", size, "--position_balance", "true")])
        assert status == 0
    assert (tmp_path / "4.jsonl").read_bytes() == (tmp_path / "1.jsonl").read_bytes()
    rows = read_rows(tmp_path / "4.jsonl")
    assert [row["number"] for row in rows] == [0, 1, 2, 3]
    hashes = [hashlib.sha256(picture_bytes(seed)).hexdigest()[:16] for seed in range(3)]
    assert [row.get("image_sha256") for row in rows] == [hashes[0], None, hashes[:2], hashes]


def test_doubled_items_of_any_benchmark_are_refused(llava, tmp_path):
    benchmark = Benchmark("mixed", lambda parser: None, lambda args: four_questions(args) * 2, question, ("number",))
    with pytest.raises(InputError, match=r"one item twice \(number=0\)"):
        run(benchmark, ["--model_path", str(llava), "--answers_file", str(tmp_path / "a.jsonl")])


def test_auto_batch_size_halves_when_memory_is_too_small(llava):
    model, processor = load_model(llava, dtype="float32")
    generate.make_greedy(model)
    upstream, sizes = model.generate, []

    def short_of_memory(**inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 3 or len(sizes) == 4:  # the fourth call: after some answers
            raise torch.OutOfMemoryError
        return upstream(**inputs)

    items = [{"pictures": 1, "text": f"question {number}"} for number in range(9)]

    def answers(batch_size):
        reply = partial(generate.reply_to, model, processor, 4, False)
        batches = generate.outcomes(
            model, processor, lambda index: question(items[index], None), list(range(9)), batch_size, 0, reply
        )
        return {index: answer for batch in batches for index, answer in batch.items()}

    expected = answers(1)
    model.generate = short_of_memory
    assert answers(None) == expected
    assert sizes == [8, 4, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    sizes.clear()
    with pytest.raises(InputError, match="--batch_size 4 does not fit"):
        answers(4)


def test_generation_is_greedy_silent_and_keeps_the_repetition_penalty(llava, probe, unbroken, tmp_path, caplog):
    model = tmp_path / "model"
    shutil.copytree(llava, model)
    settings = json.loads((model / "generation_config.json").read_text())
    sampling = {"do_sample": True, "temperature": 1e-6, "top_k": 1, "top_p": 0.001, "max_length": 4096}
    for name, penalty in (("plain", 1.0), ("penalised", 1.5)):
        released = settings | sampling | {"repetition_penalty": penalty}
        (model / "generation_config.json").write_text(json.dumps(released))
        transformers_logger = logging.getLogger("transformers")
        transformers_logger.addHandler(caplog.handler)
        try:
            assert run_here(model, probe, tmp_path / f"{name}.jsonl") == 0
        finally:
            transformers_logger.removeHandler(caplog.handler)
    assert [record.message for record in caplog.records if "generation" in record.message.lower()] == []
    assert (tmp_path / "plain.jsonl").read_bytes() == unbroken.read_bytes()
    assert (tmp_path / "penalised.jsonl").read_bytes() != unbroken.read_bytes()
    recorded = json.loads(manifest_of(tmp_path / "penalised.jsonl").read_text())["generation"]
    assert recorded["repetition_penalty"] == 1.5
    assert recorded["do_sample"] is False
    assert not recorded.keys() & {"temperature", "top_k", "top_p", "max_length"}


def test_a_reply_ends_at_its_end_whatever_pads_it(llava):
    model, processor = load_model(llava, dtype="float32")
    generate.make_greedy(model)
    messages = [question({"pictures": 1, "text": "x" * number}, None) for number in range(6)]

    def predictions(batch_size):
        reply = partial(generate.reply_to, model, processor, 12, False)
        batches = generate.outcomes(model, processor, messages.__getitem__, list(range(6)), batch_size, 0, reply)
        return [answer["prediction"] for batch in batches for answer in batch.values()]

    inputs = generate.prepare(processor, [(0, messages[0])]).inputs
    third = model.generate(**inputs, max_new_tokens=3)[0, -1].item()
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, third]
    model.generation_config.pad_token_id = processor.tokenizer.convert_tokens_to_ids("z")
    assert len(set(map(len, predictions(1)))) > 1  # they end at different places
    assert predictions(6) == predictions(1)


def test_the_first_token_is_not_doubled(llava):
    _, processor = load_model(llava, dtype="float32")
    messages = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    bos = processor.tokenizer.bos_token_id
    template = processor.chat_template
    for processor.chat_template in (template, "{{ bos_token }}" + template):
        tokens = generate.prepare(processor, [(0, messages)]).inputs["input_ids"][0].tolist()
        assert tokens.count(bos) == 1


def test_bad_input_is_one_line_and_status_2(llava, probe, tmp_path):
    status, output, errors = run_process(*arguments(llava, probe, tmp_path / "a.jsonl", "--eval_file", "none.jsonl"))
    assert (status, output) == (2, "")
    assert errors == "error: none.jsonl: no such file; give the path of a JSON-lines file\n"
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batch_size", "0"), "--batch_size: '0' is not a whole number of 1 or more"),
        (("--limit", "0"), "--limit: '0'"),
        (("--max_new_tokens", "many"), "--max_new_tokens: 'many'"),
        (("--num_workers", "-1"), "--num_workers"),
        (("--position_balance", "maybe"), "--position_balance: 'maybe' is neither true nor false"),
        (("--device", "gpu"), "--device: 'gpu' is none of"),
        (("--dtype", "int4"), "--dtype: invalid choice"),
        (("--modle_path", "x"), "unrecognized arguments: --modle_path"),
        (
            ("--attn_implementation", "psychic"),
            "attn_implementation='psychic': cannot be used here; choose sdpa or eager",
        ),
        (("--model_path", "no/such/model"), "no/such/model"),
    ],
)
def test_bad_arguments_are_named_and_write_nothing(llava, probe, tmp_path, more, message):
    with pytest.raises(InputError) as error:
        run_here(llava, probe, tmp_path / "out" / "a.jsonl", *more)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.jsonl*"))


def test_answers_that_cannot_be_written(llava, probe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        run_here(llava, probe, tmp_path / "file" / "out" / "answers.jsonl")
    with pytest.raises(InputError, match="a folder; give the path of a file"):
        run_here(llava, probe, tmp_path)


def test_the_items_are_never_overwritten(llava, probe):
    before = (probe / "probe.jsonl").read_bytes()
    with pytest.raises(InputError, match="is also --eval_file"):
        run_here(llava, probe, probe / "probe.jsonl", "--overwrite")
    assert (probe / "probe.jsonl").read_bytes() == before


def test_what_the_system_says_against_writing_is_one_line(tmp_path):
    with pytest.raises(InputError, match="a.jsonl.part-0: cannot be written"):
        journal.open_part(tmp_path / "none" / "a.jsonl", 0)
    with open("/dev/full", "ab", buffering=0) as full, pytest.raises(InputError, match="/dev/full: .*No space left"):
        journal.append_rows(full, [{"id": 1}])
    journal.append_rows(open("/dev/null", "ab", buffering=0), [{"id": 1}])  # cannot be synced, which is no error


def test_pixels_leave_the_loader_in_the_models_dtype(llava):
    _, processor = load_model(llava, dtype="float32")
    messages = question({"pictures": 1, "text": "x"}, None)
    half, full = (generate.prepare(processor, [(0, messages)], *dtype).inputs for dtype in ((torch.bfloat16,), ()))
    assert half["pixel_values"].dtype == torch.bfloat16
    assert torch.equal(half["pixel_values"], full["pixel_values"].bfloat16())
    assert half["input_ids"].dtype == torch.int64


def test_help_lists_every_argument_with_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        run(Benchmark("probe", lambda parser: None, four_questions, question), ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.count("(default:") == text.count("\n  --") - len(
        ("model_path", "answers_file", "output_dir", "overwrite")
    )
