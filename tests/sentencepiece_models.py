"""A small sentencepiece model such as Vicuna's and LLaVA-1.5's tokenizer, and a checkpoint that has nothing else."""

import json
import shutil
from pathlib import Path

import sentencepiece

VOCABULARY = 300


def train_sentencepiece(folder: Path) -> sentencepiece.SentencePieceProcessor:
    """Write `tokenizer.model`, of VOCABULARY pieces, into `folder`."""
    words = [
        f"{word}{end}" for word in ("what", "is", "shown", "USER", "cat", "image") for end in (" ", "\n", "? ", ": ")
    ]
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join("".join(words[i % 7 :: 2]) * 3 for i in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "tokenizer"), vocab_size=VOCABULARY, model_type="bpe",
        byte_fallback=True, pad_id=-1, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))


def use_sentencepiece(checkpoint: Path, model: Path) -> None:
    """Give a checkpoint's folder this tokenizer instead of its own, as released before there was a tokenizer.json."""
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / file).unlink()
    shutil.copy(model, checkpoint / "tokenizer.model")
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings |= {"legacy": False, "add_bos_token": True}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
