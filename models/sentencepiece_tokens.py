"""A `tokenizer.model` of sentencepiece -> the token ids that the slow LlamaTokenizer gives, with which LLaVA was tuned.

transformers 5.17 changes ids when it converts such a file: it orders merges by the pieces' ids (sentencepiece: by
their scores; Llama's runs of spaces have -1e9), and for `model_type` "llava" it writes no word mark in front of a text.
`legacy` in tokenizer_config.json is the slow tokenizer's: true, its default, marks the text behind every special token,
false only the start of what is tokenized. The LLaVA code base tokenizes the text on each side of an image by itself
(`tokenizer_image_token` in its llava/mm_utils.py), so that the text behind an image starts with a mark in both cases.
"""

import re
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import SentencePieceExtractor, generate_merges

from models.reading import read_json, told_as

MARK = "▁"
NORMAL, BPE_TYPE = 1, 2  # kinds of pieces and of models in sentencepiece_model.proto


def match_sentencepiece(tokenizer: PreTrainedTokenizerBase, slow: bool = False) -> None:
    """Make a tokenizer that comes from a `tokenizer.model` give sentencepiece's ids, in place.

    A tokenizer.json beside that file is the tokenizer, and nothing changes, unless `slow`: for the LLaVA code base,
    which takes the slow one. Nothing changes either if the file is not sentencepiece's (Llama-3's is tiktoken's) or
    not of the BPE kind. Raises InputError for a file that cannot be read.
    """
    file = Path(getattr(tokenizer, "vocab_file", None) or "none")
    if file.suffix != ".model" or not file.is_file() or (file.with_name("tokenizer.json").is_file() and not slow):
        return
    if not file.read_bytes().startswith(b"\n"):  # the tag of the first piece; tiktoken's files are text
        return
    with told_as(f"{file}: not a sentencepiece model; download it again"):
        proto = SentencePieceExtractor(str(file)).proto
    if proto.trainer_spec.model_type != BPE_TYPE:
        return
    backend = tokenizer.backend_tokenizer
    vocab = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    backend.model = BPE(
        vocab,
        generate_merges({piece: vocab[piece] for piece in scores}, scores),
        unk_token=proto.pieces[proto.trainer_spec.unk_id].piece,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )
    if proto.normalizer_spec.add_dummy_prefix and not proto.normalizer_spec.precompiled_charsmap:
        settings = read_json(str(file.parent), "tokenizer_config.json", required=False) or {}
        legacy = settings.get("legacy") is not False
        backend.normalizer = mark_every_text() if legacy else normalizers.Replace(" ", MARK)
        backend.pre_tokenizer = None if legacy else mark_first_text()
        texts = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        backend.decoder = decoders.Sequence(texts)


def mark_behind_images(tokenizer: PreTrainedTokenizerBase, image_token: str) -> None:
    """Start the text behind an image with a word mark, as the LLaVA code base does, in place.

    Of tokenizers whose `legacy` is false or that mark the first text only; all others mark what follows any special
    token, or know no marks. The image token is then found after normalization: only so can a normalizer see what
    stands behind it. Between two images without a text, and at the end, there is no mark.
    """
    backend = tokenizer.backend_tokenizer
    every = repr(backend.normalizer) == repr(mark_every_text()) and tokenizer.init_kwargs.get("legacy") is False
    if not every and "prepend_scheme=first" not in repr(backend.pre_tokenizer):
        return
    token = re.escape(image_token)
    behind = normalizers.Replace(Regex(rf"{token}(?!{token}|\z)"), f"{image_token} ")
    backend.normalizer = normalizers.Sequence([behind, normalizers.Replace(" ", MARK)])
    backend.pre_tokenizer = mark_first_text()
    backend.add_special_tokens([AddedToken(image_token, normalized=True, special=True)])


def mark_every_text() -> normalizers.Normalizer:
    """A mark at the start and behind every special token."""
    return normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])


def mark_first_text() -> pre_tokenizers.PreTokenizer:
    """A mark at the very start, also before a space, which transformers' own arrangement takes for the mark."""
    first = pre_tokenizers.Metaspace(" ", prepend_scheme="first", split=False)
    return pre_tokenizers.Sequence([first, pre_tokenizers.Metaspace(MARK, prepend_scheme="never", split=False)])
