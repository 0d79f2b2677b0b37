"""Image tokens and captions as one vector each, in the language model's space of embeddings."""

import inspect

import torch

from models.literal_text import literal


def image_tokens(model, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The image tokens that the language model gets for each picture of a batch: (tokens, width), float32.

    `inputs` are a processor's, on the model's device. LLaVA-NeXT's are those of base view, tiles and newlines;
    of Gemma3's pan-and-scan each crop is a picture.
    """
    names = inspect.signature(model.model.get_image_features).parameters.keys() & inputs.keys()
    features = model.get_image_features(**{name: inputs[name] for name in names}).pooler_output
    return [tokens.float() for tokens in features]


def image_vectors(model, inputs: dict[str, torch.Tensor], pooling: str) -> list[torch.Tensor]:
    """Every picture's image tokens in one vector, (width,): their element-wise maximum (`max`) or `mean`."""
    return [pool(tokens, pooling) for tokens in image_tokens(model, inputs)]


def caption_vector(model, processor, pooling: str, caption: str) -> torch.Tensor:
    """A caption's token embeddings, without special tokens, in one vector, (width,)."""
    ids = processor.tokenizer(literal(processor, caption), add_special_tokens=False, return_tensors="pt")["input_ids"]
    return pool(model.get_input_embeddings()(ids.to(model.device))[0].float(), pooling)


def pool(tokens: torch.Tensor, pooling: str) -> torch.Tensor:
    """(tokens, width) -> (width,)."""
    return tokens.amax(0) if pooling == "max" else tokens.mean(0)


def unit(vector: torch.Tensor) -> torch.Tensor:
    """The vector of length 1."""
    return torch.nn.functional.normalize(vector, dim=0)


def cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    """Cosine of two vectors, six decimals."""
    return round(float(unit(first) @ unit(second)), 6)
