"""The loops of the paper's scripts, for comparison: one picture at a time, processed where the model runs."""

import numpy as np
import torch

from eval.generate import render
from eval.items import open_picture, picture_parts
from eval.occlusion import cover, squares_with_content
from models.processors import has_first_token

MAX_NEW_TOKENS = 128


def reply(model, processor, messages: list[dict]) -> str:
    """The greedy reply to one prompt with one picture."""
    (part,) = picture_parts(messages)
    inputs = _inputs(model, processor, messages, open_picture(part)[0])
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS)
    tokens = output[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def occlusion_map(model, processor, messages: list[dict], size: int, colour: tuple[int, int, int]) -> list[list]:
    """Occlusion map of one prompt, by one `generate` under each square: None where a square has one colour.

    The change of the logit of the answer's first token (the whole answer, where it is one token and an end).
    """
    (part,) = picture_parts(messages)
    canvas = np.asarray(open_picture(part)[0])
    token, before = _first_logits(model, _inputs(model, processor, messages, canvas))
    found = [[None] * (canvas.shape[1] // size) for _ in range(canvas.shape[0] // size)]
    for row, column in squares_with_content(canvas, size):
        covered = cover(canvas, (row, column), size, colour)
        logits = _first_logits(model, _inputs(model, processor, messages, covered))[1]
        found[row][column] = abs(float(before[token] - logits[token]))
    return found


def _inputs(model, processor, messages: list[dict], picture) -> dict[str, torch.Tensor]:
    text = render(processor, messages)
    special = {"add_special_tokens": False} if has_first_token(processor, text) else {}
    return dict(
        processor(text=[text], images=[[picture]], return_tensors="pt", **special).to(model.device, model.dtype)
    )


def _first_logits(model, inputs: dict[str, torch.Tensor]) -> tuple[int, torch.Tensor]:
    with torch.inference_mode():
        output = model.generate(
            **inputs, max_new_tokens=MAX_NEW_TOKENS, output_logits=True, return_dict_in_generate=True
        )
    return int(output.sequences[0, inputs["input_ids"].shape[1]]), output.logits[0][0].float()
