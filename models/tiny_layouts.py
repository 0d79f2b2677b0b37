"""The layouts in which tiny checkpoints are written: those of the released ones, key by key, and LLaVA in parts."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionModel, GenerationConfig, LlamaForCausalLM
from transformers.processing_utils import ProcessorMixin

from models.llava_original import KEYS, VOCABULARY
from models.modeling_llava_next import LlavaNextConfig

# Names inside transformers 5.17 -> names in the released safetensors.
RELEASED_KEYS = {
    "llava": [
        (r"^model\.language_model\.", "language_model.model."),
        (r"^lm_head\.", "language_model.lm_head."),
        (r"^model\.vision_tower\.", "vision_tower.vision_model."),
        (r"^model\.(multi_modal_projector|image_newline)", r"\1"),
    ],
    "qwen2_5_vl": [(r"^model\.language_model\.", "model."), (r"^model\.visual\.", "visual.")],
}
RELEASED_KEYS["llava_next"] = RELEASED_KEYS["gemma3"] = RELEASED_KEYS["llava"]


def released_state(model) -> dict[str, torch.Tensor]:
    """The weights of a fork under the names in the released safetensors."""
    state = {}
    for name, weight in model.state_dict().items():
        for pattern, replacement in RELEASED_KEYS[model.config.model_type]:
            name = re.sub(pattern, replacement, name)
        state[name] = weight.contiguous()
    return state


def write_transformers_layout(model, processor: ProcessorMixin, output_dir: Path) -> None:
    """Write a fork into `output_dir` as the released checkpoints are in the transformers layout."""
    state = released_state(model)
    if model.config.tie_word_embeddings:
        state.pop(next(name for name in state if name.endswith("lm_head.weight")))
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(output_dir)
    model.generation_config.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    save_file(state, output_dir / "model.safetensors", metadata={"format": "pt"})


def write_llava_layout(model, processor: ProcessorMixin, folder: Path) -> None:
    """Write a LLaVA fork into `folder` in the layout of the LLaVA code base; `<image>` must be its last token."""
    config = model.config
    image_token_id = config.image_token_id
    old_names = {new: old for old, new in KEYS}
    weights = {}
    for name, tensor in released_state(model).items():
        prefix = next(new for _, new in KEYS if name.startswith(new))
        tensor = tensor[:image_token_id] if name in VOCABULARY else tensor
        weights[old_names[prefix] + name[len(prefix) :]] = tensor.clone()
    language_model = "mistral" if config.text_config.model_type == "mistral" else "llama"
    anyres = isinstance(config, LlavaNextConfig)
    original = config.text_config.to_dict() | {
        "model_type": f"llava_{language_model}",
        "architectures": [f"Llava{language_model.capitalize()}ForCausalLM"],
        "vocab_size": image_token_id,
        "mm_vision_tower": "vision_tower",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "spatial_unpad" if anyres else "flat",
        "image_aspect_ratio": "anyres" if anyres else "square",  # the tiny LLaVA crops, as llava-hf's does
        "image_grid_pinpoints": [[width, height] for height, width in config.image_grid_pinpoints] if anyres else None,
        "mm_use_im_start_end": False,
    }
    (folder / "config.json").write_text(json.dumps(original, indent=2) + "\n", encoding="utf-8")
    config.vision_config.save_pretrained(folder / "vision_tower")
    processor.image_processor.save_pretrained(folder / "vision_tower")
    model.generation_config.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_vision_tower(model, processor: ProcessorMixin, folder: Path) -> None:
    """Write the tower of a LLaVA fork into `folder` as a CLIP vision checkpoint of its own."""
    tower = CLIPVisionModel(model.config.vision_config)
    tower.load_state_dict(model.model.vision_tower.state_dict())
    tower.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)


def write_language_model(model, tokenizer, folder: Path) -> None:
    """Write a LLaVA fork's language model into `folder`, with its `tokenizer`, as a checkpoint from before LLaVA.

    It has no `<image>`, which must be the fork's last token.
    """
    config = model.config.text_config
    config.vocab_size = len(tokenizer)
    language_model = LlamaForCausalLM(config)
    weights = {f"model.{name}": weight for name, weight in model.model.language_model.state_dict().items()}
    weights["lm_head.weight"] = model.lm_head.weight
    vocabulary = ("model.embed_tokens.weight", "lm_head.weight")
    weights |= {name: weights[name][: len(tokenizer)] for name in vocabulary}
    language_model.load_state_dict(weights)
    language_model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    language_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
