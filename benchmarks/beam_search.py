"""Compare the package's beam search with transformers' generate, restricted by prefix_allowed_tokens_fn.

    python benchmarks/beam_search.py [--dataset games --data_path PATH] [--num_beams 4 10 20] [--batches 4]

Both generate titles of the catalogue for the same test queries, in turn, with the tiny language model before
fine-tuning. Any configuration key can follow. Prints a table and writes it to benchmarks/results/beam-search.md.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from time import perf_counter

import common
import torch
from torch import Tensor
from transformers import GenerationConfig

from recbole_dealrec.config import Config
from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.model import BIGRec
from recbole_dealrec.model.bigrec.collation import collate
from recbole_dealrec.model.decoding.beam_search import beam_search
from recbole_dealrec.model.decoding.trie import TokenTrie

Titles = list[list[tuple[int, ...]]]


class Writers:
    """Ways to generate the likeliest titles for a batch.

    Args:
        llm: recommender whose network generates.
    """

    def __init__(self, llm: BIGRec) -> None:
        self.network, self.end = llm.network, llm.tokenizer.eos_token_id
        titles = [llm.encoder.response(item) for item in range(1, llm.n_items)]
        self.trie = TokenTrie(titles, self.network.config.vocab_size).to(llm.device)
        allowed = defaultdict(set)
        for title in titles:
            for length, token in enumerate(title):
                allowed[tuple(title[:length])].add(token)
        self._allowed = {beginning: sorted(tokens) for beginning, tokens in allowed.items()}

    def package(self, batch: Mapping[str, Tensor], num_beams: int) -> Titles:
        sequences, _ = beam_search(
            self.network, batch["input_ids"], batch["attention_mask"], num_beams=num_beams,
            max_new_tokens=self.trie.depth, eos_token_id=self.end, pad_token_id=self.end, trie=self.trie,
        )  # fmt: skip
        return [[self._title(tokens) for tokens in row] for row in sequences.tolist()]

    @torch.no_grad()
    def generate(self, batch: Mapping[str, Tensor], num_beams: int) -> Titles:
        width = batch["input_ids"].shape[1]
        settings = GenerationConfig(
            num_beams=num_beams, num_return_sequences=num_beams, length_penalty=0.0, early_stopping=False,
            do_sample=False, max_new_tokens=self.trie.depth, eos_token_id=self.end, pad_token_id=self.end,
        )  # fmt: skip
        sequences = self.network.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=settings,
            prefix_allowed_tokens_fn=lambda _, tokens: self._allowed.get(tuple(tokens[width:].tolist()), [self.end]),
        )  # fmt: skip
        titles = [self._title(tokens) for tokens in sequences[:, width:].tolist()]
        return [titles[start : start + num_beams] for start in range(0, len(titles), num_beams)]

    def _title(self, tokens: list[int]) -> tuple[int, ...]:
        return tuple(tokens[: tokens.index(self.end)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--num_beams", type=int, nargs="+", default=[4, 10, 20])
    parser.add_argument("--batches", type=int, default=4)
    arguments, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        keys = {"checkpoint_dir": folder, "show_progress": False, **parse_command_line(rest)}
        config = Config("BIGRec", arguments.dataset, config_dict=keys)
        splits = load_splits(config)
        llm = BIGRec(config, splits.train).eval()
    batches = list(query_batches(llm, CandidateSamples.from_dataset(splits.test), arguments.batches))
    writers = Writers(llm)
    rows = [measure(writers, batches, num_beams) for num_beams in arguments.num_beams]
    common.write("beam-search", report(config, len(batches), rows))


def query_batches(llm: BIGRec, samples: CandidateSamples, count: int) -> Iterator[dict[str, Tensor]]:
    size = llm.config["eval_batch_size"]
    for start in range(0, count * size, size):
        prompts = llm.encoder.prompts([samples.history(row) for row in range(start, start + size)])
        batch = collate(prompts, None, llm.tokenizer.eos_token_id)
        yield {name: tensor.to(llm.device) for name, tensor in batch.items()}


def measure(writers: Writers, batches: list[dict[str, Tensor]], num_beams: int) -> list:
    seconds, same, titles = {"package": 0.0, "generate": 0.0}, 0, 0
    for batch in batches:
        written = []
        for name in seconds:
            start = perf_counter()
            written.append(getattr(writers, name)(batch, num_beams))
            seconds[name] += perf_counter() - start
        pairs = [pair for rows in zip(*written, strict=True) for pair in zip(*rows, strict=True)]
        same, titles = same + sum(ours == theirs for ours, theirs in pairs), titles + len(pairs)
    return [num_beams, *seconds.values(), seconds["generate"] / seconds["package"], same / titles]


def report(config: Config, batches: int, rows: list[list]) -> str:
    columns = ["beams", "seconds", "seconds of generate", "ratio", "titles alike at their place"]
    body = [
        [beams, f"{ours:.2f}", f"{theirs:.2f}", f"{ratio:.1f}", f"{same:.4f}"]
        for beams, ours, theirs, ratio, same in rows
    ]
    return f"""# Beam search over the titles of {config["dataset"]}

{common.header()}. {batches} batches of {config["eval_batch_size"]} test queries; the tiny language model.

{common.table(columns, body)}
"""


if __name__ == "__main__":
    main()
