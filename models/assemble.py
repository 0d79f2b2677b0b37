"""LLaVA from a vision tower and a language model given apart, as LLaVA-1.5's pre-training starts.

    python models/assemble.py --vision_tower openai/clip-vit-large-patch14-336 --language_model lmsys/vicuna-7b-v1.5 \\
        --output_dir checkpoints/llava-from-scratch --position_balance true

Folders or hub ids. Both parts keep their weights; between them comes a fresh projector, which says nothing before
it is trained. What is written is a complete checkpoint in the transformers layout.
"""

import argparse
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, CLIPVisionModel

from models.errors import ArgumentParser, InputError, run_script, true_or_false
from models.llava_original import (
    IMAGE_TOKEN,
    add_token_rows,
    build_config,
    build_processor,
    check_layer,
    generation_config,
    read_tokenizer,
)
from models.load import clear_sampling, load_model, load_weights
from models.modeling_llava import LlavaForConditionalGeneration
from models.processors import ASPECT_RATIOS, chat_template, finish_processor
from models.quiet import quiet_transformers
from models.reading import WEIGHT_ERRORS, read_json, told_as
from models.writing import check_new, new_folder

TOWERS = ("clip_vision_model", "clip", "llava")  # a tower alone, CLIP with its text model, a LLaVA with such a tower
LANGUAGE_MODELS = ("llama", "mistral")
DTYPES = ("bfloat16", "float16", "float32")
SHARD_SIZE = "5GB"


def assemble_llava(
    vision_tower: str | Path,
    language_model: str | Path,
    output_dir: str | Path,
    position_balance: bool = False,
    image_aspect_ratio: str = "pad",
    seed: int = 0,
    dtype: str = "bfloat16",
) -> Path:
    """Write a LLaVA-1.5 checkpoint made of two models into `output_dir`, whole or not at all, and return its path.

    Features are those of the tower's layer -2 without CLS; the projector is two linear layers with GELU between, drawn
    from `seed` as torch initialises nn.Linear; `<image>` is added behind the last token, its rows the mean of the
    others (LLaVA-1.5, arXiv 2310.03744, and its code base). Needs memory for about one copy of the weights in `dtype`.

    Args:
        vision_tower: CLIP, its vision model alone, or a LLaVA whose tower is one (in the transformers layout). Mean
            and deviation of the pixels are those of its preprocessor_config.json, without one CLIP's.
        language_model: a causal language model of the Llama or Mistral architecture, with its tokenizer. The
            conversation becomes Vicuna's, Llama 3's where the tokenizer has its tokens, or Mistral's.
        position_balance: written into config.json.
        image_aspect_ratio: pad: pictures are padded to a square with the mean colour; square or crop: cropped.

    Raises:
        InputError: a part is missing, incomplete or of another kind, or `output_dir` holds files.
    """
    if not isinstance(position_balance, bool):
        raise InputError(f"position_balance={position_balance!r}: pass True or False")
    for name, value, allowed in (
        ("image_aspect_ratio", image_aspect_ratio, ASPECT_RATIOS),
        ("dtype", dtype, DTYPES),
    ):
        if value not in allowed:
            raise InputError(f"{name}={value!r}: choose one of {', '.join(allowed)}")
    check_new(output_dir)
    tower_path, language_path = str(vision_tower), str(language_model)
    check_type(tower_path, TOWERS, "a CLIP vision tower")
    original = check_type(language_path, LANGUAGE_MODELS, "a language model that LLaVA can be built on")
    language_folder = small_files(language_path)
    tokenizer = read_tokenizer(language_folder)
    template = conversation(language_path, original["model_type"], tokenizer)
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    weights, vision_config = read_tower(tower_path, dtype)
    language = load_weights(AutoModelForCausalLM, language_path, language_path, dtype=dtype)
    weights |= {f"language_model.{name}": tensor for name, tensor in language.state_dict().items()}
    del language
    vocab_size = add_token_rows(language_folder, weights, image_token_id + 1)
    with told_as(f"{language_path}/config.json: cannot be read"):
        config = build_config(original | {"torch_dtype": dtype}, vision_config, image_token_id, vocab_size)
    config.position_balance = position_balance
    check_layer(Path(tower_path), {}, vision_config)
    weights |= fresh_projector(vision_config.hidden_size, config.text_config.hidden_size, seed, dtype)
    model = load_weights(
        LlavaForConditionalGeneration, language_path, None, config=config, state_dict=weights, dtype=dtype
    )
    del weights

    processor = build_processor({"image_aspect_ratio": image_aspect_ratio}, config, tokenizer, small_files(tower_path))
    processor.chat_template = template
    finish_processor(processor, config, language_path)
    model.generation_config = generation_config(language_folder, config, processor)
    clear_sampling(model)
    with new_folder(output_dir) as folder:
        model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
        processor.save_pretrained(folder)
    return Path(output_dir)


def check_type(path: str, allowed: tuple[str, ...], kind: str) -> dict:
    """The config.json of a folder or hub id; InputError unless its model_type is one of `allowed`."""
    config = read_json(path, "config.json")
    if config.get("model_type") not in allowed:
        found = f"{path}/config.json: model_type {config.get('model_type')!r}"
        raise InputError(f"{found} is not {kind}; supported: {', '.join(allowed)}")
    return config


def small_files(path: str) -> Path:
    """A folder with everything of a folder or hub id but the weights."""
    if Path(path).is_dir():
        return Path(path)
    with told_as(f"{path}: cannot be had from the hub"):
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.model", "*.txt"]))


def read_tower(path: str, dtype: str) -> tuple[dict[str, torch.Tensor], object]:
    """Weights of a CLIP vision tower under released names, and its config; InputError unless they are complete."""
    if read_json(path, "config.json")["model_type"] == "llava":
        tower = load_model(path, dtype=dtype)[0].model.vision_tower
        if tower.config.model_type != "clip_vision_model":
            raise InputError(f"{path}: its vision tower is a {tower.config.model_type}, not CLIP's")
    else:
        tower = read_bare_tower(path, dtype)
    tower.config.name_or_path = ""  # where it was read from is not the checkpoint's business
    return {f"vision_tower.vision_model.{name}": tensor for name, tensor in tower.state_dict().items()}, tower.config


def read_bare_tower(path: str, dtype: str) -> CLIPVisionModel:
    with told_as(f"{path}: weights cannot be read; download them again", *WEIGHT_ERRORS), quiet_transformers():
        tower, report = CLIPVisionModel.from_pretrained(path, output_loading_info=True, dtype=dtype)
    missing = report["missing_keys"]  # Others may be there: CLIP's text model.
    if missing:
        raise InputError(f"{path}: {len(missing)} missing weights of the vision tower (first: {min(missing)})")
    return tower


def conversation(path: str, model_type: str, tokenizer) -> str:
    """The chat template for a language model; InputError if the tokenizer lacks the token that ends its turns."""
    tokens = tokenizer.get_vocab()
    if "<|start_header_id|>" in tokens:
        return chat_template("llama_3")
    if "</s>" not in tokens:
        raise InputError(f"{path}: the tokenizer has neither </s> nor Llama 3's tokens; no conversation here fits it")
    return chat_template("mistral_instruct" if model_type == "mistral" else "vicuna_v1")


def fresh_projector(features: int, hidden: int, seed: int, dtype: str) -> dict[str, torch.Tensor]:
    """Weights of a two-layer projector, `features` -> `hidden` -> `hidden`, drawn in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = {"linear_1": torch.nn.Linear(features, hidden), "linear_2": torch.nn.Linear(hidden, hidden)}
    return {
        f"multi_modal_projector.{name}.{part}": tensor.to(getattr(torch, dtype))
        for name, layer in layers.items()
        for part, tensor in layer.state_dict().items()
    }


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--vision_tower", required=True, help="CLIP, or a LLaVA with its tower: a folder or hub id")
    add("--language_model", required=True, help="of the Llama or Mistral architecture: a folder or hub id")
    add("--output_dir", required=True, help="an empty or new folder")
    add("--position_balance", type=true_or_false, default=False, metavar="true|false", help="(default: false)")
    add("--image_aspect_ratio", choices=ASPECT_RATIOS, default="pad", help="pad or crop pictures (default: pad)")
    add("--seed", type=int, default=0, help="seed of the projector (default: 0)")
    add("--dtype", choices=DTYPES, default="bfloat16", help="of the weights that are written (default: bfloat16)")
    arguments = parser.parse_args(argv)
    folder = assemble_llava(**vars(arguments))
    print(f"{folder}: LLaVA with a fresh projector; position_balance {str(arguments.position_balance).lower()}")
    return 0


if __name__ == "__main__":
    run_script(main)
