"""The flag never lies: whatever builds, adapts, merges, saves or serves a checkpoint runs it as its files say.

One row is one way from a checkpoint to a model. Of each, the flag in force, the positions that the language model is
given and the files that are saved must agree. LLaMA-Factory, vLLM and lmms-eval themselves need environments of their
own: tests/run_llama_factory.py, tests/run_vllm.py and tests/run_lmms_eval.py hold the same of what they answer.
"""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM

from eval import generate
from models import load_model
from models.errors import InputError
from models.load import FORKS, register_auto_classes
from models.vllm_plugin import flag_of
from tests.pictures import picture
from train import merge_lora
from train.llama_factory import read_base, require_fork

# The two ways in which a fork is built, and the one that is a language model to Auto classes, too.
pytestmark = pytest.mark.parametrize("kit", ["llava", "qwen2_5_vl", "gemma3"], indirect=True)
ROW = (picture(80, 60, 1), "what is it?")
TARGETS = r".*language_model.*\.(q_proj|v_proj)"
LORA = {"r": 2, "target_modules": TARGETS, "init_lora_weights": False}


def edit(file: Path, **fields) -> None:
    values = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))


@pytest.fixture
def checkpoint(kit, tmp_path):
    """A function that copies the tiny checkpoint with a flag (...: none) in its config.json."""

    def copied(flag, name="checkpoint") -> Path:
        folder = Path(shutil.copytree(kit.folder, tmp_path / name))
        edit(folder / "config.json", position_balance=flag)
        return folder

    return copied


@pytest.fixture
def registered(monkeypatch):
    """transformers' Auto classes with the forks, for one test."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    autos = (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, transformers.AutoModelForCausalLM)
    for mapping in (CONFIG_MAPPING, *(auto._model_mapping for auto in autos)):
        monkeypatch.setattr(mapping, "_extra_content", dict(mapping._extra_content))
    for module in {id(module): module for module in (transformers, sys.modules["transformers"])}.values():
        for fork in FORKS.values():
            monkeypatch.setattr(module, fork.__name__, getattr(module, fork.__name__))
    register_auto_classes()


def is_balanced(kit, model) -> bool:
    """Whether the model's positions are BaPA's: by what its language model is given, not by what it says."""
    seen = []
    language = next(module for name, module in model.named_modules() if name.endswith("language_model"))
    hook = language.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("position_ids")), with_kwargs=True
    )
    inputs = kit.inputs(ROW)
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    ordinary = torch.arange(inputs["input_ids"].shape[1])[None]
    positions = seen[0]
    if positions is None or torch.equal(positions, ordinary):
        return False
    if not torch.equal(positions.reshape(-1, positions.shape[-1])[-1:], kit.reference_positions(inputs, [ROW])):
        return False  # (Qwen2.5-VL's own positions)
    return True


def by_load_model(folder):
    return load_model(folder, dtype="float32")[0]


def by_the_class(folder):
    return FORKS[json.loads((folder / "config.json").read_text())["model_type"]].from_pretrained(folder)


def by_architectures(folder):
    """As TRL builds what it is given by path, and the reference model of its DPO."""
    name = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    return getattr(sys.modules["transformers"], name).from_pretrained(folder)


def by_the_commands(folder):
    """As every command of eval/ does, and the model that lmms-eval is given."""
    return generate.load(str(folder), torch.device("cpu"), None, "float32", None)[0]


def by_llama_factory(folder):
    """As LLaMA-Factory builds it, with the check that train/llama_factory.py makes before a step is trained."""
    model = AutoModelForImageTextToText.from_pretrained(folder)
    require_fork(model, read_base({"model_name_or_path": str(folder)})["position_balance"])
    return model


def by_trl(folder):
    return pytest.importorskip("trl.trainer.utils").create_model_from_path(str(folder))


BUILDERS = {
    "load_model": by_load_model,
    "a command of eval, lmms-eval": by_the_commands,
    "LLaMA-Factory": by_llama_factory,
    "TRL, if it is installed": by_trl,
    "from_pretrained of the fork": by_the_class,
    "architectures of transformers": by_architectures,
    "AutoModelForImageTextToText": AutoModelForImageTextToText.from_pretrained,
    "AutoModelForMultimodalLM": AutoModelForMultimodalLM.from_pretrained,
    "AutoModel, without a head": AutoModel.from_pretrained,
}


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("way", BUILDERS)
def test_what_builds_a_checkpoint(kit, checkpoint, registered, way, flag, tmp_path):
    model = BUILDERS[way](checkpoint(flag)).eval()
    assert model.config.position_balance is flag
    assert is_balanced(kit, model) is flag
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["position_balance"] is flag


@pytest.mark.parametrize("flag", [True, False])
def test_what_vllm_serves(checkpoint, flag):
    """vLLM's own configuration of the checkpoint is asked, before it builds a model (models/vllm_plugin.py)."""
    folder = checkpoint(flag)
    config = transformers.AutoConfig.from_pretrained(folder)
    assert flag_of(SimpleNamespace(hf_config=config, model=folder)) is flag


def from_plain_peft(model, folder):
    get_peft_model(model, LoraConfig(**LORA)).save_pretrained(folder)


def from_plain_peft_for_a_task(model, folder):
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **LORA)).save_pretrained(folder)


def from_transformers(model, folder):
    model.add_adapter(LoraConfig(**LORA))
    model.save_pretrained(folder)


ADAPTERS = {
    "PEFT": from_plain_peft,
    "PEFT, with a task": from_plain_peft_for_a_task,
    "add_adapter of transformers": from_transformers,
}


@pytest.mark.parametrize(("way", "override"), [("PEFT", False), *((way, True) for way in ADAPTERS)])
def test_adapters_load_and_merge_as_they_were_trained(kit, checkpoint, tmp_path, way, override):
    """Also where the flag was only given to load_model and the base's own config.json says the opposite."""
    flag = True
    base = checkpoint(not flag if override else flag)
    trained, processor = load_model(base, position_balance=flag, dtype="float32")
    ADAPTERS[way](trained, tmp_path / "adapter")
    loaded, _ = load_model(tmp_path / "adapter", dtype="float32")
    assert isinstance(loaded, PeftModel)
    assert loaded.config.position_balance is flag
    assert is_balanced(kit, loaded) is flag
    inputs = kit.inputs(ROW)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, trained.eval()(**inputs).logits)
    edit(base / "config.json", position_balance=flag)  # merging wants the two to agree
    merged = tmp_path / "merged"
    assert merge_lora.main(["--model_path", str(tmp_path / "adapter"), "--save_model_path", str(merged)]) == 0
    assert json.loads((merged / "config.json").read_text())["position_balance"] is flag
    assert is_balanced(kit, load_model(merged, dtype="float32")[0]) is flag


def test_adapters_beside_the_first_have_the_flag_too(kit, tmp_path):
    model = get_peft_model(load_model(kit.folder, position_balance=True)[0], LoraConfig(**LORA))
    model.add_adapter("second", LoraConfig(**LORA))
    model.save_pretrained(tmp_path)
    for folder in (tmp_path, tmp_path / "second"):
        assert json.loads((folder / "config.json").read_text())["position_balance"] is True


def test_an_adapter_that_does_not_say(kit, checkpoint, tmp_path, caplog):
    """Of a fork: refused. Of other programs, which have the original model only: the base's flag, with a notice."""
    base, adapter = checkpoint(True), tmp_path / "adapter"
    from_plain_peft(load_model(base)[0], adapter)
    (adapter / "config.json").unlink()
    with pytest.raises(InputError, match="does not say with which position_balance it was trained; give"):
        load_model(adapter)
    for flag in (True, False):
        assert load_model(adapter, position_balance=flag)[0].config.position_balance is flag
    edit(adapter / "adapter_config.json", auto_mapping=None)
    assert load_model(adapter)[0].config.position_balance is True
    assert "does not say with which position_balance it was trained: the base's is used" in caplog.text


def test_a_flag_in_the_wrong_place(kit, checkpoint):
    folder = checkpoint(...)
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config=config["text_config"] | {"position_balance": True})
    for given in (None, False):
        with pytest.raises(InputError, match='"position_balance" stands in text_config; write it at the top'):
            load_model(folder, position_balance=given)


def test_names_of_other_modules_stay(kit, registered):
    """What transformers has elsewhere is upstream's, and works as before."""
    theirs = type(kit.upstream)
    mine = getattr(sys.modules["transformers"], theirs.__name__)
    assert mine is FORKS[kit.fork.config.model_type]
    assert mine is not theirs
    assert issubclass(mine, theirs)
