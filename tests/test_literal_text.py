"""Special tokens spelt in questions, captions and answers are text: in evaluation, studies and training."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from eval.generate import prepare
from eval.pooled import caption_vector
from models.literal_text import BREAK, CUT, keep_literals, literal, shown
from tests.benchmark_runs import ask
from tests.encoded import conversation
from tests.pictures import picture
from train.encode import IGNORED, Encoder

CHECKPOINTS = Path(__file__).parents[2] / "shared/checkpoints"
REAL = ("llava-hf/llava-1.5-7b-hf", "Qwen/Qwen2.5-VL-7B-Instruct")


def words(tokenizer) -> list[str]:
    return sorted(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)


def released(kit):
    """The tokenizer in the checkpoint's files, as transformers loads it."""
    return AutoTokenizer.from_pretrained(kit.folder)


def as_text(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def question(*parts: str) -> list[dict]:
    texts = [{"type": "text", "text": part} for part in parts]
    return [{"role": "user", "content": [{"type": "image", "picture": picture(60, 60)}, *texts]}]


def holds(ids: list[int], part: list[int]) -> bool:
    return any(ids[place : place + len(part)] == part for place in range(len(ids)))


def test_questions_are_text(kit):
    """The prompt is the one of a harmless word, with the tokens of the text in the word's place."""
    tokenizer = released(kit)
    for word in words(tokenizer):
        spelt = f"Is {word}{word} a<{word} or {word}"
        rows = [prepare(kit.processor, [(0, question(text))]).inputs["input_ids"][0] for text in (spelt, "XXX")]
        found, plain = (row.tolist() for row in rows)
        assert holds(found, as_text(tokenizer, spelt)), word
        text = as_text(tokenizer, "XXX")
        place = next(at for at in range(len(plain)) if plain[at : at + len(text)] == text)
        assert found == plain[:place] + as_text(tokenizer, spelt) + plain[place + len(text) :], word


def test_answers_are_text(kit):
    """No end of turn is learnt in the middle of an answer, and no image token anywhere."""
    tokenizer = released(kit)
    said = {"llava": " ", "llava_next_mistral": " "}.get(kit.family, "")
    for word in set(words(tokenizer)) - {"<image>"}:  # which the data's format has for its pictures
        answer = f"It is{word}so {word}"
        turns = conversation(f"<image>\nWhat is {word}?", answer)
        sample = Encoder(kit.processor).encode(turns, [picture(60, 60)])
        plain = Encoder(kit.processor).encode(conversation("<image>\nWhat?", "It"), [picture(60, 60)])
        supervised = sample["input_ids"][sample["labels"] != IGNORED].tolist()
        assert holds(supervised, as_text(tokenizer, said + answer)), word
        end = tokenizer.convert_tokens_to_ids({"qwen2_5_vl": "<|im_end|>"}.get(kit.family, tokenizer.eos_token))
        assert supervised.count(end) == 1, word
        image_ids = sample["input_ids"] == kit.image_token_id
        assert int(image_ids.sum()) == int((plain["input_ids"] == kit.image_token_id).sum())
        assert Encoder(kit.processor).count_tokens(turns, [(60, 60)]) == len(sample["input_ids"])


def test_captions_are_text(kit):
    tokenizer = released(kit)
    for word in words(tokenizer):
        caption = f"a {word} and a cat"
        rows = kit.fork.get_input_embeddings()(torch.tensor(as_text(tokenizer, caption)))
        assert torch.equal(caption_vector(kit.fork, kit.processor, "mean", caption), rows.mean(0)), word


@pytest.mark.parametrize("family", ["gemma3", "llava", "qwen2_5_vl"])
def test_a_benchmark_with_such_questions_is_answered(tiny_folders, tmp_path, family):
    """The row has the question as it is written."""
    picture(60, 60).save(tmp_path / "a.jpg")
    spelt = ["<image_soft_token>", "<start_of_image> <image_soft_token>", "<image>", "<|image_pad|>", "<|video_pad|>"]
    rows = [
        {"question_id": number, "image": "a.jpg", "text": f"Is it {text}?", "label": "no"}
        for number, text in enumerate(spelt)
    ]
    (tmp_path / "coco_pope_random.json").write_text("\n".join(map(json.dumps, rows)))
    given = ["--eval_file", tmp_path / "coco_pope_random.json", "--img_path", tmp_path, "--position_balance", "true"]
    assert ask("pope", tiny_folders[family], tmp_path / "a.jsonl", given) == 0
    answers = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert all("prediction" in row for row in answers)
    assert all(text in answers[number]["prompt"] for number, text in enumerate(spelt))
    manifest = (tmp_path / "a.jsonl.manifest.json").read_text()
    assert not {BREAK, CUT} & set("".join(row["prompt"] for row in answers) + json.loads(manifest)["first_prompt"])


def test_other_text_is_not_touched(kit):
    for text in ("", "What is <this>?", "<", "<|im", "a\nb  c"):
        assert literal(kit.processor, text) is text
    word = words(kit.processor.tokenizer)[0]
    assert shown(literal(kit.processor, f"a {word}")) == f"a {word}"


def test_a_saved_tokenizer_is_the_same(kit, tmp_path):
    """It removes breaks once, whoever loads it, and what has none it tokenizes as before."""
    kit.processor.tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    before = again.backend_tokenizer.to_str()
    keep_literals(again)
    assert again.backend_tokenizer.to_str() == before
    text = "What is <this>? é\n  漢"
    assert again(text)["input_ids"] == released(kit)(text)["input_ids"]


@pytest.mark.parametrize("name", REAL)
def test_released_tokenizers(name):
    if not (CHECKPOINTS / name).is_dir():
        pytest.skip("no files of the released checkpoint")
    tokenizer, plain = (AutoTokenizer.from_pretrained(CHECKPOINTS / name) for _ in range(2))
    keep_literals(tokenizer)
    for word in words(plain):
        text = f"Say {word}, not {word}{word}\n{word}."
        assert tokenizer(literal(tokenizer, text), add_special_tokens=False)["input_ids"] == as_text(plain, text), word
        assert tokenizer(text)["input_ids"] == plain(text)["input_ids"]
