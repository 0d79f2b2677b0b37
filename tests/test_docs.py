"""What the documentation promises: commands run, scripts explain themselves, packages are ours."""

import importlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from data.miniature_world import concepts
from eval import miniature_page, performance_page
from tests.probe_runs import run_here, write_probe
from train import sft

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(
    path.relative_to(ROOT)
    for folder in ("models", "data", "eval", "train")
    for path in (ROOT / folder).glob("*.py")
    if "run_script(main)" in path.read_text()
)


def commands(page: Path) -> list[str]:
    """The command lines in a page's ```sh blocks, comments and continuation lines resolved."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"\s#.*", "", line).strip() for line in lines) if line]


def status_of(words: list[str], monkeypatch) -> int:
    """Exit status of `python <words>` in the present folder. In this process: starting one takes longer than most."""
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(words[0], run_name="__main__")
    return ended.value.code or 0


def test_readme_python_commands_run_in_their_order(tmp_path, monkeypatch):
    """From data to heat map, as the README prints them, in an empty folder with the repository's files in view."""
    monkeypatch.chdir(tmp_path)
    for name in ("data", "eval", "models", "train"):
        (tmp_path / name).symlink_to(ROOT / name)
    lines = [line for line in commands(ROOT / "README.md") if line.startswith("python ") and "-m venv" not in line]
    assert len(lines) >= 7
    for line in lines:
        words = shlex.split(line)[1:]
        # Data, weights and software that cannot be had here, and what would come of them.
        absent = ("playground/", "score.py scienceqa", "qwen2_5_vl_lora", "--engine vllm")
        if any(missing in line for missing in absent):
            words = [words[0], "--help"]
        if words[0] == "eval/probe.py":
            words += ["--max_new_tokens", "2"]  # random weights ramble
        assert status_of(words, monkeypatch) == 0, line
    assert (tmp_path / "results/samples/on.png").stat().st_size > 10_000


def test_readme_names_real_files():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"`((?:models|data|eval|train|configs|scripts|docs)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    for line in commands(ROOT / "README.md"):
        if line.startswith("sh "):
            assert (ROOT / shlex.split(line)[1]).is_file(), line
    assert commands(ROOT / "data/samples/README.md") == [
        line for line in commands(ROOT / "README.md") if line.startswith("python data/build_")
    ]


@pytest.mark.parametrize(
    ("page", "results", "words"),
    [
        (miniature_page, "miniature", ["--results_dir", "docs/miniature", "--findings", "docs/miniature/findings.md"]),
        (
            performance_page,
            "performance",
            ["--results_file", "docs/performance_cpu.json", "--findings", "docs/performance_findings.md"],
        ),
    ],
    ids=["miniature", "performance"],
)
def test_pages_are_made_of_their_saved_results(page, results, words, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    page.main([*words, "--output", str(tmp_path / f"{results}.md")])
    assert (tmp_path / f"{results}.md").read_text() == (ROOT / f"docs/{results}.md").read_text()
    figures = [
        {path.name: drawn(path) for path in folder.glob(f"{results}*.svg")} for folder in (tmp_path, ROOT / "docs")
    ]
    assert figures[0] == figures[1]


def drawn(figure: Path) -> str:
    """An SVG without the colour bars in it, whose compression may differ between machines."""
    return re.sub(r'"data:image/png;base64,[^"]*"', "", figure.read_text())


def test_readme_figures_are_small_and_drawn_by_a_script():
    figures = re.findall(r"!\[(.+?)\]\((docs/.+?)\)", (ROOT / "README.md").read_text())
    script = (ROOT / "scripts/figures.sh").read_text()
    assert len(figures) >= 3
    for words, path in figures:
        assert len(words) > 20
        assert (ROOT / path).stat().st_size < 150_000, path
        drawn = path.replace("docs/", "$FIGURES/")
        assert drawn in script or drawn.replace(".svg", ".md") in script, "a page's figures come beside it"


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_scripts_explain_themselves(script, monkeypatch, capsys):
    """A docstring with a command that names the script, and --help that ends well, from any folder."""
    source = (ROOT / script).read_text()
    docstring = importlib.import_module(str(script.with_suffix("")).replace("/", ".")).__doc__
    assert f"python {script}" in docstring
    assert source.rstrip().endswith('if __name__ == "__main__":\n    run_script(main)')
    monkeypatch.chdir("/")
    assert status_of([str(ROOT / script), "--help"], monkeypatch) == 0
    assert "usage: " in capsys.readouterr().out


@pytest.mark.parametrize("script", ["models/tiny.py", "data/build_probe.py", "eval/score.py", "train/costs.py"])
def test_scripts_start_in_any_folder(script):
    result = subprocess.run([sys.executable, ROOT / script, "--help"], cwd="/", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_scripts_were_found():
    names = {str(script) for script in SCRIPTS}
    assert names >= {"models/tiny.py", "data/build_probe.py", "eval/probe.py", "eval/metrics.py"}


@pytest.mark.parametrize("package", ["models", "data", "eval", "train"])
def test_packages_are_of_this_repository(package):
    """Another `models` in site-packages would win silently."""
    assert Path(importlib.import_module(package).__file__).resolve().parent == ROOT / package


def test_no_module_hides_another():
    """Python puts a script's folder first on the path: its neighbours must not bear a library's name."""
    taken = sys.stdlib_module_names | {
        "torch",
        "transformers",
        "peft",
        "datasets",
        "PIL",
        "numpy",
        "matplotlib",
        "tqdm",
        "deepspeed",
        "accelerate",
        "yaml",
    }
    for folder in ("models", "data", "eval", "train"):
        assert not {path.stem for path in (ROOT / folder).glob("*.py")} & (taken | {folder})


def test_models_and_benchmarks_do_not_know_each_other():
    """No name of a family in the code of eval/, nor a string that is one; a help text may name a code base."""
    families = re.compile("llava|qwen|gemma|vicuna|mistral", re.IGNORECASE)
    for path in (ROOT / "eval").glob("**/*.py"):
        with open(path, "rb") as file:
            tokens = [
                token for token in tokenize.tokenize(file.readline) if token.type in (tokenize.NAME, tokenize.STRING)
            ]
        for token in tokens:
            is_word = token.type == tokenize.NAME or re.fullmatch(r"""["'][a-z0-9_.-]+["']""", token.string)
            assert not (is_word and families.search(token.string)), f"{path}, line {token.start[0]}: {token.string}"
    for path in (ROOT / "models").glob("*.py"):
        assert not re.search(r"\b(probe|scienceqa|crpe|hallusionbench|mme)\b", path.read_text().lower()), path


def test_the_flag_has_one_reader():
    """Design law 1: only models/load.py looks at config.json's `position_balance`."""
    readers = {
        str(path.relative_to(ROOT))
        for folder in ("models", "data", "eval", "train")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"""(\[|get\()["']position_balance["']""", path.read_text())
    }
    # The harness reads its own manifest; train/llama_factory.py asks models/load.py and keeps the answer in a dict.
    assert readers <= {"models/load.py", "eval/harness.py", "train/llama_factory.py"}


@pytest.mark.parametrize("family", ["", "llava_next_mistral"])
def test_quickstart_runs_the_main_job(family, tmp_path):
    """The first command of the README, with what is installed here; the bundled model is as good as its card says."""
    environment = os.environ | {"RESULTS": "here", "VIRTUAL_ENV": sys.prefix, "FAMILY": family, "CAPTIONS": "15"}
    environment["INSTALL"] = "no"
    command = ["sh", ROOT / "scripts/quickstart.sh", *(("--limit", "90") if family else ())]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert ("random weights" if family else "trained with the flag off") in result.stdout
    assert "accuracy by cell" in result.stdout
    (answers,) = (tmp_path / "here").glob("answers-*")
    assert (answers / "heatmap.png").stat().st_size > 10_000
    assert "<h1>Spatial bias report</h1>" in (answers / "report.html").read_text()
    assert f"{answers}/report.html" in result.stdout
    runs = json.loads((answers / "metrics.json").read_text())["runs"]
    assert all(run["unreadable"] < 0.2 * run["scored"] for run in runs)
    off, on = ((answers / f"balance-{flag}.jsonl").read_text() for flag in ("false", "true"))
    assert off != on
    if not family:
        assert runs[0]["numbers"]["balanced_accuracy"]["value"] >= 90
        trained = {concept.caption for concept in concepts("train")}
        assert not trained & {json.loads(line)["caption"] for line in off.splitlines()}


def test_tiny_recipes_run_as_the_readme_prints_them(tmp_path, monkeypatch):
    """All seven recipes end to end, in an empty checkout; then the merged model is asked.

    Through the shell scripts; those of LoRA but one as what the script starts, which is the same for all.
    """
    for name in ("configs", "data", "eval", "models", "train", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix, "INSTALL": "no", "NUM_PROCESSES": "1"}
    lines = [line for line in commands(ROOT / "README.md") if "tiny_" in line and "scripts/" in line]
    recipes = {path.stem for path in (ROOT / "configs/train").glob("tiny_*.yaml")}
    assert {name for line in lines for name in re.findall(r"tiny_\w+", line)} >= recipes
    assert {f"tiny_{path.stem}" for path in (ROOT / "configs/train").glob("[!t]*.yaml")} == recipes
    monkeypatch.chdir(tmp_path)
    for line in lines:
        recipe = line.removeprefix("sh scripts/finetune_lora.sh ")
        if recipe != line and recipe != "tiny_qwen2_5_vl_lora":
            assert not sft.main(["--config", f"configs/train/{recipe}.yaml", "--resume", "auto"])
            continue
        result = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"
    for recipe in recipes:
        assert (tmp_path / "checkpoints" / recipe / "training.json").is_file()
        assert (tmp_path / "checkpoints" / recipe / "loss.png").stat().st_size > 10_000
    probe = write_probe(tmp_path / "probe")
    for checkpoint in ("tiny_llava_1_5_finetune", "tiny_qwen2_5_vl_lora-merged"):
        assert run_here(tmp_path / "checkpoints" / checkpoint, probe, tmp_path / f"{checkpoint}.jsonl") == 0
