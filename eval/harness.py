"""The run that all benchmarks share: items -> batches -> answers.jsonl, resumable and accounted for.

A benchmark is a file that supplies what to load and what to ask, and ends like eval/probe.py:

    BENCHMARK = Benchmark("probe", add_arguments, load_items, messages, key=("id",))
    def main(argv=None): return run(BENCHMARK, argv)

A study of something else than replies supplies `measure` too (eval/similarity.py). The harness owns the command line
(eval/arguments.py), generation (eval/generate.py), the answers file (eval/journal.py) and its manifest
(eval/manifest.py). Several processes share the items (eval/processes.py), one GPU each:
`torchrun --nproc_per_node 8 eval/probe.py ...`.

Exit status: 0, every item is answered; 1, every item has a row but some are errors, which the same command tries
again; 2, bad input. torchrun itself exits with 1 for 1 and for 2, and adds its own report to our one line.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from data.pictures import PictureError
from eval import journal, manifest, table_source
from eval.arguments import build_parser
from eval.engine_arguments import check_engine, engine_versions
from eval.fields import describe_key, item_key
from eval.items import hash_pictures, image_field, longest_first, picture_parts, without_pictures
from eval.processes import Processes
from eval.records import ROW_FIELDS
from eval.table_source import Tables, no_tables
from models.errors import InputError, printable
from models.fingerprint import fingerprint, fingerprint_tower, hash_json
from models.literal_text import shown
from models.provenance import differences, versions


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark supplies.

    `load_items(args)` returns the items as JSON-ready dicts, or raises InputError. `messages(item, args)`
    returns one item's chat messages in transformers' format; an image part has `path` (a file) or `image`
    (its bytes). `key` names the fields that tell an item from every other.

    `measure(run, model, processor, order, num_workers)` checks the model (InputError) and returns an iterator that
    gives, a few at a time, index -> the fields of the outcome (or `error`) for the items `order`; None: greedy replies
    of at most `max_new_tokens`. `outcome` names those fields; a row that has the first is done. `settings` are the
    benchmark's own arguments that decide outcomes and do not show in the items. `tables(args)`: the table or tables
    that the items are rows of; None: they are not. `file_in_folder`: see eval/arguments.py. `strips`: replies are kept
    without white space at their ends, as by the benchmark's official code. `image_aspect_ratio`: how that code makes
    pictures square for LLaVA-1.5, where a checkpoint does not say (models/processors.py). `afterwards(run)` is called
    once all items have a row. `attention` is the implementation that `measure` needs: the model runs with it, whatever
    else is asked for, which a notice says.
    """

    name: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    load_items: Callable[[argparse.Namespace], list[dict]]
    messages: Callable[[dict, argparse.Namespace], list[dict]]
    key: tuple[str, ...] = ("id",)
    max_new_tokens: int | None = 128
    measure: Callable[..., Iterator[dict[int, dict]]] | None = None
    outcome: tuple[str, ...] = ("prediction",)
    settings: tuple[str, ...] = ()
    tables: Callable[[argparse.Namespace], Tables] = no_tables
    file_in_folder: str | None = None
    strips: bool = False
    image_aspect_ratio: str | None = None
    afterwards: Callable[["Run"], None] | None = None
    attention: str | None = None


@dataclass(frozen=True)
class Run:
    """What the steps of one run share."""

    benchmark: Benchmark
    args: argparse.Namespace
    processes: Processes
    items: list[dict]
    attention_asked: str | None = None  # --attn_implementation as it was given; `benchmark.attention` takes its place

    def key(self, item: dict) -> tuple:
        """What tells the item (or its row) from every other."""
        return item_key(item, self.benchmark.key)

    def messages_of(self, index: int) -> list[dict]:
        """The chat messages of item `index`."""
        return self.benchmark.messages(self.items[index], self.args)

    def is_done(self, row: dict) -> bool:
        """Whether a row holds an outcome, rather than an error or nothing."""
        return self.benchmark.outcome[0] in row

    def rows(self) -> dict[tuple, dict]:
        """The rows on disk, by key."""
        return journal.collect(self.args.answers_file, self.benchmark.key, self.benchmark.outcome[0])


def run(benchmark: Benchmark, argv: list[str] | None = None) -> int:
    """Ask a model every item of a benchmark that has no answer yet; returns the exit status.

    Raises InputError for whatever the user can mend; what can be checked is checked before the model is loaded.
    """
    description = sys.modules[(benchmark.measure or benchmark.load_items).__module__].__doc__
    parser = build_parser(description, benchmark.max_new_tokens, benchmark.file_in_folder)
    benchmark.add_arguments(parser)
    processes = Processes()
    with processes.joined(), contextlib.ExitStack() as stack:
        args = processes.by_each(lambda: parser.parse_args(argv))
        measures = benchmark.measure is not None
        processes.by_each(lambda: check_engine(args, benchmark.name, measures, processes.count))
        asked = args.attn_implementation
        args.attn_implementation = benchmark.attention or asked
        items = processes.by_first(lambda: load_items(benchmark, args, processes))
        this = Run(benchmark, args, processes, items, asked)
        settings = processes.by_each(lambda: known_settings(this))

        def hold_and_plan() -> tuple[list[int], int]:
            stack.enter_context(journal.only_writer(args.answers_file))
            return plan(this, settings)

        order, done = processes.by_first(hold_and_plan)
        seconds = ask(this, settings, order, done) if order else 0.0
        seconds = max(processes.gather(seconds))  # which also waits for all
        return finish(this, done, seconds) if processes.rank == 0 else 0


def load_items(benchmark: Benchmark, args: argparse.Namespace, processes: Processes) -> list[dict]:
    """The items to ask, once the files they come from and go to are known to be fit."""
    journal.check_writable(args.answers_file)
    items = [
        {field: value for field, value in item.items() if field not in ROW_FIELDS.union(benchmark.outcome)}
        for item in benchmark.load_items(args)[: args.limit]
    ]
    seen = set()
    for item in items:
        if item_key(item, benchmark.key) in seen:
            raise InputError(f"{benchmark.name}: one item twice ({describe_key(item, benchmark.key)})")
        seen.add(item_key(item, benchmark.key))
    if processes.count > len(items):
        raise InputError(f"{processes.count} processes for {len(items)} items; start at most {len(items)}")
    return items


def known_settings(this: Run) -> dict:
    """What decides the answers, as far as it is known before the model is loaded."""
    args, folder = this.args, Path(this.args.model_path)
    questions = [without_pictures(this.messages_of(index)) for index in range(len(this.items))]
    asked = {
        "position_balance": args.position_balance,
        "device": None if args.device == "auto" else args.device.partition(":")[0],
        "dtype": None if args.dtype == "auto" else args.dtype,
        "attn_implementation": args.attn_implementation,
        "max_new_tokens": getattr(args, "max_new_tokens", None),
        "min_pixels": args.min_pixels,
        "max_pixels": args.max_pixels,
        "image_aspect_ratio": args.image_aspect_ratio,
    }
    own = {name: getattr(args, name) for name in this.benchmark.settings}
    return json.loads(json.dumps(own)) | {  # as the manifest will give them back: a tuple is a list then
        "benchmark": this.benchmark.name,
        "engine": args.engine,
        "items": len(this.items),
        "items_sha256": hash_json(this.items),
        "questions_sha256": hash_json(questions),
        "limit": args.limit,
        **table_source.provenance(this.benchmark.tables(args)),
        "model_path": str(folder.resolve()) if folder.is_dir() else args.model_path,
        "model_files": fingerprint(folder),
        "versions": versions() | engine_versions(args.engine),
        **{name: value for name, value in asked.items() if value is not None},
    }


def plan(this: Run, settings: dict) -> tuple[list[int], int]:
    """Indices of the items to ask, longest first, and how many were answered before. Deletes nothing."""
    rows = {} if this.args.overwrite else earlier_rows(this, settings)
    check_pictures(this, rows)
    left = [index for index, item in enumerate(this.items) if not this.is_done(rows.get(this.key(item), {}))]
    order = longest_first([this.messages_of(index) for index in left])
    return [left[place] for place in order], len(this.items) - len(left)


def earlier_rows(this: Run, settings: dict) -> dict[tuple, dict]:
    """The rows of the run that this one continues, by key. Raises InputError if it cannot continue them."""
    answers = this.args.answers_file
    rows = this.rows()
    if rows:
        earlier = manifest.read_manifest(answers)
        if earlier is None:
            raise InputError(
                f"{answers}: has answers but no manifest, so what gave them is not known; "
                "choose another path for the answers, or start anew with --overwrite"
            )
        manifest.check_same(answers, earlier, settings)
    return rows


def check_pictures(this: Run, rows: dict[tuple, dict]) -> None:
    """Raise InputError unless the pictures of all answered items are those that were answered."""
    answered = [index for index, item in enumerate(this.items) if this.is_done(rows.get(this.key(item), {}))]
    changed = []
    with ThreadPoolExecutor(8) as threads:
        hashes = threads.map(lambda index: hash_pictures(this.messages_of(index)), answered)
        bar = tqdm(hashes, "pictures of earlier answers", len(answered), leave=False, disable=not answered, unit="item")
        for index, found in zip(answered, bar, strict=True):
            recorded = rows[this.key(this.items[index])].get("image_sha256")
            if image_field(found).get("image_sha256") != recorded:
                changed.append(index)
    if changed:
        first = describe_key(this.items[changed[0]], this.benchmark.key)
        raise InputError(
            f"{this.args.answers_file}: the pictures of {len(changed)} answered items have changed or gone "
            f"(first: {first}); give the earlier ones, choose another path for the answers, or start anew with "
            "--overwrite"
        )


def ask(this: Run, settings: dict, order: list[int], done: int) -> float:
    """Load the model and let it answer this process's share of `order`; returns seconds spent on answers."""
    # torch and transformers take seconds to import; bad input is told before.
    from eval import generate
    from models.processors import aspect_ratio, set_aspect_ratio, set_pixel_bounds

    args, processes = this.args, this.processes

    if args.engine == "vllm":
        from eval import vllm_engine

    def load() -> tuple:
        if this.benchmark.attention and processes.rank == 0:
            tell_attention(this)
        if args.engine == "vllm":
            model, processor = vllm_engine.load(this, order)
        else:
            device = generate.choose_device(args.device, processes.local_rank, processes.local_count)
            model, processor = generate.load(
                args.model_path, device, args.position_balance, args.dtype, args.attn_implementation
            )
            set_pixel_bounds(processor, args.min_pixels, args.max_pixels, args.model_path)
        set_aspect_ratio(processor, args.image_aspect_ratio, this.benchmark.image_aspect_ratio)
        for part in picture_parts(this.messages_of(0)):
            if "image" in part:
                with contextlib.suppress(PictureError):  # of this one alone: an error of its row
                    part["image"]()  # a machine without the data set says so here, not as an error of each of its items
        return model, processor

    model, processor = processes.by_each(load)
    settings = settings | {
        "position_balance": model.config.position_balance,
        "model_revision": getattr(model.config, "_commit_hash", None),
        "tower_files": fingerprint_tower(Path(args.model_path)),
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attn_implementation": args.attn_implementation or model.config._attn_implementation,
        "generation": generate.make_greedy(model),
        "first_prompt": shown(generate.render(processor, this.messages_of(0))),
    }
    if aspect_ratio(processor):
        settings["image_aspect_ratio"] = aspect_ratio(processor)
    everyone = processes.gather(settings)
    processes.by_first(lambda: start_journal(this, everyone, done))

    mine = order[processes.rank :: processes.count]
    num_workers = args.num_workers
    if num_workers is None:
        num_workers = generate.default_workers(processes.local_count)
    measure = this.benchmark.measure or (vllm_engine.replies if args.engine == "vllm" else generate.replies)
    outcomes = processes.by_each(lambda: measure(this, model, processor, mine, num_workers))
    name = this.benchmark.name
    label = name if processes.count == 1 else f"{name}, process 1 of {processes.count}"
    bar = tqdm(total=len(mine), desc=label, unit="item", disable=processes.rank != 0)
    start = time.monotonic()
    # vLLM opens pictures in threads, and has its own rule for how many compute.
    threads = generate.threads_beside(0 if args.engine == "vllm" else num_workers, model.device)
    with bar, threads, journal.open_part(args.answers_file, processes.rank) as part:
        for batch in outcomes:
            journal.append_rows(part, [this.items[index] | outcome for index, outcome in batch.items()])
            bar.update(len(batch))
    return time.monotonic() - start


def tell_attention(this: Run) -> None:
    """Say which attention was asked for, by the flag or else by the checkpoint, if `benchmark.attention` is another."""
    from models.outline import load_outline

    used, asked = this.benchmark.attention, this.attention_asked
    where = f"--attn_implementation {asked}"
    if asked is None:
        config, _ = load_outline(this.args.model_path, with_processor=False)
        asked = config.get_text_config()._attn_implementation
        where = f'"attn_implementation": "{asked}" of the checkpoint\'s config.json'
    if asked not in (None, used):
        print(
            f"{this.benchmark.name}: {where} is not used: the model runs with {used}, and the weights of attention are "
            "computed beside it",
            flush=True,
        )


def start_journal(this: Run, everyone: list[dict], done: int) -> None:
    """Make sure that earlier answers are of this very run, and write the manifest before the first answer.

    `everyone` has the settings of each process: on several machines they may have other files or versions.
    """
    answers, settings = this.args.answers_file, everyone[0]
    for rank, others in enumerate(everyone):
        changes = differences(settings, others)
        if changes:
            raise InputError(
                f"process {rank + 1} of {len(everyone)} would answer otherwise than process 1 ({changes}); "
                "all need the same command, files and versions"
            )
    if this.args.overwrite:
        count = journal.discard(answers)
        print(f"{this.benchmark.name}: --overwrite: {count} earlier rows deleted; to continue this run, leave it out")
    rows = earlier_rows(this, settings)
    earlier = manifest.read_manifest(answers) if rows else None
    warning = manifest.write_manifest(answers, settings, earlier)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    balance = str(settings["position_balance"]).lower()
    print(
        f"{this.benchmark.name}: {len(this.items)} items, {done} answered before; {settings['dtype']} on "
        f"{settings['device']}, position_balance {balance}",
        flush=True,
    )


def finish(this: Run, done: int, seconds: float) -> int:
    """Write the answers file in the order of the items, say what came of the run, return the exit status."""
    answers, key = this.args.answers_file, this.benchmark.key
    again = "run the same command again" + (" without --overwrite" if this.args.overwrite else "")
    by_key = this.rows()
    missing = [item for item in this.items if this.key(item) not in by_key]
    if missing:
        raise InputError(
            f"{answers}: {len(missing)} items have no row (first: {describe_key(missing[0], key)}); "
            f"all processes must write to the same folder; {again}"
        )
    rows = [by_key[this.key(item)] for item in this.items]
    journal.finish(answers, rows)
    errors = [row for row in rows if not this.is_done(row)]
    new = len(rows) - done - len(errors)
    speed = f"; {new / seconds:.2f} items/s" if seconds else ""
    print(
        f"{this.benchmark.name}: {len(rows)} items: {new} new, {done} resumed, {len(errors)} errors{speed}; {answers}"
    )
    truncated = sum("truncated" in row for row in rows)
    if truncated:
        print(f"{this.benchmark.name}: {truncated} replies were cut at --max_new_tokens {this.args.max_new_tokens}")
    beyond = sum("beyond_context" in row for row in rows)
    if beyond:
        print(f"{this.benchmark.name}: {beyond} prompts are longer than max_position_embeddings in config.json")
    if this.benchmark.afterwards:
        this.benchmark.afterwards(this)
    if errors:
        first = f"{describe_key(errors[0], key)}: {errors[0]['error']}"
        told = f"{len(errors)} of {len(rows)} items have no answer (first: {first}); mend them and {again}"
        print(f"error: {printable(told)}", file=sys.stderr)
    return 1 if errors else 0
