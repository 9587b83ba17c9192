"""BIGRec (Bao et al., arXiv 2308.08434) as a RecBole sequential model."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from recbole_dealrec.config import Config  # first: it makes RecBole importable
from recbole_dealrec.data import CandidateSamples, SequentialDataset
from recbole_dealrec.data.batch import token_batches
from recbole_dealrec.data.sequence import item_counts
from recbole_dealrec.model.beam_search import beam_search
from recbole_dealrec.model.embedded import embedded_llm
from recbole_dealrec.model.grounding import distances, popularity_weights, rank_beams_first
from recbole_dealrec.model.llm import SampleEncoder, collate, load_network, load_tokenizer
from recbole_dealrec.model.loss import sample_losses
from recbole_dealrec.model.trie import TokenTrie

from recbole.data.interaction import Interaction  # isort: skip
from recbole.model.abstract_recommender import SequentialRecommender  # isort: skip
from recbole.utils import InputType  # isort: skip

_ADAPTER_FILE = "adapter_model.safetensors"
# Samples tokenised at a time: enough to keep the tokenizer busy and the batches even.
_WINDOW = 4096


class BIGRec(SequentialRecommender):
    """A language model that writes the title of the next item; the title is then grounded to the catalogue.

    Args:
        config: reads the keys of ``properties/model/BIGRec.yaml``.
        dataset: training part, whose items, titles and item counts it takes.

    Attributes:
        network: language model with LoRA; only LoRA's matrices require gradients.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config: Config, dataset: SequentialDataset) -> None:
        super().__init__(config, dataset)
        self.config = config
        path = embedded_llm(config, dataset) if config["llm_path"] == "tiny" else config["llm_path"]
        self.tokenizer = load_tokenizer(path, config["trust_remote_code"])
        self.network = load_network(config, path)
        self.encoder = SampleEncoder(self.tokenizer, config, dataset.titles)
        weights = popularity_weights(torch.from_numpy(item_counts(dataset)), config["grounding_popularity"])
        self.register_buffer("popularity", weights.to(self.device), persistent=False)
        self._trie: TokenTrie | None = None
        self._title_of_item: Tensor | None = None
        self._item_embeddings: Tensor | None = None

    def batch(self, histories: Sequence[np.ndarray], targets: Sequence[int]) -> dict[str, Tensor]:
        """Left-padded batch of prompts with the targets' titles as labels, as ``collate`` of ``llm.py`` makes it."""
        responses = [self.encoder.response(item) for item in targets]
        prompts = self.encoder.prompts(histories)
        return self._collate(prompts, responses)

    def batches(self, samples: CandidateSamples) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """Indices and batch, of similar length under ``tokens_per_batch``, for scoring.

        The samples are ordered by an estimate of their length and tokenised a window at a time, so that the memory of
        their tokens does not grow with their number.
        """
        order = np.argsort(self.encoder.estimated_lengths(samples), kind="stable")
        for start in range(0, len(order), _WINDOW):
            window = order[start : start + _WINDOW]
            prompts = self.encoder.prompts([samples.history(row) for row in window])
            responses = [self.encoder.response(item) for item in samples.item_id[window]]
            lengths = np.array([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)])
            for index in token_batches(lengths, self.config["tokens_per_batch"]):
                yield window[index], self._collate([prompts[row] for row in index], [responses[row] for row in index])

    def response_lengths(self, item_id: np.ndarray) -> np.ndarray:
        """Number of tokens the model is to write for each of some items, int64 [n]."""
        items, place = np.unique(item_id, return_inverse=True)
        return np.array([len(self.encoder.response(item)) for item in items], dtype=np.int64)[place]

    def sample_losses(self, interaction: Interaction) -> Tensor:
        """Mean negative log-likelihood of each sample's labelled tokens, float32 [B]."""
        batch = self.batch(self._histories(interaction), interaction[self.POS_ITEM_ID].tolist())
        return sample_losses(self.network, {key: value.to(self.device) for key, value in batch.items()})

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        return self.sample_losses(interaction).mean()

    @torch.no_grad()
    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Score of every item for every history, float32 [B, n_items]; the target is not read."""
        prompts = self.encoder.prompts(self._histories(interaction))
        order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
        batch = self._collate([prompts[row] for row in order])
        score = {"trie": self._score_by_trie, "embedding": self._score_by_embedding}[self.config["grounding"]]
        scores = score(batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device))
        return scores[torch.from_numpy(np.argsort(order)).to(scores.device)]

    def save_adapter(self, folder: Path) -> None:
        """Save LoRA's matrices and configuration as PEFT does."""
        self.network.save_pretrained(folder)

    def load_adapter(self, folder: Path) -> None:
        """Load LoRA's matrices from a folder that :meth:`save_adapter` wrote."""
        weights = load_file(folder / _ADAPTER_FILE, device=str(self.device))
        set_peft_model_state_dict(self.network, weights)

    def _collate(self, prompts, responses=None) -> dict[str, Tensor]:
        return collate(prompts, responses, self.tokenizer.eos_token_id, self.config["train_on_inputs"])

    def _histories(self, interaction: Interaction) -> list[np.ndarray]:
        lists, lengths = interaction[self.ITEM_SEQ].cpu().numpy(), interaction[self.ITEM_SEQ_LEN].tolist()
        return [items[:length] for items, length in zip(lists, lengths, strict=True)]

    def _write(self, input_ids: Tensor, attention_mask: Tensor, trie: TokenTrie | None) -> tuple[Tensor, Tensor]:
        return beam_search(
            self.network,
            input_ids,
            attention_mask,
            num_beams=self.config["num_beams"],
            max_new_tokens=self.config["max_new_tokens"] if trie is None else trie.depth,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.eos_token_id,
            trie=trie,
        )

    def _score_by_embedding(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        sequences, _ = self._write(input_ids, attention_mask, trie=None)
        written = self.tokenizer.batch_decode(sequences[:, 0], skip_special_tokens=True)
        queries = self.embed_titles([_bare_title(text) for text in written])
        return -distances(queries, self.item_embeddings, self.popularity)

    def _score_by_trie(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        trie, title_of_item = self._catalogue()
        sequences, scores = self._write(input_ids, attention_mask, trie)
        nodes = torch.full(sequences.shape[:2], trie.root, device=sequences.device)
        titles = torch.full_like(nodes, -1)
        for tokens in sequences.unbind(dim=-1):
            nodes = trie.step(nodes.reshape(-1), tokens.reshape(-1)).view_as(nodes)
            titles = torch.maximum(titles, trie.leaf(nodes.reshape(-1)).view_as(nodes))
        first_item = torch.where(titles[:, 0] >= 0, titles[:, 0] + 1, 0)  # row r of the trie is item r + 1
        fallback = distances(self.item_embeddings[first_item], self.item_embeddings, self.popularity)
        return rank_beams_first(titles, scores, title_of_item, fallback)

    def _catalogue(self) -> tuple[TokenTrie, Tensor]:
        """Trie of all titles, and the trie row that stands for each item's title (-1 for padding)."""
        if self._trie is None:
            responses = [self.encoder.response(item) for item in range(1, self.n_items)]
            self._trie = TokenTrie(responses, self.network.config.vocab_size).to(self.device)
            first_row: dict[tuple[int, ...], int] = {}
            rows = [first_row.setdefault(tuple(ids), row) for row, ids in enumerate(responses)]
            self._title_of_item = torch.tensor([-1, *rows], device=self.device)
        return self._trie, self._title_of_item

    @property
    def item_embeddings(self) -> Tensor:
        """Embeddings of all items' titles, [n_items, d]; computed once, with the adapter off."""
        if self._item_embeddings is None:
            self._item_embeddings = self.embed_titles(self.encoder.titles, show_progress=self.config["show_progress"])
        return self._item_embeddings

    @torch.no_grad()
    def embed_titles(self, titles: Sequence[str], show_progress: bool = False) -> Tensor:
        """Last hidden state of each title's last token, adapter off, float32 [n, d]."""
        ids = self.encoder.embedded_text(titles)
        embeddings = torch.empty(len(ids), self.network.config.hidden_size, device=self.device)
        batches = token_batches(np.array([len(row) for row in ids]), self.config["tokens_per_batch"])
        was_training = self.network.training
        self.network.eval()
        with self.network.disable_adapter():
            for index in tqdm(batches, desc="Item embeddings", ncols=100, disable=not show_progress):
                batch = self._collate([ids[row] for row in index])
                inputs = {key: value.to(self.device) for key, value in batch.items()}
                hidden = self.network.get_base_model().base_model(**inputs).last_hidden_state
                embeddings[torch.from_numpy(index).to(self.device)] = hidden[:, -1].float()
        self.network.train(was_training)
        return embeddings


def _bare_title(text: str) -> str:
    """The title in a written response: its first line without the quotes."""
    lines = text.strip().splitlines()
    return lines[0].strip().strip('"') if lines else ""
