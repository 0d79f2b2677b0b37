"""Token ids of checkpoints with a tokenizer.model, against sentencepiece and the rules of LLaVA's slow tokenizer."""

import json
import random
import shutil
from pathlib import Path

import pytest
import sentencepiece
from safetensors.torch import load_file, save_file
from torch import randn
from transformers import AutoProcessor

from eval.perception import yes_and_no
from models import load_model
from models.llava_original import read_tokenizer
from models.sentencepiece_tokens import mark_behind_images, match_sentencepiece
from models.tiny import build_tiny
from tests.encoded import conversation
from tests.pictures import picture
from tests.sentencepiece_models import (
    SPACES,
    VOCABULARY,
    llava_ids,
    slow_ids,
    train_sentencepiece,
    use_sentencepiece,
)
from train.encode import IGNORED, Encoder

REAL = Path(__file__).parents[2] / "shared/checkpoints/liuhaotian/llava-v1.5-7b"
REAL_CONVERTED = REAL.parents[1] / "llava-hf/llava-1.5-7b-hf"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no files of the released checkpoint")
TURNS = "USER: <image>\nwhat is shown? ASSISTANT: cat</s>USER: is it? ASSISTANT:"
PROMPTS = [
    TURNS,
    "USER: what  is   it?",
    " what",
    "<image>",
    "<image>\n<image>\nwhat",
    "<image><image>what <image>",
    "<image> what  \n  cat",
    "cat</s>",
    "</s>cat</s> cat",
    "<image></s>cat",
]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> tuple[sentencepiece.SentencePieceProcessor, Path]:
    folder = tmp_path_factory.mktemp("sentencepiece")
    return train_sentencepiece(folder), folder / "tokenizer.model"


def original(tmp_path: Path, model: Path, model_type: str, **settings) -> Path:
    """A tiny LLaVA-1.5 in the layout of the LLaVA code base that has this tokenizer only."""
    folder = build_tiny("llava", tmp_path / "original", layout="llava")
    use_sentencepiece(folder, model, **settings)
    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = randn(VOCABULARY, weights[name].shape[1])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    change = {"vocab_size": VOCABULARY, "model_type": model_type}
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | change))
    return folder


def spaced(seed: int, words: list[str]) -> list[str]:
    draw = random.Random(seed)
    return [
        "".join(
            draw.choice(words) + " " * draw.choice([0, 1, 1, 2, 3, 5, 8, 17, 40]) for _ in range(draw.randint(1, 9))
        )
        for _ in range(2000)
    ]


@pytest.mark.parametrize("legacy", [True, False, None])
@pytest.mark.parametrize("model_type", ["llava", "llava_llama"])
def test_prompts_have_the_ids_of_llava(pieces, tmp_path, model_type, legacy):
    """Whatever config.json says: the released one says "llava". Converted and loaded again, too."""
    settings = {} if legacy is None else {"legacy": legacy}
    folder = original(tmp_path, pieces[1], model_type, **settings)
    if legacy is None:  # the slow tokenizer's default is true
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(
            json.dumps({name: value for name, value in config.items() if name != "legacy"})
        )
    model, processor = load_model(folder, position_balance=False)
    model.save_pretrained(tmp_path / "converted")
    processor.save_pretrained(tmp_path / "converted")
    converted = load_model(tmp_path / "converted", position_balance=False)[1]
    upstream = AutoProcessor.from_pretrained(tmp_path / "converted")
    for prompt in PROMPTS:
        expected = llava_ids(pieces[0], prompt, [VOCABULARY] * 16, legacy is not False)
        images = [[picture(56, 56)] * prompt.count("<image>")] if "<image>" in prompt else None
        for each in (processor, converted, upstream):
            assert each(text=[prompt], images=images)["input_ids"][0] == expected, prompt
    assert yes_and_no(processor) == tuple(pieces[0].encode(word)[0] for word in ("Yes", "No"))
    assert processor.tokenizer.decode(pieces[0].encode("what is")) == "what is"


@pytest.mark.parametrize("legacy", [True, False])
def test_training_has_the_ids_of_llava(pieces, tmp_path, legacy):
    processor = load_model(original(tmp_path, pieces[1], "llava", legacy=legacy), position_balance=False)[1]
    turns = conversation("<image>\nwhat  is shown?", "a cat", "is it?", "Yes")
    sample = Encoder(processor).encode(turns, [picture(60, 60)])
    system = processor.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False).split("USER")[0]
    text = f"{system}USER: <image>\nwhat  is shown? ASSISTANT: a cat</s>USER: is it? ASSISTANT: Yes</s>"
    assert sample["input_ids"].tolist() == llava_ids(pieces[0], text, [VOCABULARY] * 16, legacy)
    said = [*slow_ids(pieces[0], "a cat</s>", legacy), *slow_ids(pieces[0], "Yes</s>", legacy)]
    assert sample["labels"][sample["labels"] != IGNORED].tolist() == said
    plain = Encoder(processor, plain=True).encode(conversation("<image>", "a cat"), [picture(60, 60)])
    assert plain["input_ids"].tolist() == llava_ids(pieces[0], "<image>a cat\n", [VOCABULARY] * 16, legacy)


@pytest.mark.parametrize("legacy", [True, False])
def test_runs_of_spaces(pieces, tmp_path, legacy):
    shutil.copy(pieces[1], tmp_path)
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = read_tokenizer(tmp_path)
    assert pieces[0].encode("a  b", out_type=str)[:2] == ["▁", "a"]  # the look-alike has no piece ▁a
    assert {len(piece) for piece in pieces[0].encode(" " * 40, out_type=str)} & set(SPACES)
    for text in [*spaced(0, ["what", "is", "cat?", "\n", "USER:", "é", "12"]), "  what", " " * 33]:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == pieces[0].encode(text), text


def test_runs_of_spaces_in_the_transformers_layout(pieces, tiny_folders, tmp_path):
    """Also where AutoProcessor reads the tokenizer.model."""
    folder = shutil.copytree(tiny_folders["llava_next_mistral"], tmp_path / "checkpoint")
    use_sentencepiece(folder, pieces[1], legacy=True)
    processor = AutoProcessor.from_pretrained(folder)
    match_sentencepiece(processor.tokenizer)
    for text in spaced(1, ["what", "is", "cat?", "\n", "No"])[:300]:
        assert processor.tokenizer(text, add_special_tokens=False)["input_ids"] == pieces[0].encode(text), text


@needs_real
def test_the_released_tokenizer():
    """LLaVA-1.5's own files; the ids of Yes and No are Llama's."""
    pieces = sentencepiece.SentencePieceProcessor(str(REAL / "tokenizer.model"))
    tokenizer = read_tokenizer(REAL)
    mark_behind_images(tokenizer, "<image>")
    for prompt in PROMPTS:
        assert tokenizer(prompt)["input_ids"] == llava_ids(pieces, prompt, [32000], False), prompt
    words = "what is the a cat 's (x) 12 3.5 \t é 漢字 🙂 Yes No USER: ASSISTANT: <0x0A> \n".split(" ")
    for text in spaced(2, words):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == pieces.encode(text), text
    assert [tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("Yes", "No")] == [[3869], [1939]]


@needs_real
def test_the_released_conversion_has_the_ids_of_llava():
    """llava-hf's tokenizer.json marks the text behind every special token; its tokenizer_config.json says not to."""
    pieces = sentencepiece.SentencePieceProcessor(str(REAL_CONVERTED / "tokenizer.model"))
    tokenizer = AutoProcessor.from_pretrained(REAL_CONVERTED).tokenizer
    match_sentencepiece(tokenizer)
    mark_behind_images(tokenizer, "<image>")
    for prompt in PROMPTS:
        assert tokenizer(prompt)["input_ids"] == llava_ids(pieces, prompt, [32000], False), prompt
