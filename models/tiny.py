"""Small complete checkpoints of every family with random weights, for tests and for a first run.

    python models/tiny.py --family llava --output_dir checkpoints/tiny-llava

A checkpoint has everything a released one has (config, safetensors with the released key layout, tokenizer, image
processor, chat template), loads with plain transformers and takes under 5 MB. Its weights mean nothing; they are
scaled so that the picture changes the logits, and that the first word of a reply is nearly always Yes or No, by chance.
"""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

from models.errors import ArgumentParser, InputError, run_script
from models.llava_original import IMAGE_TOKEN, mean_row
from models.modeling_gemma3 import Gemma3Config, Gemma3ForConditionalGeneration
from models.modeling_llava import LlavaConfig, LlavaForConditionalGeneration
from models.modeling_llava_next import LlavaNextConfig, LlavaNextForConditionalGeneration
from models.modeling_qwen2_5_vl import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from models.processors import chat_template, image_processor_class, qwen2_5_vl_processor
from models.tiny_layouts import (
    write_language_model,
    write_llava_layout,
    write_transformers_layout,
    write_vision_tower,
)
from models.writing import check_new, new_folder

IMAGE_SIZE, PATCH_SIZE = 56, 14  # 16 patches to a view
ANSWERS = ("Yes", "No")
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
    "projection_dim": 32,
}


def tokenizer_of_bytes(bos: str | None, eos: str, pad: str, others: tuple[str, ...], **named: str):
    """A tokenizer of the 256 bytes and the given special tokens, which adds `bos` if there is one.

    The words of ANSWERS are tokens too, for replies only: without merges no text is tokenized to them.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = list(dict.fromkeys([token for token in (pad, bos, eos) if token] + list(others)))
    words = {word: len(special) + len(alphabet) + i for i, word in enumerate(ANSWERS)}
    backend = Tokenizer(BPE({token: i for i, token in enumerate(special + alphabet)} | words, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    if bos:
        number = special.index(bos)
        backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, number)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens=named or list(others),
        padding_side="left",
    )


def with_image_token(tokenizer):
    """Add `<image>` as the last token, as the released conversions of LLaVA do."""
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    return tokenizer


def llama_tokenizer():
    return tokenizer_of_bytes("<s>", "</s>", "<pad>", ())


def llava():
    tokenizer = with_image_token(llama_tokenizer())
    config = LlavaConfig(
        vision_config=CLIP,
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT},
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
    )
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = image_processor_class("clip", "CLIPImageProcessor")(size={"shortest_edge": IMAGE_SIZE}, crop_size=side)
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        chat_template=chat_template("vicuna_v1"),
        num_additional_image_tokens=1,
    )
    return LlavaForConditionalGeneration, config, processor


def llava_next(tokenizer, text_model_type: str, template: str):
    pinpoints = [[rows * IMAGE_SIZE, columns * IMAGE_SIZE] for rows, columns in ((1, 2), (2, 1), (2, 2))]
    config = LlavaNextConfig(
        vision_config=CLIP,
        text_config={
            "model_type": text_model_type,
            "vocab_size": len(tokenizer),
            "sliding_window": None,
            **TEXT,
        },
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_grid_pinpoints=pinpoints,
    )
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = image_processor_class("llava_next", "LlavaNextImageProcessor")(
        size={"shortest_edge": IMAGE_SIZE}, crop_size=side, image_grid_pinpoints=pinpoints
    )
    processor = LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        chat_template=chat_template(template),
        num_additional_image_tokens=1,
    )
    return LlavaNextForConditionalGeneration, config, processor


def llava_next_mistral():
    tokenizer = with_image_token(llama_tokenizer())
    return llava_next(tokenizer, "mistral", "mistral_instruct")


def llava_next_llama3():
    turns = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    tokenizer = tokenizer_of_bytes("<|begin_of_text|>", "<|eot_id|>", "<pad>", turns)
    return llava_next(with_image_token(tokenizer), "llama", "llama_3")


def qwen2_5_vl():
    vision = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = tokenizer_of_bytes(None, "<|im_end|>", "<|endoftext|>", ("<|im_start|>", *vision))
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(vision))
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": TEXT["hidden_size"],
            "patch_size": PATCH_SIZE,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        text_config={
            "vocab_size": len(tokenizer),
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
            **TEXT,
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    # One merged token is 28 x 28 pixels: 1 to 36 of them to a picture.
    images = image_processor_class("qwen2_vl", "Qwen2VLImageProcessor")(min_pixels=28 * 28, max_pixels=36 * 28 * 28)
    processor = qwen2_5_vl_processor(images, tokenizer, chat_template("qwen2_5_vl"))
    return Qwen2_5_VLForConditionalGeneration, config, processor


def gemma3():
    image, start, end = "<image_soft_token>", "<start_of_image>", "<end_of_image>"
    turns = ("<start_of_turn>", "<end_of_turn>", image, start, end)
    named = {"image_token": image, "boi_token": start, "eoi_token": end}
    tokenizer = tokenizer_of_bytes("<bos>", "<end_of_turn>", "<pad>", turns, **named)
    soft_tokens = 4
    config = Gemma3Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention"],
            **TEXT,
        },
        mm_tokens_per_image=soft_tokens,
        boi_token_index=tokenizer.convert_tokens_to_ids(start),
        eoi_token_index=tokenizer.convert_tokens_to_ids(end),
        image_token_index=tokenizer.convert_tokens_to_ids(image),
    )
    images = image_processor_class("gemma3", "Gemma3ImageProcessor")(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    processor = Gemma3Processor(images, tokenizer, chat_template=chat_template("gemma3"), image_seq_length=soft_tokens)
    return Gemma3ForConditionalGeneration, config, processor


# Family -> function that gives (fork class, config, processor).
PARTS = {
    "llava": llava,
    "llava_next_mistral": llava_next_mistral,
    "llava_next_llama3": llava_next_llama3,
    "qwen2_5_vl": qwen2_5_vl,
    "gemma3": gemma3,
}
FAMILIES = tuple(PARTS)


def visual_tokens(config) -> list[int]:
    """Ids of the tokens that only a prompt may hold: images, videos and their markers."""
    names = ("image", "video", "vision_start", "vision_end", "boi", "eoi")
    ids = (getattr(config, f"{name}{suffix}", None) for name in names for suffix in ("_token_id", "_token_index"))
    return sorted({token for token in ids if token is not None})


def randomise(model: torch.nn.Module, answers: list[int]) -> None:
    """Draw all weights anew: matrices that keep the size of features, norms and biases near where they start.

    The head favours the two `answers` (token ids), so that a random model's reply to a yes-no question can be read:
    which of them it gives is decided by the sign of one random projection of the last token's features.
    """
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape)
            if weight.ndim == 1 and "class_embedding" not in name and "image_newline" not in name:
                weight.add_(0.02 * noise)
            elif "embed_tokens" in name:
                # Gemma3's head is its embedding: small, or every token would predict itself.
                scale = 0.2 if model.config.tie_word_embeddings else 1.0
                weight.copy_(scale * noise * weight.shape[1] ** -0.5)
            elif "embed" in name or weight.ndim == 1:
                weight.copy_(0.5 * noise)
            else:
                weight.copy_(noise * weight[0].numel() ** -0.5)
        head = model.lm_head.weight
        direction = torch.randn(head.shape[1]) * head.shape[1] ** -0.5
        head *= 0.02
        head[answers[0]], head[answers[1]] = direction, -direction
        if model.config.model_type.startswith("llava"):
            # `<image>`, which the original layout lacks, has the row that llava_original.py gives it on loading.
            for vocabulary in (model.get_input_embeddings().weight, model.lm_head.weight):
                vocabulary[-1:] = mean_row(vocabulary[:-1])


def write_llama(model, processor, folder: Path) -> None:
    write_language_model(model, llama_tokenizer(), folder)


# Layout -> function that writes (fork, processor) into a folder.
LAYOUTS = {"transformers": write_transformers_layout, "llava": write_llava_layout}
# The same for a part of LLaVA as a checkpoint of its own.
LLAVA_PARTS = {"vision_tower": write_vision_tower, "language_model": write_llama}


def build_tiny(
    family: str, output_dir: str | Path, seed: int = 0, layout: str = "transformers", part: str | None = None
) -> Path:
    """Write a checkpoint of `family` into `output_dir` and return its path.

    `layout` "llava" writes the original LLaVA layout (the three LLaVA families) with the same weights. `part`
    "vision_tower" or "language_model" (llava only) writes that part of the same weights alone, as models/assemble.py
    takes them. Raises InputError for an unknown family, layout or part, or if `output_dir` holds files.
    """
    if family not in FAMILIES:
        raise InputError(f"--family {family}: choose one of {', '.join(FAMILIES)}")
    if layout not in LAYOUTS or (layout == "llava" and not family.startswith("llava")):
        raise InputError(f"--layout {layout} --family {family}: layout llava exists for the llava families only")
    if part is not None and (part not in LLAVA_PARTS or family != "llava"):
        raise InputError(f"--part {part} --family {family}: {' and '.join(LLAVA_PARTS)} are parts of family llava")
    check_new(output_dir)
    model_class, config, processor = PARTS[family]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        randomise(model, processor.tokenizer.convert_tokens_to_ids(list(ANSWERS)))
    model.generation_config = GenerationConfig(
        bos_token_id=processor.tokenizer.bos_token_id,
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        # A trained model never says these; a random one would.
        suppress_tokens=visual_tokens(config),
    )
    write = LLAVA_PARTS[part] if part else LAYOUTS[layout]
    with new_folder(output_dir) as folder:
        write(model, processor, folder)
    return Path(output_dir)


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--family", required=True, choices=FAMILIES)
    parser.add_argument("--output_dir", required=True, help="an empty or new folder")
    parser.add_argument("--layout", default="transformers", choices=LAYOUTS)
    parser.add_argument("--part", choices=LLAVA_PARTS, help="of family llava: only that part, for models/assemble.py")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: %(default)s)")
    arguments = parser.parse_args(argv)
    folder = build_tiny(arguments.family, arguments.output_dir, arguments.seed, arguments.layout, arguments.part)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {arguments.family}, random weights, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    run_script(main)
