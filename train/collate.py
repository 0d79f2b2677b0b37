"""Encoded samples -> a batch: rows padded on the right, or one packed row of several samples without padding."""

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from models.packed import TOKEN_TYPES
from train.encode import IGNORED


class Collator:
    """Puts encoded samples (train/encode.py) of one family together.

    Args:
        blank: `Encoder.blank()`. A batch without an image gets it behind the tokens of its first row (packed: of the
            last sample), where no mask lets a token see it and no label counts, so that the vision tower and the
            projector run in every process in every step. It has no effect on the loss or on a gradient.
        pad_token_id: fills `input_ids`.
        packing: make one row of all samples; see models/packed.py.
    """

    def __init__(self, blank: dict, pad_token_id: int, packing: bool = False):
        self.blank = blank
        self.fill = {"input_ids": pad_token_id, "labels": IGNORED} | dict.fromkeys(TOKEN_TYPES, 0)
        self.packing = packing

    def __call__(self, samples: list[dict]) -> dict:
        """Batch of samples (or none), each encoded with its `name`, or `{"name", "bad"}` for one that cannot be read.

        Returns tensors `input_ids`, `labels`, `attention_mask` (batch, seq) (packed: (1, seq), no mask, and
        `lengths`), token types, images; and lists: `names` of the samples in it, `bad` with the (name, reason) of
        those left out.
        """
        bad = [(sample["name"], sample["bad"]) for sample in samples if "bad" in sample]
        good = [sample for sample in samples if "bad" not in sample]
        names = [sample["name"] for sample in good]
        rows = [{name: value for name, value in sample.items() if name != "name"} for sample in good]
        lengths = [len(row["labels"]) for row in rows]
        if not any("pixel_values" in row for row in rows):
            if rows and not self.packing:
                rows[0] = self._with_blank(rows[0])
            else:
                rows, lengths = [*rows, self.blank], [*lengths, len(self.blank["labels"])]
        tokens = {name: [row[name] for row in rows] for name in rows[0] if name in self.fill}
        if self.packing:
            batch = {name: torch.cat(tensors)[None] for name, tensors in tokens.items()} | {"lengths": lengths}
        else:
            batch = {
                name: pad_sequence(tensors, batch_first=True, padding_value=self.fill[name])
                for name, tensors in tokens.items()
            }
            width = batch["input_ids"].shape[1]
            batch["attention_mask"] = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
        return batch | self._images(rows) | {"names": names, "bad": bad}

    def _with_blank(self, row: dict) -> dict:
        tokens = {name: torch.cat([tensor, self.blank[name]]) for name, tensor in row.items()}
        return tokens | {name: tensor for name, tensor in self.blank.items() if name not in self.fill}

    def _images(self, rows: list[dict]) -> dict:
        names = dict.fromkeys(name for row in rows for name in row if name not in self.fill)
        images = {name: [row[name] for row in rows if name in row] for name in names}
        pixels = images["pixel_values"]
        if pixels[0].ndim == 5:  # LLaVA-NeXT: (images, tiles, 3, height, width); upstream cuts by image_sizes
            most = max(tensor.shape[1] for tensor in pixels)
            images["pixel_values"] = [pad(tensor, (0, 0) * 3 + (0, most - tensor.shape[1])) for tensor in pixels]
        return {name: torch.cat(tensors) for name, tensors in images.items()}
