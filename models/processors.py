"""The processor of a checkpoint: padding on the left, the family's chat template, the model's geometry.

Works with torchvision and without it: transformers then takes the image processors built on Pillow, whose pixels
differ by at most one step of 255.
"""

from importlib import import_module
from pathlib import Path

from transformers import PreTrainedConfig
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.qwen2_5_vl import processing_qwen2_5_vl
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

from models.errors import InputError

TEMPLATES = Path(__file__).parent / "chat_templates"


class Qwen2_5_VLProcessor(processing_qwen2_5_vl.Qwen2_5_VLProcessor):
    """Upstream's processor without its video part, which needs torchvision; saved under upstream's name."""

    # ProcessorMixin takes the parts of a processor from the signature of __init__, hence no video_processor here.
    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        self.image_token = getattr(tokenizer, "image_token", None) or "<|image_pad|>"
        self.video_token = getattr(tokenizer, "video_token", None) or "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def qwen2_5_vl_processor(image_processor, tokenizer, chat_template: str) -> ProcessorMixin:
    """Upstream's processor of these parts where torchvision is installed, otherwise the image-only one."""
    if not is_torchvision_available():
        return Qwen2_5_VLProcessor(image_processor, tokenizer, chat_template=chat_template)
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    parts = (image_processor, tokenizer, Qwen2VLVideoProcessor())
    return processing_qwen2_5_vl.Qwen2_5_VLProcessor(*parts, chat_template=chat_template)


# Model type -> classes to try: a Qwen2.5-VL processor that was saved without torchvision has no video part.
PROCESSORS = {
    "llava": (LlavaProcessor,),
    "llava_next": (LlavaNextProcessor,),
    "qwen2_5_vl": (processing_qwen2_5_vl.Qwen2_5_VLProcessor, Qwen2_5_VLProcessor),
    "gemma3": (Gemma3Processor,),
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
    turn), so ours replace them.
    """
    language_model = config.text_config.model_type
    if language_model == "llama":
        return chat_template("llama_3" if "<|start_header_id|>" in tokenizer.get_vocab() else "vicuna_v1")
    if (config.model_type, language_model) == ("llava_next", "mistral"):
        return chat_template("mistral_instruct")
    return None


def finish_processor(processor: ProcessorMixin, config: PreTrainedConfig, path: str) -> ProcessorMixin:
    """Set padding side, chat template and geometry, in place. `path` is for the messages of InputError."""
    processor.tokenizer.padding_side = "left"
    if config.model_type in ("llava", "llava_next"):
        vision = config.vision_config
        processor.patch_size = vision.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = 1 if vision.model_type == "clip_vision_model" else 0
        processor.chat_template = llava_template(config, processor.tokenizer) or processor.chat_template
    if not processor.chat_template:
        raise InputError(f"{path}: no chat template; add the checkpoint's chat_template.jinja (or .json)")
    image_token_id = processor.tokenizer.convert_tokens_to_ids(image_token(processor))
    if image_token_id != config.image_token_id:
        raise InputError(
            f"{path}: the tokenizer's image token has id {image_token_id}, config.json says {config.image_token_id}; "
            "tokenizer and model are not of one checkpoint"
        )
    return processor


def image_token(processor: ProcessorMixin) -> str:
    """The token that stands for each image feature in the model's input (Gemma3's prompts use another one)."""
    return getattr(processor.tokenizer, "image_token", None) or processor.image_token


def load_processor(path: str, config: PreTrainedConfig) -> ProcessorMixin:
    """The finished processor of the checkpoint at `path`, a folder or hub id; InputError if it is incomplete."""
    for processor_class in PROCESSORS[config.model_type]:
        try:
            return finish_processor(processor_class.from_pretrained(path), config, path)
        except InputError:
            raise
        except (OSError, ValueError, TypeError, ImportError) as error:
            reason = error
    raise InputError(
        f"{path}: tokenizer or image processor cannot be loaded ({str(reason).splitlines()[0]})"
    ) from reason
