"""Balanced Position Assignment (BaPA, arXiv 2509.21984): all tokens of one image share one rotary position.

Pure tensor functions of (batch, seq) masks; padding is part of seq.
"""

import torch


def balanced_position_ids(image_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Rotary positions in which an image counts as one token (paper, section on BaPA).

    Text before an image gets 0..i-1, all tokens of the image get i, and the text after it goes on at i+1. A row
    without an image gets the ordinary positions.

    Args:
        image_ids: (batch, seq), integer or bool. 0 or False: text or padding. Equal, consecutive non-zero values
            are the tokens of one image, so [1, 1, 2, 2] is two adjacent images and a bool mask is the case of one
            image for every run.
        attention_mask: (batch, seq), non-zero for real tokens; None: no padding. Padding on either side, or holes,
            gets position 0 and takes no step: a padded row has the positions of the row alone.

    Returns:
        LongTensor (batch, seq).
    """
    ids = image_ids.long()
    if attention_mask is None:
        attended = torch.ones_like(ids, dtype=torch.bool)
        previous_ids = torch.nn.functional.pad(ids, (1, 0))[:, :-1]
    else:
        attended = attention_mask.bool()
        # Looks past padding: the neighbour on the left is the last attended token, or 0 (text) where there is none.
        index = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        last_attended = torch.where(attended, index, 0).cummax(dim=-1).values
        last_attended = torch.nn.functional.pad(last_attended, (1, 0))[:, :-1]
        previous_ids = torch.nn.functional.pad(ids, (1, 0)).gather(-1, last_attended)
    goes_on = (ids != 0) & (ids == previous_ids)
    positions = (attended & ~goes_on).cumsum(dim=-1) - 1
    return positions.masked_fill(~attended, 0)


def segment_ids(is_image: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """Number the images of a batch: (batch, seq) bool mask of image tokens -> LongTensor for `balanced_position_ids`.

    Args:
        is_image: (batch, seq), True for the tokens of images.
        lengths: (images,), tokens of each image in the order in which they stand in the batch, row by row; tells
            adjacent images apart. None: every run of image tokens is one image.
    """
    if lengths is None:
        return is_image.long()
    ends = lengths.to(is_image.device).cumsum(0)
    order = is_image.flatten().cumsum(0) - 1
    # A token of the k-th image (from 0) has between ends[k-1] and ends[k]-1 image tokens before it.
    number = torch.searchsorted(ends, order, right=True).view_as(is_image) + 1
    return number.masked_fill(~is_image, 0)
