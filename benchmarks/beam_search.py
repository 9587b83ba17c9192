"""Compare the package's beam search with transformers' generate, restricted by prefix_allowed_tokens_fn, and with vLLM.

    python benchmarks/beam_search.py [--dataset games --data_path PATH] [--num_beams 4 10 20] [--batches 4]
    python benchmarks/beam_search.py --name beam-search-smollm2 --llm_path=FILE.gguf --checkpoint_dir=FOLDER

All generate titles of the catalogue for the same test queries, in turn, with the language model before fine-tuning; a
batch is the package's, of eval_batch_size queries. Any configuration key can follow. vLLM is left out if it is not
installed. Prints a table and writes it to benchmarks/results/beam-search.md, or --name.
"""

import argparse
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from importlib.util import find_spec
from operator import eq
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import common
import torch
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic
from transformers import GenerationConfig

from recbole_dealrec.config import Config
from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.model import BIGRec
from recbole_dealrec.model.bigrec.collation import collate
from recbole_dealrec.model.bigrec.llm import longest_row
from recbole_dealrec.model.decoding.beam_search import beam_search
from recbole_dealrec.model.decoding.trie import TokenTrie
from recbole_dealrec.model.loss import vocabulary_size

Batch = Mapping[str, Tensor]
Titles = list[list[tuple[int, ...]]]
Writer = Callable[[Batch, int], Titles]
PACKAGE = "package"
# vLLM runs in this process, with its threads, and asks no server.
VLLM_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
}  # fmt: skip


class Measured(NamedTuple):
    """Seconds of each writer, and the shares of the package's titles that it has: at the same place, and anywhere."""

    num_beams: int
    seconds: dict[str, float]
    alike: dict[str, float]
    shared: dict[str, float]


class Catalogue:
    """The titles that may be generated for a recommender, as token ids.

    Args:
        llm: recommender whose network generates.
    """

    def __init__(self, llm: BIGRec) -> None:
        self.end, self.pad = llm.encoder.end_token_id, llm.tokenizer.eos_token_id
        self.titles = [llm.encoder.response(item) for item in range(1, llm.n_items)]
        self.depth = max(map(len, self.titles))

    def title(self, tokens: list[int]) -> tuple[int, ...]:
        """Return generated tokens up to the end token."""
        return tuple(tokens[: tokens.index(self.end)] if self.end in tokens else tokens)


class Package:
    """The package's beam search.

    Args:
        network: language model that generates.
        catalogue: its titles.
    """

    def __init__(self, network: nn.Module, catalogue: Catalogue) -> None:
        self._network, self._catalogue = network, catalogue
        self._trie = TokenTrie(catalogue.titles, vocabulary_size(network)).to(network.device)

    def __call__(self, batch: Batch, num_beams: int) -> Titles:
        sequences, _ = beam_search(
            self._network, batch["input_ids"], batch["attention_mask"], num_beams=num_beams,
            max_new_tokens=self._trie.depth, eos_token_id=self._catalogue.end, pad_token_id=self._catalogue.pad,
            trie=self._trie,
        )  # fmt: skip
        return [[self._catalogue.title(tokens) for tokens in row] for row in sequences.tolist()]


class Generate:
    """``generate`` of transformers.

    Args:
        llm: recommender whose network generates.
        catalogue: its titles.
        queries: queries of a call, if memory does not suffice for a whole batch; 0 for all.
    """

    def __init__(self, llm: BIGRec, catalogue: Catalogue, queries: int) -> None:
        self._network, self._catalogue, self._queries = llm.network, catalogue, queries
        allowed = defaultdict(set)
        for title in catalogue.titles:
            for length, token in enumerate(title):
                allowed[tuple(title[:length])].add(token)
        self._allowed = {beginning: sorted(tokens) for beginning, tokens in allowed.items()}

    def __call__(self, batch: Batch, num_beams: int) -> Titles:
        size = self._queries or len(batch["input_ids"])
        starts = range(0, len(batch["input_ids"]), size)
        parts = [{name: rows[start : start + size] for name, rows in batch.items()} for start in starts]
        return [titles for part in parts for titles in self._titles(part, num_beams)]

    @torch.no_grad()
    def _titles(self, batch: Batch, num_beams: int) -> Titles:
        padding = int(batch["attention_mask"].any(0).int().argmax())  # of all queries of this part
        prompts, mask = (batch[name][:, padding:] for name in ("input_ids", "attention_mask"))
        width = prompts.shape[1]
        settings = GenerationConfig(
            num_beams=num_beams, num_return_sequences=num_beams, length_penalty=0.0, early_stopping=False,
            do_sample=False, max_new_tokens=self._catalogue.depth, eos_token_id=self._catalogue.end,
            pad_token_id=self._catalogue.pad,
        )  # fmt: skip
        sequences = self._network.generate(
            input_ids=prompts, attention_mask=mask, generation_config=settings,
            prefix_allowed_tokens_fn=lambda _, tokens: self._allowed.get(
                tuple(tokens[width:].tolist()), [self._catalogue.end]
            ),
        )  # fmt: skip
        titles = [self._catalogue.title(tokens) for tokens in sequences[:, width:].tolist()]
        return [titles[start : start + num_beams] for start in range(0, len(titles), num_beams)]


class VLLM:
    """vLLM's beam search with a grammar of token ids, whose alternatives are the titles.

    It continues a beam with the allowed ones of the 2 ``num_beams`` tokens that are likeliest in the whole vocabulary,
    so it can miss titles.

    Args:
        llm: recommender whose network, without LoRA, generates.
        catalogue: its titles.
        num_beams: most beams.
    """

    def __init__(self, llm: BIGRec, catalogue: Catalogue, num_beams: int) -> None:
        os.environ.update(VLLM_SETTINGS)
        from vllm import LLM

        base = llm.network.get_base_model()
        self._catalogue = catalogue
        alternatives = {" ".join(f"<[{token}]>" for token in title[:-1]) for title in catalogue.titles}
        self._grammar = f"start: {' | '.join(sorted(alternatives))}"
        self._engine = LLM(
            base.name_or_path, dtype=str(base.dtype).removeprefix("torch."), max_logprobs=2 * num_beams,
            max_model_len=min(longest_row(base.config), llm.config["max_prompt_length"] + catalogue.depth),
            enforce_eager=True, structured_outputs_config={"backend": "guidance"},
        )  # fmt: skip

    def __call__(self, batch: Batch, num_beams: int) -> Titles:
        from vllm.sampling_params import BeamSearchParams, StructuredOutputsParams

        self._engine.reset_prefix_cache()  # which holds the prompts of an earlier call
        pairs = zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
        prompts = [ids[seen].tolist() for ids, seen in pairs]
        settings = BeamSearchParams(
            beam_width=num_beams, max_tokens=self._catalogue.depth, length_penalty=0.0,
            structured_outputs=StructuredOutputsParams(grammar=self._grammar),
        )  # fmt: skip
        found = self._engine.beam_search([{"prompt_token_ids": prompt} for prompt in prompts], settings)
        rows = [
            [self._catalogue.title(beam.tokens[len(prompt) :]) for beam in output.sequences]
            for prompt, output in zip(prompts, found, strict=True)
        ]
        return [[*row, *[()] * (num_beams - len(row))] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--num_beams", type=int, nargs="+", default=[4, 10, 20])
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--generate_queries", type=int, default=0, help="queries of a call of generate; 0: a batch")
    parser.add_argument("--name", default="beam-search", help="name of the page")
    arguments, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        given = parse_command_line(rest)
        keys = {"checkpoint_dir": folder, "show_progress": False, **given}
        config = Config("BIGRec", arguments.dataset, config_dict=keys)
        splits = load_splits(config)
        llm = BIGRec(config, splits.train).eval()
        batches = list(query_batches(llm, CandidateSamples.from_dataset(splits.test), arguments.batches))
        writers = writers_of(llm, arguments.generate_queries, max(arguments.num_beams))
        for write in writers.values():
            write({name: rows[:1] for name, rows in batches[0].items()}, min(arguments.num_beams))  # warm-up
        rows = [measure(writers, batches, num_beams) for num_beams in arguments.num_beams]
    common.write(arguments.name, report(llm, given, len(batches), arguments.generate_queries, rows))


def writers_of(llm: BIGRec, generate_queries: int, most_beams: int) -> dict[str, Writer]:
    """Return the ways to generate titles, by name, the package's first; with fewer bits, its network is a copy."""
    catalogue, plain = Catalogue(llm), deepcopy(llm.network).unload()  # LoRA changes nothing yet
    int8 = deepcopy(plain).float()
    quantize_dynamic(int8.base_model, {nn.Linear}, torch.qint8, inplace=True)  # all but the head
    writers = {
        PACKAGE: Package(llm.network, catalogue),
        "package, bfloat16": Package(plain.bfloat16(), catalogue),
        "package, int8": Package(int8, catalogue),
        "generate": Generate(llm, catalogue, generate_queries),
    }
    return {**writers, "vLLM": VLLM(llm, catalogue, most_beams)} if find_spec("vllm") else writers


def query_batches(llm: BIGRec, samples: CandidateSamples, count: int) -> Iterator[dict[str, Tensor]]:
    size = llm.config["eval_batch_size"]
    for start in range(0, count * size, size):
        prompts = llm.encoder.prompts([samples.history(row) for row in range(start, start + size)])
        batch = collate(prompts, None, llm.tokenizer.eos_token_id)
        yield {name: tensor.to(llm.device) for name, tensor in batch.items()}


def measure(writers: Mapping[str, Writer], batches: list[Batch], num_beams: int) -> Measured:
    """Let all writers generate the titles of each batch, in turn."""
    seconds, same, shared, titles = Counter(), Counter(), Counter(), 0
    for batch in batches:
        written = {}
        for name, write in writers.items():
            start = perf_counter()
            written[name] = write(batch, num_beams)
            seconds[name] += perf_counter() - start
        for name, theirs in written.items():
            for one, other in zip(written[PACKAGE], theirs, strict=True):
                same[name] += sum(map(eq, one, other))
                shared[name] += (Counter(one) & Counter(other)).total()
        titles += len(batch["input_ids"]) * num_beams
    shares = ({name: count / titles for name, count in counts.items()} for counts in (same, shared))
    return Measured(num_beams, dict(seconds), *shares)


def report(llm: BIGRec, given: dict[str, Any], batches: int, generate_queries: int, rows: list[Measured]) -> str:
    config, others = llm.config, [name for name in rows[0].seconds if name != PACKAGE]
    columns = ["beams", "by", "seconds", "times the package's", "titles alike at their place", "titles shared"]
    parts = f"; generate gets {generate_queries} queries at a time" if generate_queries else ""
    missed = MISSED if "vLLM" in others else ""
    return f"""# Beam search over the titles of {config["dataset"]}, {model_name(config)}

{" ".join(answer(name, rows) for name in others)}

{common.header()}{versions(others)}. {batches} batches of {config["eval_batch_size"]} test queries{parts}; the language
model before fine-tuning, in {str(llm.network.dtype).removeprefix("torch.")}. Keys: {keys_text(given)}.

{common.table(columns, [cells(each, name) for each in rows for name in each.seconds])}

The shares are of the package's titles. `package, bfloat16` and `package, int8` are the same search with another copy of
the network: all weights in bfloat16, or the matrices of all layers, without the head, in int8 with activations
quantised by batch (PyTorch's dynamic quantisation).
{missed}"""


MISSED = """
vLLM's `LLM.beam_search` is confined by a grammar of the titles' token ids (backend guidance), which it compiles for
each beam and token. It continues a beam only with tokens that are among the likeliest of the whole vocabulary, twice as
many as beams, so it can miss titles.
"""


def answer(name: str, rows: list[Measured]) -> str:
    """Return in words how much longer a writer takes than the package, and how many titles are the same."""
    ratios = ", ".join(f"{each.seconds[name] / each.seconds[PACKAGE]:.1f}" for each in rows)
    beams = ", ".join(str(each.num_beams) for each in rows)
    least = min(each.shared[name] for each in rows)
    found = "all" if least == 1 else f"{least:.1%} or more"
    return f"{name} takes {ratios} times as long as the package with {beams} beams and finds {found} of its titles."


def versions(others: list[str]) -> str:
    if "vLLM" not in others:
        return ""
    import vllm

    return f", vllm {vllm.__version__}"


def model_name(config: Config) -> str:
    return "tiny LLM" if config["llm_path"] == "tiny" else Path(config["llm_path"]).name


def keys_text(given: Mapping[str, Any]) -> str:
    """Return the given configuration keys, without paths of this machine."""
    told = {key: value for key, value in given.items() if not key.endswith("_path") and key != "checkpoint_dir"}
    return ", ".join(f"`{key}={value!r}`" for key, value in told.items()) or "the defaults"


def cells(measured: Measured, name: str) -> list[str]:
    seconds = measured.seconds
    shares = [f"{share[name]:.4f}" for share in (measured.alike, measured.shared)]
    return [str(measured.num_beams), name, f"{seconds[name]:.2f}", f"{seconds[name] / seconds[PACKAGE]:.1f}", *shares]


if __name__ == "__main__":
    main()
