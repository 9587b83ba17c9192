"""Part b of gpu.py: samples per second and peak memory of effort, fine-tuning and beam search, by model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from gpu_rows import Row, Rows, fitting, timed
from gpu_setup import BEAMS, Setup, title_trie, written
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model import BIGRec
from recbole_dealrec.model.bigrec.collation import collate
from recbole_dealrec.model.bigrec.llm import add_lora
from recbole_dealrec.model.loss import sample_losses
from recbole_dealrec.scorer.effort import chosen_parameters
from recbole_dealrec.scorer.gradient_norm import gradient_norms

# The largest batch of each kind; it is halved until it fits.
TOKENS, STEP, QUERIES = 32_768, 128, 64
SCORED = 384  # samples whose effort is timed
SHAPES = {
    "Llama-3.1-8B": LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131_072,
    ),
    "Llama-3.2-1B": LlamaConfig(
        vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131_072, tie_word_embeddings=True,
    ),
    "Qwen2.5-0.5B": Qwen2Config(
        vocab_size=151_936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=32_768, tie_word_embeddings=True,
    ),
}  # fmt: skip
SMALL_SHAPES = {
    "small Llama": LlamaConfig(
        vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )
}  # fmt: skip


def measure(setup: Setup, rows: Rows) -> None:
    """Add the rows of this part."""
    rates = Rates(setup)
    for model in [Path(setup.llm).stem, *(SMALL_SHAPES if setup.small else SHAPES)]:
        for what, run in rates.measurements().items():
            rows.add(f"{model}, {what}", partial(rates.row, model, what, run), setup.about(12))


class Rates:
    """Measurements of several networks in turn, all on the same prompts of Games.

    Token ids are those of ``setup.llm``'s tokenizer for all networks. Its own network comes first; the others have
    random weights and the shape of the model that they are named after.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._loaded: str | None = None

    def measurements(self) -> dict[str, Callable[[], Row]]:
        default = self.setup.config()["tokens_per_batch"]
        return {
            **{
                f"effort {choice}, {tokens} tokens": partial(self.effort, choice, tokens)
                for choice in ("last", "all") for tokens in (default, TOKENS)
            },
            "fine-tuning": partial(self.fine_tuning, False),
            "fine-tuning, checkpointing": partial(self.fine_tuning, True),
            f"{BEAMS} beams": self.beams,
        }  # fmt: skip

    def row(self, model: str, what: str, run: Callable[[], Row]) -> Row:
        """Return what ``run`` returns for a model; load the model if necessary."""
        if self._loaded != model:
            self._load(model)
        network = self.llm.network
        weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
        about = {"model": model, "what": what, "parameters": network.num_parameters(), "weights MiB": weights / 2**20}
        return {**about, **run()}

    @cached_property
    def llm(self) -> BIGRec:
        return self.setup.recommender(llm_dtype="bfloat16")

    @cached_property
    def samples(self) -> CandidateSamples:
        """Return random candidates, the shortest histories first."""
        candidates = self.setup.candidates
        count = min(self.setup.size(SCORED), len(candidates))
        drawn = candidates[np.random.default_rng(0).choice(len(candidates), count, replace=False)]
        return drawn[np.argsort(self.llm.encoder.estimated_lengths(drawn), kind="stable")]

    def effort(self, choice: str, budget: int) -> Row:
        """Measure the effort score in batches of at most ``budget`` tokens, without tokenisation."""
        llm, names = self.llm, chosen_parameters(self.llm.network, choice)

        def run(tokens: int) -> Row:
            llm.config["tokens_per_batch"] = tokens
            batches = [batch for _, batch in llm.batches(self.samples)]
            tokens_of_samples = sum(int(batch["attention_mask"].sum()) for batch in batches)
            with gradient_norms(llm.network, names) as norms_of:
                norms_of(batches[0])
                row = timed(lambda: [norms_of(batch) for batch in batches], len(self.samples))
            return {**row, "tokens of a sample": tokens_of_samples / len(self.samples)}

        return fitting(run, budget)

    def fine_tuning(self, checkpointing: bool) -> Row:
        """Measure the second optimiser step on ``STEP`` samples, in the largest micro batches that fit."""
        llm, network = self.llm, self.llm.network
        count = self.setup.size(STEP)
        few = self.samples[np.arange(0, len(self.samples), max(1, len(self.samples) // count))[:count]]
        histories = [few.history(row) for row in range(len(few))]
        optimizer = torch.optim.AdamW([value for value in network.parameters() if value.requires_grad], lr=1e-4)

        def run(size: int) -> Row:
            parts = [slice(start, start + size) for start in range(0, len(few), size)]
            batches = [llm.batch(histories[part], few.item_id[part]) for part in parts]

            def step() -> None:
                for batch in batches:
                    with torch.autocast(llm.device.type, torch.bfloat16):
                        loss = sample_losses(network, batch).sum() / len(few)
                    loss.backward()
                optimizer.step()
                optimizer.zero_grad()

            step()
            return timed(step, len(few))

        with _training(network), _checkpointing(network) if checkpointing else nullcontext():
            return fitting(run, count)

    def beams(self) -> Row:
        """Measure the beam search for titles with a trie, for as many queries at a time as fit."""
        llm, end = self.llm, self.llm.tokenizer.eos_token_id
        trie = title_trie(llm, llm.network.config.vocab_size)
        count = self.setup.size(QUERIES)
        queries = self.samples[np.linspace(0, len(self.samples) - 1, count).astype(np.int64)]
        prompts = llm.encoder.prompts([queries.history(row) for row in range(len(queries))])

        def search(size: int) -> None:
            batch = {name: tensor.to(llm.device) for name, tensor in collate(prompts[-size:], None, end).items()}
            written(llm, batch, trie)

        def run(size: int) -> Row:
            search(2)
            return timed(partial(search, size), size)

        return fitting(run, count)

    def _load(self, model: str) -> None:
        llm, shapes = self.llm, {**SHAPES, **SMALL_SHAPES}
        self._loaded = None
        if model in shapes:
            llm.network = None  # frees memory
            llm.network = random_network(llm, shapes[model])
        self._loaded = model


def random_network(llm: BIGRec, shape: PretrainedConfig) -> torch.nn.Module:
    """Return a model of this shape in bfloat16 with LoRA, created on the device."""
    torch.manual_seed(0)
    with llm.device:
        base = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    return add_lora(llm.config, base).eval()


@contextmanager
def _training(network: torch.nn.Module) -> Iterator[None]:
    network.train()
    try:
        yield
    finally:
        network.eval()
        network.zero_grad()


@contextmanager
def _checkpointing(network: torch.nn.Module) -> Iterator[None]:
    network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        network.gradient_checkpointing_disable()
