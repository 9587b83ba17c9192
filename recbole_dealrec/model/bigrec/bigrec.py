"""BIGRec (Bao et al., arXiv 2308.08434) as a RecBole sequential model."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_dealrec.config import Config
from recbole_dealrec.config.registry import MODELS
from recbole_dealrec.data import CandidateSamples, PromptTemplate, SequentialDataset
from recbole_dealrec.data.batch import token_batches
from recbole_dealrec.data.catalogue import Catalogue
from recbole_dealrec.distributed import fsdp
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.bigrec.adapter_card import adapter_card
from recbole_dealrec.model.bigrec.collation import collate
from recbole_dealrec.model.bigrec.gguf import gguf_folder, is_gguf
from recbole_dealrec.model.bigrec.grounding import distances, namesakes_before, rank_beams_first, ranked_apart
from recbole_dealrec.model.bigrec.instruction import instruction_rows
from recbole_dealrec.model.bigrec.llm import (
    SampleEncoder,
    check_llm,
    load_network,
    load_tokenizer,
    longest_row,
)
from recbole_dealrec.model.bigrec.lora import BASE, base_of_adapter, load_adapter, save_adapter
from recbole_dealrec.model.bigrec.probe import Probe, fastest_way
from recbole_dealrec.model.bigrec.tiny import tiny_llm
from recbole_dealrec.model.checkpoint import checkpoint_content
from recbole_dealrec.model.decoding.beam_search import Way, beam_search
from recbole_dealrec.model.decoding.trie import TokenTrie
from recbole_dealrec.model.loss import hidden_size, last_hidden_states, vocabulary_size
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.store.console import progress_bar

# Number of logits, with probabilities and derivatives, that need as much memory as one token in the layers. It is
# between 40,000 (models of 100 million parameters) and 300,000 (8 billion).
_LOGITS_PER_TOKEN = 65_536
_WINDOW = 4096  # samples tokenised at a time
_REHEARSED_TITLES = 128


@MODELS.register("BIGRec")
class BIGRec(LLMRecommender):
    """A language model that generates the title of the next item, which is then grounded to the catalogue.

    Args:
        config: reads the keys of ``properties/model/BIGRec.yaml``.
        dataset: training part with items, titles and item counts, or the catalogue of a run.
        base: Hugging Face id or folder of the language model; None means ``llm_path``.

    Attributes:
        network: language model with LoRA; only the LoRA matrices require gradients.
    """

    weights_folder = "adapter"

    def __init__(self, config: Config, dataset: SequentialDataset | Catalogue, base: str | None = None) -> None:
        super().__init__(config, dataset)
        self._path = path = base or _llm_path(config, dataset)
        self.tokenizer = load_tokenizer(path, config["trust_remote_code"])
        self.network = load_network(config, path)
        self.encoder = SampleEncoder(self.tokenizer, config, dataset.titles, dataset.item_texts)
        self._way: Way = "shared"
        if config["llm_path"] != "tiny":  # the tiny LLM is known to work, for any length
            self._check_context_length()
            self._way = fastest_way(config, self.network.get_base_model(), self.encoder)
        self._namesakes = torch.from_numpy(namesakes_before(dataset.titles, dataset.item_counts)).to(self.device)
        self._trie: TokenTrie | None = None
        self._title_of_item: Tensor | None = None
        self._item_embeddings: Tensor | None = None

    @classmethod
    def check(cls, config: Config) -> None:
        PromptTemplate(config)
        fsdp.check_settings(config["llm_quantization"])
        if config["llm_path"] != "tiny":
            fastest_way(config, *check_llm(config))
        elif config["chat_template"]:
            raise InputError("chat_template: the tiny LLM has none; set llm_path to a chat model")

    @classmethod
    def restored(cls, config: Config, dataset: SequentialDataset | Catalogue, folder: Path) -> LLMRecommender:
        recommender = cls(config, dataset, base_of_adapter(folder))
        recommender.load(folder)
        return recommender

    def _origin(self) -> str:
        keys = ("llm_dtype", "llm_quantization", "lora_alpha")
        return json.dumps([checkpoint_content(self._path), *(self.config[key] for key in keys)])

    def batch(self, histories: Sequence[np.ndarray], targets: Sequence[int]) -> dict[str, Tensor]:
        """Return a left-padded batch of prompts with the targets' titles as labels, see ``collate``."""
        return self._collate(self.encoder.cached_prompts(histories), [self.encoder.response(item) for item in targets])

    def batches(self, samples: CandidateSamples) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        for rows, prompts, responses in self._encoded_batches(samples, self.encoder.response):
            yield rows, self._collate(prompts, responses)

    def representation_batches(
        self, samples: CandidateSamples, with_targets: bool = False
    ) -> Iterator[tuple[np.ndarray, list[list[int]]]]:
        """Yield indices and token ids of the prompts; if ``with_targets``, followed by the target's title."""
        title = (lambda item: self.encoder.response(item)[:-1]) if with_targets else (lambda item: [])
        for rows, prompts, titles in self._encoded_batches(samples, title):
            yield rows, [[*pair[0], *pair[1]] for pair in zip(prompts, titles, strict=True)]

    def represent(self, batch: Sequence[Sequence[int]]) -> Tensor:
        """Return the last hidden state of each row's last token, adapter disabled, float32 [B, d]."""
        inputs = {key: value.to(self.device) for key, value in self._collate(batch).items()}
        with self._evaluation_mode(), self.network.disable_adapter(), torch.autocast(self.device.type, enabled=False):
            return last_hidden_states(self.network, inputs)[:, -1].float().to(self.device)

    def token_lengths(self, samples: CandidateSamples) -> np.ndarray:
        items, place = np.unique(samples.item_id, return_inverse=True)
        lengths = np.array([len(self.encoder.response(item)) for item in items], dtype=np.int64)[place]
        return np.column_stack([self.encoder.history_lengths(samples), lengths])

    def instructions(self, samples: CandidateSamples) -> Iterator[dict[str, Any]]:
        return instruction_rows(self.encoder, samples)

    def item_scores(self, interaction: Interaction) -> Tensor:
        prompts = self.encoder.prompts(self._histories(interaction))
        order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
        batch = self._collate([prompts[row] for row in order])
        score = {"trie": self._score_by_trie, "embedding": self._score_by_embedding}[self.config["grounding"]]
        scores = score(batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device))
        scores = ranked_apart(scores, self._namesakes)
        return scores[torch.from_numpy(np.argsort(order)).to(scores.device)]

    def rehearse_ranking(self) -> float:
        if self.config["grounding"] == "trie":
            self._title_trie()
        titles = sorted(self.encoder.titles, key=len)
        start = max(0, (len(titles) - _REHEARSED_TITLES) // 2)
        embedded = self.embed_titles(titles[start : start + _REHEARSED_TITLES])  # of similar length, as in a full pass
        self._item_embeddings = embedded.repeat(math.ceil(len(titles) / len(embedded)), 1)[: len(titles)]
        return len(titles) / len(embedded)

    def trial(self) -> tuple[nn.Module, dict[str, Tensor]] | None:
        if self.config["llm_path"] == "tiny" or fsdp.is_sharded(self.network):
            return None
        probe = Probe(self.config, self.network.get_base_model(), self.encoder)
        return probe.network, probe.batch()

    def save(self, folder: Path) -> None:
        """Save the LoRA matrices in PEFT's format, the tokenizer, and the tiny LLM, which may exist nowhere else."""
        base = str(Path(self._path).absolute()) if Path(self._path).is_dir() else self._path
        if self.config["llm_path"] == "tiny":
            base = BASE
            shutil.copytree(self._path, folder / base)
        self.tokenizer.save_pretrained(folder)
        save_adapter(self.network, folder, base)

    @classmethod
    def card(cls, config: Config, folder: Path) -> dict[str, Any]:
        return adapter_card(config, folder)

    def load(self, folder: Path) -> None:
        """Load the LoRA matrices from a folder that ``save`` wrote.

        Raises:
            InputError: they belong to another model.
        """
        load_adapter(self.network, folder, str(self.device))

    def _collate(self, prompts, responses=None) -> dict[str, Tensor]:
        return collate(prompts, responses, self.tokenizer.eos_token_id, self.config["train_on_inputs"])

    def _generate(self, input_ids: Tensor, attention_mask: Tensor, trie: TokenTrie | None) -> tuple[Tensor, Tensor]:
        return beam_search(
            self.network,
            input_ids,
            attention_mask,
            num_beams=self.config["num_beams"],
            max_new_tokens=self._max_new_tokens if trie is None else trie.depth,
            eos_token_id=self.encoder.end_token_id,
            pad_token_id=self.tokenizer.eos_token_id,
            trie=trie,
            way=self._way,
        )

    @cached_property
    def _response_lengths(self) -> np.ndarray:
        """Number of tokens of each title with its end token, int64 [n_items - 1]."""
        return np.array([len(self.encoder.response(item)) for item in range(1, self.n_items)])

    @property
    def _max_new_tokens(self) -> int:
        """Maximum number of tokens of a title generated without a trie, including the end token."""
        return self.config["max_new_tokens"] or needed_tokens(self._response_lengths)

    def _check_context_length(self) -> None:
        """Raise InputError if the context is too short for the longest prompt and title."""
        longest = longest_row(self.network.config)
        title = int(self._response_lengths.max())
        if self.config["max_prompt_length"] + max(title, self._max_new_tokens) > longest:
            raise InputError(
                f"llm_path '{self.config['llm_path']}' reads at most {longest} tokens, and a title has up to {title}; "
                "lower max_prompt_length"
            )

    def _score_by_embedding(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        sequences, _ = self._generate(input_ids, attention_mask, trie=None)
        texts = self.tokenizer.batch_decode(sequences[:, 0], skip_special_tokens=True)
        queries = self.embed_titles([PromptTemplate.title(text) for text in texts])
        return -distances(queries, self.item_embeddings)

    def _score_by_trie(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        trie, title_of_item = self._title_trie()
        sequences, scores = self._generate(input_ids, attention_mask, trie)
        nodes = torch.full(sequences.shape[:2], trie.root, device=sequences.device)
        titles = torch.full_like(nodes, -1)
        for tokens in sequences.unbind(dim=-1):
            nodes = trie.step(nodes.reshape(-1), tokens.reshape(-1)).view_as(nodes)
            titles = torch.maximum(titles, trie.leaf(nodes.reshape(-1)).view_as(nodes))
        first_item = torch.where(titles[:, 0] >= 0, titles[:, 0] + 1, 0)  # row r of the trie is item r + 1
        fallback = distances(self.item_embeddings[first_item], self.item_embeddings)
        return rank_beams_first(titles, scores, title_of_item, fallback)

    def _title_trie(self) -> tuple[TokenTrie, Tensor]:
        """Return the trie of all titles and each item's row in it (-1 for padding); equal titles have the same row."""
        if self._trie is None:
            responses = [self.encoder.response(item) for item in range(1, self.n_items)]
            self._trie = TokenTrie(responses, vocabulary_size(self.network)).to(self.device)
            first_row: dict[tuple[int, ...], int] = {}
            rows = [first_row.setdefault(tuple(ids), row) for row, ids in enumerate(responses)]
            self._title_of_item = torch.tensor([-1, *rows], device=self.device)
        return self._trie, self._title_of_item

    @property
    def item_embeddings(self) -> Tensor:
        """Embeddings of all items' titles with the adapter disabled, [n_items, d], computed at the first use."""
        if self._item_embeddings is None:
            embedded = self.embed_titles(self.encoder.titles, show_progress=self.config["show_progress"])
            _, first, title = np.unique(np.array(self.encoder.titles, object), return_index=True, return_inverse=True)
            self._item_embeddings = embedded[torch.from_numpy(first[title]).to(self.device)]  # equal titles stay equal
        return self._item_embeddings

    def embed_titles(self, titles: Sequence[str], show_progress: bool = False) -> Tensor:
        """Return the last hidden state of each title's last token, adapter disabled, float32 [n, d]."""
        ids = self.encoder.title_ids(titles)
        embeddings = torch.empty(len(ids), hidden_size(self.network), device=self.device)
        batches = token_batches(np.array([len(row) for row in ids]), self.config["tokens_per_batch"])
        progress = progress_bar(batches, show_progress, desc="item embeddings")
        for index, _ in fsdp.in_lockstep(progress, lambda: batches[0]):
            embeddings[torch.from_numpy(index).to(self.device)] = self.represent([ids[row] for row in index])
        return embeddings

    def _encoded_batches(
        self, samples: CandidateSamples, response: Callable[[int], list[int]]
    ) -> Iterator[tuple[np.ndarray, list[list[int]], list[list[int]]]]:
        """Yield batches of indices, prompts and responses of similar length, at most ``tokens_per_batch`` each.

        Labelled tokens count more, depending on the size of the vocabulary. The samples are sorted by estimated length
        and tokenised in windows, so that memory does not grow with their number.
        """
        order = np.argsort(self.encoder.estimated_lengths(samples), kind="stable")
        for start in range(0, len(order), _WINDOW):
            window = order[start : start + _WINDOW]
            prompts = self.encoder.prompts([samples.history(row) for row in window])
            responses = [response(item) for item in samples.item_id[window]]
            costs = np.array([self._token_cost(len(p), len(r)) for p, r in zip(prompts, responses, strict=True)])
            for index in token_batches(costs, self.config["tokens_per_batch"]):
                yield window[index], [prompts[row] for row in index], [responses[row] for row in index]

    def _token_cost(self, prompt: int, response: int) -> int:
        """Return the memory that a sample and its logits need, in tokens."""
        labels = prompt + response if self.config["train_on_inputs"] else response
        return prompt + response + math.ceil(labels * vocabulary_size(self.network) / _LOGITS_PER_TOKEN)


def _llm_path(config: Config, dataset: SequentialDataset) -> str:
    """Return the folder or Hugging Face id of ``llm_path``; build or unpack the folder if necessary."""
    path = config["llm_path"]
    if path == "tiny":
        return tiny_llm(config, dataset)
    return str(gguf_folder(path, Path(config["checkpoint_dir"]))) if is_gguf(path) else path


def needed_tokens(lengths: np.ndarray) -> int:
    """Return the number of tokens to generate for a title.

    Args:
        lengths: number of tokens of each title with its end token, int64 [n].

    Returns:
        The longest, or the 99.9th percentile if the longest is more than twice as long.
    """
    longest, most = int(lengths.max()), math.ceil(np.quantile(lengths, 0.999))
    return longest if longest <= 2 * most else most
