"""A small sentencepiece model such as Vicuna's and LLaVA-1.5's tokenizer, and the ids that their code takes from it."""

import json
import re
import shutil
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

VOCABULARY = 340
SPACES = range(2, 17)  # Llama's pieces of nothing but spaces, which stand in front of all others and have this score
SPACES_SCORE = -1e9
SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2}


def train_sentencepiece(folder: Path) -> sentencepiece.SentencePieceProcessor:
    """Write `tokenizer.model`, of VOCABULARY pieces, into `folder`."""
    words = [
        f"{word}{end}"
        for word in ("what", "is", "shown", "USER", "cat", "image", "Yes", "No")
        for end in (" ", "\n", "? ", ": ")
    ]
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join("".join(words[i % 7 :: 2]) * 3 for i in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "tokenizer"), vocab_size=VOCABULARY - len(SPACES),
        model_type="bpe", byte_fallback=True, pad_id=-1, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, minloglevel=2,
    )  # fmt: skip
    file = folder / "tokenizer.model"
    model = sentencepiece_model_pb2.ModelProto.FromString(file.read_bytes())
    learnt = list(model.pieces)
    spaces = [type(learnt[0])(piece="\u2581" * length, score=SPACES_SCORE) for length in SPACES]
    first = 3 + 256  # behind the special tokens and the bytes
    del model.pieces[:]
    model.pieces.extend([*learnt[:first], *spaces, *learnt[first:]])
    file.write_bytes(model.SerializeToString())
    return sentencepiece.SentencePieceProcessor(str(file))


def slow_ids(pieces: sentencepiece.SentencePieceProcessor, text: str, legacy: bool) -> list[int]:
    """Ids of the slow LlamaTokenizer of transformers 4.37, without the first token.

    Text on each side of a special token goes to sentencepiece by itself. With `legacy` it writes its word mark in front
    of each; without, the tokenizer writes one at the start, unless a special token stands there.
    """
    if not text:
        return []
    if not legacy:
        model = sentencepiece_model_pb2.ModelProto.FromString(pieces.serialized_model_proto())
        model.normalizer_spec.add_dummy_prefix = False
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
        text = "\u2581" + text.replace("\u2581", " ")
    ids = []
    for part in re.split(f"({'|'.join(SPECIAL)})", text):
        ids += [SPECIAL[part]] if part in SPECIAL else pieces.encode(part)
    mark = pieces.piece_to_id("\u2581")
    return ids[1:] if not legacy and ids[0] == mark and ids[1:] and ids[1] in SPECIAL.values() else ids


def llava_ids(pieces, prompt: str, image: list[int], legacy: bool) -> list[int]:
    """Ids of a prompt by LLaVA's `tokenizer_image_token`, with the ids `image` for each `<image>`."""
    ids = [SPECIAL["<s>"]]
    for number, text in enumerate(prompt.split("<image>")):
        ids += (image if number else []) + slow_ids(pieces, text, legacy)
    return ids


def use_sentencepiece(checkpoint: Path, model: Path, **settings) -> None:
    """Give a checkpoint's folder this tokenizer instead of its own, as released before there was a tokenizer.json.

    `settings` are for its tokenizer_config.json, which otherwise says what LLaVA-1.5's does.
    """
    (checkpoint / "tokenizer.json").unlink()
    shutil.copy(model, checkpoint / "tokenizer.model")
    released = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    released |= {"legacy": False, "add_bos_token": True}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(released | settings))
