"""Pretrain a small Llama, with a tokenizer of its own, to answer questions about scenes in words: to build a LLaVA on.

    python train/pretrain_language_model.py --data results/miniature/data/scenes.jsonl \\
        --output_dir checkpoints/miniature/language_model

The language model of a LLaVA has learned from text to find what it is asked for in what it has read; a projector then
says in its language what is in an image. This one learns it from scenes, JSON lines of {"scene": [line, ...],
"question", "answer"}. A line of a scene stands where an image's patch will stand, and is one token like it: the sum
of the embeddings of its words. With no question the answer is the caption of LLaVA's pre-training. The loss is that
of the answers. A killed run goes on when it is started again.

What a model of this size needs for it:

- Few wide heads and a base of 1,000,000, as Qwen2.5's: of a head's pairs of dimensions, those that turn far within a
  prompt cannot compare contents across it. With Llama 2's 10,000 and heads of 32 that is half of them.
- Tied embeddings, as in Llama 3.2's small models: what a line says and what is to be said are the same vectors.
- Muon (torch.optim.Muon) for the matrices: in trials, the plateau before it starts to search was up to twice as long
  with AdamW alone.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch.nn.functional import embedding_bag
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from data.files import iter_json_lines
from data.instructions import IMAGE_MARK
from models.errors import ArgumentParser, InputError, run_script
from models.processors import chat_template
from train.pretraining import DEVICE, check_positive, optimize, run_in

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
READ = 10_000  # scenes that the tokenizer is learned from: the first ones

LINE = -1  # in the place of a token's id: a line of a scene


class Scene(NamedTuple):
    """What is where, what is asked (empty: nothing), and the answer."""

    lines: list[str]
    question: str
    answer: str


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--data", required=True, type=Path, help="scenes: JSON lines, see above")
    add("--output_dir", required=True, type=Path, help="folder of the run and of the model")
    add("--vocab_size", type=int, default=1024, help="tokens, at most; 256 of them are bytes (%(default)s)")
    add("--hidden_size", type=int, default=128, help="width (%(default)s)")
    add("--layers", type=int, default=3, help="(%(default)s)")
    add("--heads", type=int, default=2, help="attention heads (%(default)s)")
    add("--rope_theta", type=float, default=1e6, help="base of the rotary frequencies (%(default)s)")
    add("--steps", type=int, default=3000, help="updates (%(default)s)")
    add("--batch_size", type=int, default=64, help="scenes in one update (%(default)s)")
    add("--learning_rate", type=float, default=2e-3, help="peak of a cosine, after 100 updates (%(default)s)")
    add("--save_steps", type=int, default=100, help="a killed run loses at most so many updates (%(default)s)")
    add("--seed", type=int, default=0, help="of weights and order (%(default)s)")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    check_positive(args, "steps", "batch_size", "save_steps", "layers", "hidden_size", "heads")
    if args.hidden_size % (2 * args.heads):
        raise InputError(f"--hidden_size {args.hidden_size} --heads {args.heads}: a head needs an even share of it")
    scenes = list(read_scenes(args.data))
    settings = {name: value for name, value in vars(args).items() if name not in ("output_dir", "save_steps", "data")}
    settings["scenes_sha256"] = hashlib.sha256(json.dumps(scenes).encode()).hexdigest()
    with run_in(args.output_dir, settings) as unfinished:
        if unfinished:
            train(args, scenes)


def read_scenes(path: Path) -> Iterator[Scene]:
    """The scenes of a file. Raises InputError, which names the line, for one that is none."""
    for number, row in iter_json_lines(path):
        lines, question, answer = (row.get(name) for name in ("scene", "question", "answer"))
        if not isinstance(lines, list) or not lines or not all(isinstance(line, str) and line for line in lines):
            raise InputError(f'{path}, line {number}: field "scene" is no list of lines; give what is in it, in words')
        if not isinstance(question, str) or not isinstance(answer, str) or not answer:
            raise InputError(
                f'{path}, line {number}: fields "question" and "answer" must be texts, the second not empty'
            )
        yield Scene(lines, question, answer)


def train(args: argparse.Namespace, scenes: list[Scene]) -> None:
    render = renderer()
    tokenizer = learn_tokenizer([" ".join([*render(scene), *scene.lines]) for scene in scenes[:READ]], args.vocab_size)
    torch.manual_seed(args.seed)
    model = fresh_model(args, tokenizer).to(DEVICE)

    def step_loss(rng: np.random.Generator) -> tuple[torch.Tensor, dict]:
        drawn = [scenes[place] for place in rng.choice(len(scenes), args.batch_size)]
        ids, labels, lines = encode(drawn, render, tokenizer)
        embedded = embed(model, ids.to(DEVICE), lines)
        return model(inputs_embeds=embedded, labels=labels.to(DEVICE)).loss, {}

    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    optimize(model, step_loss, args.output_dir, args.steps, args.learning_rate, args.save_steps, args.seed, matrices)
    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    weights = sum(weight.numel() for weight in model.parameters())
    print(f"{args.output_dir}: {weights / 1e6:.2f} million weights, {len(tokenizer)} tokens; loss curve: loss.png")


def renderer() -> Callable[[Scene], tuple[str, str, str]]:
    """A function that gives the prompt before and behind a scene's lines, and the answer with its end.

    The prompts are those that a LLaVA built on the model gets (models/assemble.py, train/encode.py).
    """
    turns = [{"role": "user", "content": f"{IMAGE_MARK}\n\0"}, {"role": "assistant", "content": "\0"}]
    (text,), _ = render_jinja_template(conversations=[turns], chat_template=chat_template("vicuna_v1"))
    before, rest = text.split(IMAGE_MARK)
    middle, header, end = rest.split("\0")

    def render(scene: Scene) -> tuple[str, str, str]:
        if not scene.question:
            return "", "", scene.answer + "\n"
        # The space before the answer is the answer's: the tokenizer makes one token of it and the word.
        return before, middle + scene.question + header.removesuffix(" "), f" {scene.answer}{end}"

    return render


def encode(
    scenes: list[Scene], render: Callable[[Scene], tuple[str, str, str]], tokenizer: PreTrainedTokenizerFast
) -> tuple[torch.Tensor, torch.Tensor, list[list[int]]]:
    """Token ids and labels, (scenes, length) each, right-padded; and the ids of each line of all scenes, in order.

    Where a line stands the id is LINE.
    """

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    ids, labels, lines = [], [], []
    for scene in scenes:
        before, behind, answer = map(ids_of, render(scene))
        prompt = [tokenizer.bos_token_id, *before, *[LINE] * len(scene.lines), *behind]
        ids.append(torch.tensor(prompt + answer))
        labels.append(torch.tensor([-100] * len(prompt) + answer))
        lines += [ids_of(f" {line}") for line in scene.lines]
    return (
        pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
        pad_sequence(labels, batch_first=True, padding_value=-100),
        lines,
    )


def embed(model: LlamaForCausalLM, ids: torch.Tensor, lines: list[list[int]]) -> torch.Tensor:
    """(scenes, length, hidden): the embeddings of `ids`, where these are LINE the sums of those of `lines`."""
    table = model.get_input_embeddings().weight
    words = torch.tensor([word for line in lines for word in line], device=ids.device)
    starts = torch.tensor([0, *map(len, lines[:-1])], device=ids.device).cumsum(0)
    embedded = table[ids.clamp(min=0)]
    embedded[ids == LINE] = embedding_bag(words, table, starts, mode="sum")
    return embedded


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
