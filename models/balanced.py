"""What every fork shares: where balanced positions enter a transformers model, and how its weights are found.

A fork is two subclasses that bear upstream's names. The inner model (`LlavaModel`, ...) fills in positions when none
come in; the outer one (`LlavaForConditionalGeneration`, ...) does so once at prefill, after which `generate` goes on
from the last position by itself. With `config.position_balance` false every method is upstream's.

Rotations come from balanced positions, masks never do (transformers 5.17 reads positions that do not step by one as
packed sequences): `BalancedModel` passes an explicit all-ones mask where upstream would look for packing in the
positions, and the decoder layers, whose only use of positions is FlashAttention's own detector, do not see them.
"""

import inspect
from collections.abc import Callable
from functools import partial, wraps

import torch
from transformers import conversion_mapping
from transformers.configuration_utils import PretrainedConfig
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from models.adapters import keep_flag_with_adapters
from models.conversation import next_position_ids, note_next, past_length, placeholder_ids
from models.positions import balanced_position_ids


class Fork:
    """Mixin of the outer classes (`...ForConditionalGeneration`): the inner model becomes the fork's own.

    `tower_name` and `projector_name` name the parts of the inner model beside its `language_model`. (transformers looks
    for an attribute `vision_tower` itself.)
    """

    inner_class: type
    tower_name = "vision_tower"
    projector_name = "multi_modal_projector"

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        # The same parameters with other methods: building an inner model of our own would build it twice.
        self.model.__class__ = self.inner_class
        self.model.prepare()
        keep_flag_with_adapters()

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Upstream's; beside an adapter of transformers' own `add_adapter`, config.json has the flag, too."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self._hf_peft_config_loaded and kwargs.get("is_main_process", True):
            self.config.save_pretrained(save_directory)


class Inner:
    """Mixin of the inner classes, which also stand alone (AutoModel): `prepare` is what building one takes."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self.prepare()

    def prepare(self) -> None:
        """Called once, when all parts are there."""
        keep_checkpoint_keys(self)


class BalancedGeneration(Fork):
    """`Fork` for the families with one rotary axis: positions at prefill, and beams over several pictures."""

    def _prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs):
        """Positions of the whole prompt, (batch, seq); `generate` continues from the last one."""
        if not self.config.position_balance:
            return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)
        input_ids, image_sizes = conversation_ids(inputs_tensor, model_kwargs), model_kwargs.get("image_sizes")
        if past_length(model_kwargs.get("past_key_values")) > 0:
            self.model.require_all_images(input_ids, image_sizes)
        image_ids = self.model.image_ids(input_ids, image_sizes)
        return balanced_position_ids(image_ids, model_kwargs.get("attention_mask"))

    def _expand_inputs_for_generation(
        self,
        expand_size=1,
        is_encoder_decoder=False,
        input_ids=None,
        pixel_values=None,
        image_sizes=None,
        **kwargs,
    ):
        """Repeat rows for beams and samples, keeping the pictures of a row together and in order.

        Upstream repeats each picture beside itself, which gives a prompt of two pictures the first one twice.
        """
        arguments = {
            "expand_size": expand_size,
            "is_encoder_decoder": is_encoder_decoder,
            "input_ids": input_ids,
        }
        visual = {"pixel_values": pixel_values, "image_sizes": image_sizes}
        visual = {name: tensor for name, tensor in visual.items() if tensor is not None}
        whole = input_ids is not None and input_ids.shape[1] > 0 and past_length(kwargs.get("past_key_values")) == 0
        if not (self.config.position_balance and expand_size > 1 and pixel_values is not None and whole):
            return super()._expand_inputs_for_generation(**arguments, **visual, **kwargs)
        row_of_image = first_tokens(self.model.image_ids(input_ids, image_sizes)).nonzero()[:, 0]
        pictures = [(row_of_image == row).nonzero()[:, 0] for row in range(input_ids.shape[0])]
        order = torch.cat([images.repeat(expand_size) for images in pictures])
        input_ids, kwargs = super()._expand_inputs_for_generation(**arguments, **kwargs)
        return input_ids, kwargs | {name: tensor[order] for name, tensor in visual.items()}


class BalancedModel(Inner):
    """Mixin of the inner classes with one rotary axis; stands before upstream's class."""

    def prepare(self) -> None:
        super().prepare()
        for layer in self.language_model.layers:
            layer.register_forward_pre_hook(partial(hide_position_ids, self.config), with_kwargs=True)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.forward = balanced_forward(super().forward)

    def tokens_per_image(self) -> int:
        """Image tokens of one picture, or of its base view; ValueError if they cannot be known."""
        raise AssertionError(f"{type(self).__name__} does not say how many tokens an image has")

    def image_ids(self, input_ids: torch.LongTensor, image_sizes: torch.Tensor | None = None) -> torch.LongTensor:
        """Number each token's image, 0 for text: (batch, seq) -> (batch, seq), as `balanced_position_ids` takes it.

        `image_sizes`, (images, 2), are heights and widths in pixels; only families whose pictures differ in their
        number of tokens look at them.
        """
        is_image = input_ids == self.config.image_token_id
        return is_image * ((is_image.cumsum(-1) - 1) // self.tokens_per_image() + 1)

    def require_all_images(self, input_ids: torch.LongTensor, image_sizes: torch.Tensor | None) -> None:
        """Raise ValueError unless `image_ids` can number every image of a conversation that goes on from a cache."""

    def prompt_position_ids(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor, image_sizes=None, **inputs
    ) -> torch.LongTensor:
        """Positions of whole prompts, flag on or off: (batch, seq) -> (batch, seq); padding on the right."""
        if not self.config.position_balance:
            return torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        return balanced_position_ids(self.image_ids(input_ids, image_sizes), attention_mask)

    def grid_inputs(self, rows: int, columns: int) -> dict[str, torch.Tensor]:
        """What positions need to know of a picture of (rows, columns) patches without tiles, beside its tokens."""
        return {}

    def packed_mask(self, ordinary: torch.LongTensor, **inputs):
        """Mask of a packed row whose `ordinary` positions, (1, seq), start anew with each sample."""
        config = self.config.get_text_config()
        create = create_sliding_window_causal_mask if getattr(config, "sliding_window", None) else create_causal_mask
        return create(**packed_mask_arguments(self, ordinary))

    def balanced_inputs(self, inputs: dict) -> tuple[dict, torch.LongTensor | None]:
        """forward's arguments by name, with positions and a mask that keeps upstream from looking for packing.

        Beside them the position that comes next, (batch, 1); None if the caller brought the positions along.
        """
        input_ids, attention_mask = inputs.get("input_ids"), inputs.get("attention_mask")
        position_ids, past_key_values = inputs.get("position_ids"), inputs.get("past_key_values")
        following = None
        strategy = getattr(self.config, "vision_feature_select_strategy", None)
        if inputs.get("vision_feature_select_strategy") not in (None, strategy):
            raise ValueError(
                "position_balance is on: set vision_feature_select_strategy in config.json, not in the call"
            )
        if position_ids is None:
            known_ids = placeholder_ids(self, inputs, self.config.image_token_id)
            image_ids = self.image_ids(known_ids, inputs.get("image_sizes"))
            position_ids, following = next_position_ids(image_ids, attention_mask, past_key_values)
        elif attention_mask is None and past_key_values is None and inputs.get("cu_seq_lens_q") is None:
            require_one_sample(position_ids)
        if attention_mask is None and past_key_values is None:
            tokens = inputs["inputs_embeds"][..., 0] if input_ids is None else input_ids
            attention_mask = torch.ones_like(tokens, dtype=torch.long)
        return inputs | {"attention_mask": attention_mask, "position_ids": position_ids}, following


def balanced_forward(upstream_forward: Callable) -> Callable:
    """`upstream_forward` of an inner model, with its signature; with the flag on, on what `balanced_inputs` gives."""
    names = tuple(inspect.signature(upstream_forward).parameters)[1:]

    @wraps(upstream_forward)
    def forward(self, *args, **kwargs):
        if not self.config.position_balance:
            return upstream_forward(self, *args, **kwargs)
        inputs, following = self.balanced_inputs(dict(zip(names, args, strict=False)) | kwargs)
        output = upstream_forward(self, **inputs)
        note_next(output, following)
        return output

    return forward


def packed_mask_arguments(inner: torch.nn.Module, ordinary: torch.LongTensor) -> dict:
    """Arguments of transformers' mask functions, which read (1, seq) positions that start anew as packed samples."""
    # Of the embeddings only shape, dtype and device are looked at.
    embeddings = inner.get_input_embeddings().weight.new_empty(*ordinary.shape, 1)
    return {
        "config": inner.config.get_text_config(),
        "inputs_embeds": embeddings,
        "attention_mask": None,
        "past_key_values": None,
        "position_ids": ordinary,
    }


def require_one_sample(position_ids: torch.LongTensor) -> None:
    """Raise ValueError if explicit positions start anew in a row, as those of packed samples do.

    Upstream would cut the mask there. With the flag on it must not read positions so: images repeat them.
    """
    if not torch.compiler.is_compiling() and bool((position_ids.diff(dim=-1) < 0).any()):
        raise ValueError(
            "position_balance is on and `position_ids` start anew within a row: packed samples need a 4-D "
            "attention_mask, or FlashAttention's cu_seq_lens arguments, that keep them apart"
        )


def conversation_ids(inputs_tensor: torch.Tensor, model_kwargs: dict) -> torch.LongTensor:
    """Token ids of the whole conversation among generate's arguments, (batch, seq); ValueError if they are missing."""
    input_ids = model_kwargs.get("input_ids")
    if input_ids is None or input_ids.shape[1] == 0:
        input_ids = inputs_tensor
    attention_mask = model_kwargs.get("attention_mask")
    length = input_ids.shape[1] if attention_mask is None else attention_mask.shape[-1]
    cached = past_length(model_kwargs.get("past_key_values"))
    if input_ids.is_floating_point() or input_ids.shape[1] < max(length, cached):
        raise ValueError(
            "position_balance is on and the images' places are not known: pass generate the `input_ids` of the "
            "whole conversation, also when it goes on from a cache, or pass `position_ids`"
        )
    return input_ids


def first_tokens(image_ids: torch.LongTensor) -> torch.BoolTensor:
    """True at the first token of every image, (batch, seq)."""
    previous = torch.nn.functional.pad(image_ids, (1, 0))[:, :-1]
    return (image_ids != 0) & (image_ids != previous)


def hide_position_ids(config: PretrainedConfig, layer: torch.nn.Module, args: tuple, kwargs: dict):
    """Forward pre-hook of a decoder layer: its attention gets no positions to mistake for packing.

    The layer's rotation is computed before it and comes in as `position_embeddings`.
    """
    if config.position_balance:
        kwargs["position_ids"] = None
    return args, kwargs


def keep_checkpoint_keys(model: torch.nn.Module) -> None:
    """Give an inner model of a fork, and the fork, upstream's conversion of checkpoint keys: loading, saving, adapters.

    transformers 5.17 converts the keys of a class outside its own package only if somebody registered a conversion;
    otherwise weights silently stay random. The fork bears upstream's class names and model type, so registering
    those entries once more, unchanged, is all that is needed.
    """
    inner = type(model).__name__
    for name in (model.config.model_type, inner, inner.removesuffix("Model") + "ForConditionalGeneration"):
        conversion = conversion_mapping.get_checkpoint_conversion_mapping(name)
        if conversion is not None:
            conversion_mapping.register_checkpoint_conversion_mapping(name, conversion, overwrite=True)
