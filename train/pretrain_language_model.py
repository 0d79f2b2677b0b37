"""Pretrain a small Llama, with a tokenizer of its own, on the texts of instruction data: to build a small LLaVA on.

    python train/pretrain_language_model.py --data results/miniature/data/instructions.json \\
        --output_dir checkpoints/miniature/language_model

The texts are conversations without their images: the model learns how one asks and answers, not what is true of which
image. A killed run goes on when it is started again, with the weights of one that was not.

Rotary frequencies matter more in a small model than in a large one. Of a head's pairs of dimensions, those that turn
far within a prompt cannot compare contents across it; with Llama 2's base of 10,000 and heads of 32 dimensions that is
half of them, and such a model did not learn to find a picture by its caption. Hence few wide heads and a base of
1,000,000, as Qwen2.5's. Embeddings are tied, as in Llama 3.2's small models: where image tokens were made of the
embeddings of the words for what they show, such models learned to find a picture in half the updates. Whether a trained
projector comes near enough to that is not known.
"""

import argparse
import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from data.instructions import IMAGE_MARK, read_samples
from models.errors import ArgumentParser, InputError, run_script
from models.processors import chat_template
from train.pretraining import DEVICE, check_positive, optimize, run_in

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
READ = 10_000  # samples: the first ones


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--data", required=True, type=Path, help="instruction data (data/instructions.py)")
    add("--output_dir", required=True, type=Path, help="folder of the run and of the model")
    add("--vocab_size", type=int, default=512, help="tokens, at most; 256 of them are bytes (%(default)s)")
    add("--hidden_size", type=int, default=128, help="width (%(default)s)")
    add("--layers", type=int, default=3, help="(%(default)s)")
    add("--heads", type=int, default=2, help="attention heads (%(default)s)")
    add("--rope_theta", type=float, default=1e6, help="base of the rotary frequencies (%(default)s)")
    add("--steps", type=int, default=300, help="updates (%(default)s)")
    add("--batch_size", type=int, default=32, help="texts in one update (%(default)s)")
    add("--learning_rate", type=float, default=1e-3, help="peak of a cosine, after 100 updates (%(default)s)")
    add("--save_steps", type=int, default=100, help="a killed run loses at most so many updates (%(default)s)")
    add("--seed", type=int, default=0, help="of weights and order (%(default)s)")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    check_positive(args, "steps", "batch_size", "save_steps", "layers", "hidden_size", "heads")
    if args.hidden_size % (2 * args.heads):
        raise InputError(f"--hidden_size {args.hidden_size} --heads {args.heads}: a head needs an even share of it")
    lines = list(texts(args.data))
    settings = {name: value for name, value in vars(args).items() if name not in ("output_dir", "save_steps", "data")}
    settings["texts_sha256"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    with run_in(args.output_dir, settings) as unfinished:
        if unfinished:
            train(args, lines)


def train(args: argparse.Namespace, lines: list[str]) -> None:
    tokenizer = learn_tokenizer(lines, args.vocab_size)
    torch.manual_seed(args.seed)
    model = fresh_model(args, tokenizer).to(DEVICE)

    def step_loss(rng: np.random.Generator) -> tuple[torch.Tensor, dict]:
        drawn = [lines[place] for place in rng.choice(len(lines), args.batch_size)]
        rows = tokenizer(drawn, return_tensors="pt", padding=True, padding_side="right").to(DEVICE)
        labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
        return model(rows["input_ids"], attention_mask=rows["attention_mask"], labels=labels).loss, {}

    optimize(model, step_loss, args.output_dir, args.steps, args.learning_rate, args.save_steps, args.seed)
    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    weights = sum(weight.numel() for weight in model.parameters())
    print(f"{args.output_dir}: {weights / 1e6:.2f} million weights, {len(tokenizer)} tokens; loss curve: loss.png")


def fresh_model(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        intermediate_size=3 * args.hidden_size,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": args.rope_theta},
        initializer_range=args.hidden_size**-0.5,  # Llama's 0.02 is that of a width of 2,500
        tie_word_embeddings=True,
        **special,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**special)
    return model


def texts(path: Path) -> Iterator[str]:
    """The first samples, as the conversation that models/assemble.py gives a Llama, without their images."""
    for sample in islice(read_samples(path), READ):
        (text,), _ = render_jinja_template(conversations=[sample["messages"]], chat_template=chat_template("vicuna_v1"))
        yield text.replace(IMAGE_MARK, "")


def learn_tokenizer(lines: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE without merges across words, of at most `vocab_size` tokens, with Llama's special tokens."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [PAD, BOS, EOS]
    backend.train_from_iterator(
        (line.replace(EOS, "") for line in lines),
        BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    number = backend.token_to_id(BOS)
    backend.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, number)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BOS, eos_token=EOS, pad_token=PAD, padding_side="left"
    )


if __name__ == "__main__":
    run_script(main)
