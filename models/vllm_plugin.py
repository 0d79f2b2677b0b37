"""vLLM runs BaPA wherever config.json says `"position_balance": true`; anything else is vLLM's own model.

    vllm serve checkpoints/llava-1.5-7b-hf

Nothing is to be called: vLLM finds `register` by the entry point of group `vllm.general_plugins` and calls it in each
of its processes. All of vLLM that is touched here is named in HOOKS below; it was read in the versions of CHECKED.
"""

import contextlib
import importlib.util
import logging
from pathlib import Path

logger = logging.getLogger(__name__)

# First and last release in which the hooks were read.
CHECKED = ("0.32", "0.33")
# vLLM's class (`architectures` of config.json) -> ours.
ARCHITECTURES = {
    "LlavaForConditionalGeneration": "BalancedLlava",
    "LlavaNextForConditionalGeneration": "BalancedLlavaNext",
    "Qwen2_5_VLForConditionalGeneration": "BalancedQwen2_5_VL",
    "Gemma3ForConditionalGeneration": "BalancedGemma3",
}
# Drafts that need no model, and so no positions of one.
MODELLESS_DRAFTS = ("ngram", "ngram_gpu", "suffix")
CONVERT = (
    """python -c 'from models import load_model; [part.save_pretrained("{to}") for part in load_model("{path}")]'"""
)


def register() -> None:
    """Make this process's vLLM read the flag; may be called any number of times. Without vLLM it does nothing.

    vLLM logs what a plug-in raises and goes on. So that no balanced checkpoint is then served with ordinary positions,
    none can be read in this process any more.
    """
    if importlib.util.find_spec("vllm") is None:
        return
    try:
        register_hooks()
    except Exception as error:
        refuse_balanced_checkpoints(" ".join(str(error).split()) or type(error).__name__)
        raise


def register_hooks() -> None:
    """Put ours into vLLM's tables of models, settings and readers."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
    from vllm.transformers_utils import config as config_readers

    for name in ARCHITECTURES.values():
        ModelRegistry.register_model(name, f"models.vllm_models:{name}")
    # HOOKS. The two are vLLM's own tables, of what to change in the settings of an architecture, and of readers of
    # config.json by format.
    for architecture in ModelRegistry.get_supported_archs():
        upstream = MODELS_CONFIG_MAP.get(architecture, VerifyAndUpdateConfig)
        if not hasattr(upstream, "reads_position_balance"):
            MODELS_CONFIG_MAP[architecture] = _reading_flag(upstream, ARCHITECTURES.get(architecture))
    readers = config_readers._CONFIG_FORMAT_TO_CONFIG_PARSER
    if not hasattr(readers["hf"], "refuses_original_layout"):
        readers["hf"] = _refusing_original_layout(readers["hf"])


def refuse_balanced_checkpoints(reason: str) -> None:
    """Make transformers, which reads every config.json for vLLM, refuse those with the flag on; `reason` is told."""
    from transformers import PreTrainedConfig

    from models.errors import InputError

    read = PreTrainedConfig.get_config_dict.__func__

    def get_config_dict(cls, path, **arguments):
        from models.load import flag_in  # the flag's owner

        config, rest = read(cls, path, **arguments)
        if flag_in(str(path), config):
            raise InputError(
                f"{path}/config.json: position_balance is true, but this vLLM cannot run it ({reason}); install "
                f"vLLM {CHECKED[0]} to {CHECKED[1]}, or write false"
            )
        return config, rest

    PreTrainedConfig.get_config_dict = classmethod(get_config_dict)


def _reading_flag(upstream: type, balanced: str | None) -> type:
    """`upstream`'s changes to the settings of an architecture, then ours if the flag is on."""

    class Settings(upstream):
        reads_position_balance = True

        @staticmethod
        def verify_and_update_model_config(model_config) -> None:
            upstream.verify_and_update_model_config(model_config)
            if flag_of(model_config):
                switch_on(model_config, balanced)

        @staticmethod
        def verify_and_update_config(vllm_config) -> None:
            upstream.verify_and_update_config(vllm_config)
            flag = flag_of(vllm_config.model_config)
            if flag:
                check_run(vllm_config)
            if balanced is not None and vllm_config.lora_config is not None:
                # vLLM reads an adapter's weights only, request by request, where this is long settled.
                logger.warning(
                    "adapters run with position_balance %s, as the base does; what their own config.json says is not "
                    "read (--hf-overrides changes it for all)",
                    str(flag).lower(),
                )

    return Settings


def _refusing_original_layout(upstream: type) -> type:
    """`upstream`, a reader of config.json, which first looks whether it is of the LLaVA code base."""

    class Reader(upstream):
        refuses_original_layout = True

        def parse(self, model, trust_remote_code, revision=None, code_revision=None, **kwargs):
            from transformers import PreTrainedConfig

            config = {}
            with contextlib.suppress(OSError, ValueError):  # which `upstream` will tell
                config, _ = PreTrainedConfig.get_config_dict(model, revision=revision)
            refuse_original_layout(str(model), config)
            return super().parse(model, trust_remote_code, revision, code_revision, **kwargs)

    return Reader


def flag_of(model_config) -> bool:
    """`position_balance` of config.json, or of --hf-overrides; InputError unless it is a JSON boolean."""
    hf_config = model_config.hf_config
    if not hasattr(hf_config, "position_balance"):
        return False
    # The flag's owner; it imports torch, transformers and peft, which no other model shall wait for.
    from models.load import read_flag

    return read_flag(str(model_config.model), {"position_balance": hf_config.position_balance})


def switch_on(model_config, balanced: str | None) -> None:
    """Let vLLM build class `balanced` of models/vllm_models.py and ask it for positions. InputError where it cannot."""
    from vllm import __version__

    from models.errors import InputError

    hf_config, path = model_config.hf_config, model_config.model
    if balanced is None:
        raise InputError(
            f"{path}/config.json: position_balance is true, but vLLM's {model_config.architecture} has no counterpart "
            f"here; supported: {', '.join(ARCHITECTURES)}, each with vLLM's own code (no --model-impl transformers)"
        )
    if getattr(model_config, "enable_prompt_embeds", False):
        raise InputError(f"{path}: position_balance is true: leave out --enable-prompt-embeds, which hides the images")
    multimodal = model_config.multimodal_config
    if multimodal is not None and multimodal.is_multimodal_pruning_enabled():
        raise InputError(f"{path}: position_balance is true: leave out --video-pruning-rate, which moves positions")
    hf_config.architectures = [balanced]
    if not model_config.uses_mrope:
        # Of the whole, not of the language model, whose own rotations stay as they are: the sizes are not read.
        hf_config.mrope_section = [1, 1, 1]
    if not model_config.uses_mrope:
        raise InputError(f"{path}: position_balance is true, but vLLM {__version__} would not ask for positions")
    release = ".".join(__version__.split(".")[:2])
    if release not in CHECKED and not __version__.startswith("0.0"):
        logger.warning("position_balance: written for vLLM %s to %s, this is %s", *CHECKED, __version__)
    logger.info("position_balance is true: %s", balanced)


def check_run(vllm_config) -> None:
    """InputError for what reads positions beside the model and would read them wrongly."""
    from models.errors import InputError

    speculative = vllm_config.speculative_config
    if speculative is not None and speculative.method not in MODELLESS_DRAFTS:
        raise InputError(
            f"position_balance is true: speculative decoding by {speculative.method!r} would draft on ordinary "
            f"positions; use one of {', '.join(MODELLESS_DRAFTS)}, or none"
        )


def refuse_original_layout(path: str, config: dict) -> None:
    """InputError, with the command that converts it, for a config.json of the LLaVA code base."""
    if not str(config.get("model_type")).startswith("llava"):
        return
    from models.errors import InputError
    from models.llava_original import is_original_layout

    if is_original_layout(config):
        folder = Path(path)
        output = f"{folder}-hf" if folder.is_dir() else f"{folder.name}-hf"
        raise InputError(
            f"{path}: in the original LLaVA layout, which vLLM does not read; convert it once: "
            f"{CONVERT.format(path=path, to=output)}"
        )
