"""Model `bapa` of lmms-eval: any checkpoint that models/load.py takes, flag off or on, one process a GPU."""

import multiprocessing
from collections import defaultdict
from functools import partial
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.utils import simple_parse_args_string
from loguru import logger
from tqdm import tqdm

from eval import generate
from eval.items import prompt_length
from eval.lmms_eval_plugin.arguments import read_arguments
from eval.lmms_eval_plugin.loud import loud
from eval.lmms_eval_plugin.questions import ReplySettings, chat_question, reply_settings, simple_question
from eval.processes import Processes
from models.errors import InputError
from models.processors import set_aspect_ratio, set_pixel_bounds


class Bapa(lmms):
    """Greedy replies to lmms-eval's chat messages.

    `arguments`: eval/lmms_eval_plugin/arguments.py. Raises InputError for bad ones and for what
    `eval.generate.load` refuses; the methods that lmms-eval calls end the process instead (loud.py).
    """

    is_simple = False

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        settings = read_arguments(arguments)
        processes = Processes()
        self._rank, self._world_size = processes.rank, processes.count
        self._batch_size, self._max_new_tokens = settings.batch_size, settings.max_new_tokens
        # Requests hold functions of the task, which only a fork takes along.
        forks = multiprocessing.get_start_method() == "fork"
        self._num_workers = generate.default_workers(processes.local_count) if forks else 0

        def load() -> tuple:
            device = generate.choose_device(settings.device, processes.local_rank, processes.local_count)
            options = (settings.position_balance, settings.dtype, settings.attn_implementation)
            model, processor = generate.load(settings.pretrained, device, *options)
            set_pixel_bounds(processor, settings.min_pixels, settings.max_pixels, settings.pretrained)
            set_aspect_ratio(processor, settings.image_aspect_ratio)
            return model, processor

        # lmms-eval has connected the processes by now.
        self._model, self._processor = processes.by_each(load)
        self._device = self._model.device
        generate.make_greedy(self._model)
        self._warned: set[tuple] = set()
        if self.rank == 0:
            balance = str(self._model.config.position_balance).lower()
            dtype = str(self._model.dtype).removeprefix("torch.")
            logger.info(f"bapa: {settings.pretrained}, {dtype} on {self._device.type}, position_balance {balance}")

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> "Bapa":
        """What lmms-eval calls: --model_args, and its own flags --batch_size and --device, which those override."""
        with loud():
            flags = {name: value for name, value in (additional_config or {}).items() if value is not None}
            return cls(**(flags | simple_parse_args_string(arg_string)))

    @property
    def device(self):
        """Where lmms-eval puts what its processes tell each other."""
        return self._device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The replies, in the order of the requests. A question that cannot be asked ends the process."""
        with loud():
            return self._replies(requests)

    def loglikelihood(self, requests: list[Instance]):
        """Refused."""
        self._refuse(requests, "log-likelihoods of given texts")

    def generate_until_multi_round(self, requests: list[Instance]):
        """Refused."""
        self._refuse(requests, "several rounds")

    def _question(self, request: Instance) -> list[dict]:
        _, to_messages, _, doc_id, task, split = request.args
        return chat_question(task, to_messages(self.task_dict[task][split][doc_id]))

    def _generation_kwargs(self, request: Instance) -> dict:
        return request.args[2]

    def _replies(self, requests: list[Instance]) -> list[str]:
        settings = [self._settings(request) for request in requests]
        reading = tqdm(requests, "bapa: questions", leave=False, disable=self.rank != 0)
        lengths = [prompt_length(self._question(request)) for request in reading]
        by_limit = defaultdict(list)
        for index in sorted(range(len(requests)), key=lengths.__getitem__, reverse=True):
            by_limit[settings[index].max_new_tokens].append(index)
        replies = {}
        with tqdm(total=len(requests), desc="bapa: replies", disable=self.rank != 0) as bar:
            for limit, order in by_limit.items():
                for found in self._outcomes(requests, order, limit):
                    for index, outcome in found.items():
                        if "error" in outcome:
                            request = requests[index]
                            raise InputError(f"task {request.task_name}, document {request.doc_id}: {outcome['error']}")
                        replies[index] = settings[index].cut(outcome["prediction"])
                    bar.update(len(found))
        return [replies[index] for index in range(len(requests))]

    def _outcomes(self, requests: list[Instance], order: list[int], max_new_tokens: int):
        return generate.outcomes(
            self._model,
            self._processor,
            lambda index: self._question(requests[index]),
            order,
            self._batch_size,
            self._num_workers,
            partial(generate.reply_to, self._model, self._processor, max_new_tokens, False),
        )

    def _settings(self, request: Instance) -> ReplySettings:
        settings = reply_settings(request.task_name, self._generation_kwargs(request), self._max_new_tokens)
        news = (request.task_name, settings.unused)
        if self.rank == 0 and settings.unused and news not in self._warned:
            self._warned.add(news)
            logger.warning(f"bapa: task {news[0]}: generation_kwargs {', '.join(settings.unused)} have no effect")
        return settings

    def _refuse(self, requests: list[Instance], what: str) -> None:
        with loud():
            raise InputError(f"task {requests[0].task_name}: asks for {what}; model bapa gives greedy replies only")


class SimpleBapa(Bapa):
    """The same for contexts with visuals, by which descriptions and few-shot examples reach the model, too."""

    is_simple = True

    def _question(self, request: Instance) -> list[dict]:
        context, _, to_visuals, doc_id, task, split = request.args
        return simple_question(task, context, to_visuals(self.task_dict[task][split][doc_id]))

    def _generation_kwargs(self, request: Instance) -> dict:
        return request.args[1]
