"""The processor of a checkpoint: padding on the left, the family's chat template, the model's geometry.

Works with torchvision and without it: transformers then takes the image processors built on Pillow, whose pixels
differ by at most one step of 255.
"""

import json
from importlib import import_module
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedConfig
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.qwen2_5_vl import processing_qwen2_5_vl
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

from models.errors import InputError
from models.literal_text import keep_literals
from models.reading import read_json, told_as
from models.sentencepiece_tokens import mark_behind_images, match_sentencepiece

# As Qwen2.5-VL was released until February 2025; transformers has had no such class since, as it is Qwen2-VL's.
FIRST_QWEN2_5_VL = "Qwen2_5_VLImageProcessor"
# How LLaVA-1.5 makes a picture square. LLaVA's own name of cropping is "square".
ASPECT_RATIOS = ("pad", "square", "crop")
TEMPLATES = Path(__file__).parent / "chat_templates"


class Qwen2_5_VLProcessor(processing_qwen2_5_vl.Qwen2_5_VLProcessor):
    """Upstream's processor without its video part, which needs torchvision; saved under upstream's name."""

    # What its checkpoint says of videos, for the checkpoints that it is saved to.
    video_settings: dict = {"video_processor_type": "Qwen2VLVideoProcessor"}

    # ProcessorMixin takes the parts of a processor from the signature of __init__, hence no video_processor here.
    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        self.image_token = getattr(tokenizer, "image_token", None) or "<|image_pad|>"
        self.video_token = getattr(tokenizer, "video_token", None) or "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def save_pretrained(self, save_directory: str | Path, **kwargs):
        """Upstream's, and the part on videos, without which upstream's own class cannot load what is saved."""
        written = super().save_pretrained(save_directory, **kwargs)
        path = Path(save_directory) / "processor_config.json"
        settings = json.loads(path.read_text(encoding="utf-8")) | {"video_processor": self.video_settings}
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return written


def video_settings(path: str, **hub_arguments) -> dict:
    """What the checkpoint at `path` says of videos, wherever upstream looks for it, in this order."""
    files = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
    whole, *others = (read_json(path, name, required=False, **hub_arguments) or {} for name in files)
    found = next(filter(None, [whole.get("video_processor"), *others]), {})
    images_only = ("image_processor_type", "image_processor_class", "processor_class", "feature_extractor_type")
    kept = {name: value for name, value in found.items() if name not in images_only}
    return Qwen2_5_VLProcessor.video_settings | kept


def qwen2_5_vl_processor(image_processor, tokenizer, chat_template: str) -> ProcessorMixin:
    """Upstream's processor of these parts where torchvision is installed, otherwise the image-only one."""
    if not is_torchvision_available():
        return Qwen2_5_VLProcessor(image_processor, tokenizer, chat_template=chat_template)
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    parts = (image_processor, tokenizer, Qwen2VLVideoProcessor())
    return processing_qwen2_5_vl.Qwen2_5_VLProcessor(*parts, chat_template=chat_template)


# Model type -> class, and the one without a video part: for machines without torchvision and what they saved.
PROCESSORS = {
    "llava": (LlavaProcessor, None),
    "llava_next": (LlavaNextProcessor, None),
    "qwen2_5_vl": (processing_qwen2_5_vl.Qwen2_5_VLProcessor, Qwen2_5_VLProcessor),
    "gemma3": (Gemma3Processor, None),
}


def image_processor_class(model: str, name: str) -> type:
    """transformers' image processor `name` of `models/<model>`, of the kind that loading a checkpoint gives here."""
    pil = "" if is_torchvision_available() else "_pil"
    return getattr(import_module(f"transformers.models.{model}.image_processing{pil}_{model}"), name + pil.title()[1:])


def chat_template(name: str) -> str:
    """The text of `models/chat_templates/<name>.jinja`."""
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def llava_template(config: PreTrainedConfig, tokenizer) -> str | None:
    """The conversation a LLaVA checkpoint was tuned on, by its language model; None: the checkpoint's own template.

    The templates that the converted checkpoints carry are not those of the original code (LLaVA-1.5 loses its system
    turn), so ours replace them: only where family, language model and tokenizer are those of a released checkpoint.
    """
    family, language_model, tokens = config.model_type, config.text_config.model_type, tokenizer.get_vocab()
    llama_3, chatml = "<|start_header_id|>" in tokens, "<|im_start|>" in tokens
    if (family, language_model) == ("llava_next", "mistral"):
        return chat_template("mistral_instruct")
    if (family, language_model) == ("llava_next", "llama") and llama_3:
        return chat_template("llama_3")
    if language_model == "llama" and not llama_3 and not chatml:
        return chat_template("vicuna_v1")
    return None


def finish_processor(processor: ProcessorMixin, config: PreTrainedConfig, path: str) -> ProcessorMixin:
    """Set padding side, chat template, geometry and tokens, in place; returns the processor.

    Token ids become those of the family's released pipeline: word marks (models/sentencepiece_tokens.py), what a prompt
    starts with, literal special tokens as text (models/literal_text.py). Raises InputError, naming `path`, without a
    template or if tokenizer and model disagree on the image token.
    """
    processor.tokenizer.padding_side = "left"
    match_sentencepiece(processor.tokenizer)
    if config.model_type in ("llava", "llava_next"):
        vision = config.vision_config
        processor.patch_size = vision.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = 1 if vision.model_type == "clip_vision_model" else 0
        processor.chat_template = llava_template(config, processor.tokenizer) or processor.chat_template
        mark_behind_images(processor.tokenizer, processor.image_token)
    processor.chat_template = processor.chat_template or processor.tokenizer.chat_template
    if not processor.chat_template:
        raise InputError(f"{path}: no chat template; add the checkpoint's chat_template.jinja (or .json)")
    image_token_id = processor.tokenizer.convert_tokens_to_ids(image_token(processor))
    if image_token_id != config.image_token_id:
        raise InputError(
            f"{path}: the tokenizer's image token has id {image_token_id}, config.json says {config.image_token_id}; "
            "tokenizer and model are not of one checkpoint"
        )
    keep_literals(processor.tokenizer)
    start_once(processor, config.model_type, path)
    return processor


def start_once(processor: ProcessorMixin, model_type: str, path: str) -> None:
    """Let the tokenizer add what prompts of the family start with, the first token or nothing, and no end, in place.

    Early files of Llama-3's tokenizer leave `<|begin_of_text|>` to the chat template, which LLaVA's has not. A template
    that writes the token itself keeps it: such prompts are tokenized without special tokens (`has_first_token`).
    Raises InputError if prompts do not start so after all.
    """
    tokenizer = processor.tokenizer
    first = None if model_type == "qwen2_5_vl" else tokenizer.bos_token
    expected = [] if first is None else [tokenizer.convert_tokens_to_ids(first)]

    def added() -> bool:
        return tokenizer("a")["input_ids"] == expected + tokenizer("a", add_special_tokens=False)["input_ids"]

    if not added():
        tokenizer.add_eos_token, tokenizer.add_bos_token = False, first is not None
    text = processor.apply_chat_template([{"role": "user", "content": [{"type": "text", "text": "a"}]}], tokenize=False)
    ids = tokenizer(text, add_special_tokens=not has_first_token(processor, text))["input_ids"]
    if not added() or ids[: len(expected)] != expected or (expected and ids.count(expected[0]) > 1):
        raise InputError(
            f"{path}: prompts do not start with {first or 'the chat template'} once; restore tokenizer_config.json, "
            "tokenizer.json and the chat template from the checkpoint"
        )


def has_first_token(processor: ProcessorMixin, text: str) -> bool:
    """Whether the template has written the tokenizer's first token, so that it must not put another before it."""
    first = processor.tokenizer.bos_token
    return bool(first) and text.startswith(first)


def aspect_ratio(processor: ProcessorMixin) -> str | None:
    """How pictures become square: "pad", with the mean colour, or "crop"; None: not LLaVA-1.5's processor."""
    if not isinstance(processor, LlavaProcessor):
        return None
    return "pad" if getattr(processor.image_processor, "do_pad", False) else "crop"


def set_aspect_ratio(processor: ProcessorMixin, choice: str | None, default: str | None = None) -> None:
    """Make pictures square by `choice`, one of ASPECT_RATIOS, in place; None leaves it to the checkpoint.

    `default` holds where the checkpoint does not say: conversions to the transformers layout such as llava-hf's have
    CLIP's image processor, which can only crop, though LLaVA-1.5 was tuned with padding. Raises InputError for a
    `choice` on another family's processor.
    """
    if not isinstance(processor, LlavaProcessor):
        if choice is not None:
            raise InputError("image_aspect_ratio: is for LLaVA-1.5, whose pictures are square; leave it out")
        return
    old = processor.image_processor
    says = hasattr(old, "do_pad") and type(old).__name__.startswith("LlavaImageProcessor")
    choice = choice or (None if says else default)
    if choice is None:
        return
    names = ("size", "crop_size", "image_mean", "image_std", "resample", "rescale_factor")
    values = {name: getattr(old, name) for name in names if getattr(old, name, None) is not None}
    make = image_processor_class("llava", "LlavaImageProcessor")
    processor.image_processor = make(**values, do_pad=choice == "pad")


def image_processor_type(path: str, **hub_arguments) -> str | None:
    """The class of image processors that the files at `path` name, without the "Fast" of some releases."""
    whole = read_json(path, "processor_config.json", required=False, **hub_arguments) or {}
    alone = read_json(path, "preprocessor_config.json", required=False, **hub_arguments) or {}
    name = (whole.get("image_processor") or alone).get("image_processor_type")
    return name.removesuffix("Fast") if isinstance(name, str) else None


def image_token(processor: ProcessorMixin) -> str:
    """The token that stands for each image feature in the model's input (Gemma3's prompts use another one)."""
    return getattr(processor.tokenizer, "image_token", None) or processor.image_token


def pixel_bounds(processor: ProcessorMixin) -> tuple[int, int] | None:
    """Least and most pixels of a picture as the model sees it; None for an image processor of fixed sizes."""
    size = processor.image_processor.size
    bounds = size.get("shortest_edge"), size.get("longest_edge")
    return bounds if all(bounds) else None


def set_pixel_bounds(processor: ProcessorMixin, least: int | None, most: int | None, path: str) -> None:
    """Change the bounds in place; None leaves one as it is.

    Raises InputError, naming `path`, for a processor that has none, and for a least above the most.
    """
    if least is most is None:
        return
    option = "--max_pixels" if least is None else "--min_pixels"
    bounds = pixel_bounds(processor)
    if bounds is None:
        raise InputError(f"{option}: the image processor of {path} scales to sizes of its own; leave it out")
    least, most = least or bounds[0], most or bounds[1]
    if least > most:
        raise InputError(
            f"{option}: at least {least} and at most {most} pixels cannot be met; give the other bound too"
        )
    processor.image_processor.size = type(processor.image_processor.size)(shortest_edge=least, longest_edge=most)


def load_processor(path: str, config: PreTrainedConfig, **hub_arguments) -> ProcessorMixin:
    """The finished processor of the checkpoint at `path`, a folder or hub id; InputError if it is incomplete."""
    processor_class, image_only = PROCESSORS[config.model_type]
    problem = f"{path}: tokenizer or image processor cannot be loaded"
    if config.model_type == "qwen2_5_vl" and image_processor_type(path, **hub_arguments) == FIRST_QWEN2_5_VL:
        with told_as(problem):
            images = image_processor_class("qwen2_vl", "Qwen2VLImageProcessor").from_pretrained(path, **hub_arguments)
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **hub_arguments)
            settings, _ = processor_class.get_processor_dict(path, **hub_arguments)
        processor = qwen2_5_vl_processor(images, tokenizer, settings.get("chat_template"))
        if isinstance(processor, Qwen2_5_VLProcessor):
            processor.video_settings = video_settings(path, **hub_arguments)
        return finish_processor(processor, config, path)
    try:
        with told_as(problem):
            processor = processor_class.from_pretrained(path, trust_remote_code=False, **hub_arguments)
    except InputError:
        if image_only is None:
            raise
        with told_as(problem):
            processor = image_only.from_pretrained(path, trust_remote_code=False, **hub_arguments)
        processor.video_settings = video_settings(path, **hub_arguments)
    return finish_processor(processor, config, path)
