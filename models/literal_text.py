"""Text of data stays text: `</s>` or `<image>` in a question or an answer does not become the special token.

So do Meta's and Mistral's own code for their models encode what users write, and `split_special_tokens=True` in
transformers. A character that no text has breaks such a word up in the prompt, so that neither processor nor tokenizer
finds the token; it goes before the text is cut into tokens, which are then those of the word as text.
"""

import re
from weakref import WeakKeyDictionary

from tokenizers import normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

# Unicode's noncharacters, which are for such use. The first goes when a text is normalized, and leaves no trace. A
# special token that is looked for after that is broken up by the second, at which the text is then cut.
BREAK, CUT = "\ufdd0", "\ufdd1"
patterns: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[re.Pattern, dict[str, str]]] = WeakKeyDictionary()


def keep_literals(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a tokenizer remove what `literal` puts into text, in place; the ids of all other text stay.

    Does nothing for a tokenizer that is not of the tokenizers library.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or removes_breaks(tokenizer):
        return
    before = [backend.normalizer] if backend.normalizer else []
    backend.normalizer = normalizers.Sequence([normalizers.Replace(BREAK, ""), *before])
    if any(token.special and token.normalized for token in tokenizer.added_tokens_decoder.values()):
        before = [backend.pre_tokenizer] if backend.pre_tokenizer else []
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(CUT, "removed"), *before])


def removes_breaks(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether `keep_literals` was called on the tokenizer, or on the one that it was saved from."""
    plain, broken = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("ab", f"a{BREAK}b"))
    return plain == broken


def literal(processor: ProcessorMixin, text: str) -> str:
    """`text` with each special token that it spells broken up; as it is for a tokenizer that would keep the breaks."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer not in patterns:
        found = {token.content: token.normalized for token in tokenizer.added_tokens_decoder.values() if token.special}
        breaks = {token: CUT if normalized else BREAK for token, normalized in found.items() if len(token) > 1}
        breaks = {token: BREAK for token in visual_tokens(processor)} | breaks
        # Looks ahead, so that tokens are found that overlap.
        patterns[tokenizer] = re.compile(f"(?=({'|'.join(map(re.escape, breaks))}))"), breaks
    pattern, breaks = patterns[tokenizer]
    places = {match.start() + 1: breaks[match[1]] for match in pattern.finditer(text)} if breaks else {}
    if not places or not removes_breaks(tokenizer):
        return text
    return "".join(places.get(place, "") + character for place, character in enumerate(text))


def shown(text: str) -> str:
    """A prompt without breaks, as people read it."""
    return text.replace(BREAK, "").replace(CUT, "")


def visual_tokens(processor: ProcessorMixin) -> set[str]:
    """What stands for a picture in the family's prompts (Gemma3: two tokens)."""
    owners = (
        (processor, "image_token"),
        (processor, "video_token"),
        (getattr(processor, "tokenizer", None), "image_token"),
    )
    return {token for owner, name in owners if (token := getattr(owner, name, None))}


def literal_messages(processor: ProcessorMixin, messages: list[dict]) -> list[dict]:
    """Chat messages whose texts are `literal`, for a chat template."""

    def part_of(part: dict) -> dict:
        return part | {"text": literal(processor, part["text"])} if part["type"] == "text" else part

    return [
        message
        | {
            "content": literal(processor, message["content"])
            if isinstance(message["content"], str)
            else [part_of(part) for part in message["content"]]
        }
        for message in messages
    ]
