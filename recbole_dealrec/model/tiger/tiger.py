"""TIGER (Rajput et al., arXiv 2305.05065) as a RecBole sequential model."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from safetensors.torch import load_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import T5Config, T5ForConditionalGeneration

from recbole_dealrec.config import Config
from recbole_dealrec.config.registry import MODELS
from recbole_dealrec.data import CandidateSamples, SequentialDataset
from recbole_dealrec.data.batch import token_batches
from recbole_dealrec.data.catalogue import Catalogue
from recbole_dealrec.distributed import fsdp
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.decoding.beam_search import search
from recbole_dealrec.model.decoding.trie import TokenTrie
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.model.tiger.semantic_id import catalogue_ids, check_semantic_id, id_text
from recbole_dealrec.model.tiger.t5_decoder import PrefixDecoder
from recbole_dealrec.model.tiger.text_embedding import check_text_encoder

_PAD = 0
_SHAPE = ("num_layers", "num_heads", "d_model", "d_kv", "d_ff", "dropout_rate")
_CODE = """\
from transformers import T5ForConditionalGeneration

model = T5ForConditionalGeneration.from_pretrained(".")  # this folder
"""
_WEIGHTS_FILE, _IDS_FILE = "model.safetensors", "semantic_ids.json"


@MODELS.register("TIGER")
class TIGER(LLMRecommender):
    """A T5, trained from random weights, that generates the next item's semantic ID from those of the history.

    Each code of an ID is a token, with different tokens per level. All IDs have the same length, so there is no end
    token. There is no user token either, since few-shot samples would leave most of them untrained.

    Args:
        config: reads the keys of ``properties/model/TIGER.yaml``.
        dataset: training part, with items and titles, or the catalogue of a run.
        codes: semantic IDs of items 1 to n_items - 1, int64 [n_items - 1, levels]; computed from the titles if None.

    Attributes:
        network: the T5; all its parameters are trained.
        codes: the semantic IDs.
    """

    weights_folder = "model"

    def __init__(self, config: Config, dataset: SequentialDataset | Catalogue, codes: np.ndarray | None = None) -> None:
        super().__init__(config, dataset)
        self.codes = catalogue_ids(config, dataset.titles[1:]) if codes is None else codes
        sizes = self.codes.max(axis=0) + 1
        vocab_size = int(sizes.sum()) + 1
        tokens = self.codes + 1 + np.cumsum(sizes) - sizes
        self._trie = TokenTrie(tokens, vocab_size).to(self.device)
        self._root = torch.full((1,), self._trie.root, device=self.device)
        self._item_tokens = np.vstack([np.full_like(tokens[:1], _PAD), tokens])  # by item id
        self._item_names = dataset.field2id_token[dataset.iid_field][1:]
        self.network = T5ForConditionalGeneration(
            T5Config(
                vocab_size=vocab_size, pad_token_id=_PAD, decoder_start_token_id=_PAD, eos_token_id=None,
                **{name: config[f"t5_{name}"] for name in _SHAPE},
            )
        ).to(self.device)  # fmt: skip

    @classmethod
    def restored(cls, config: Config, dataset: SequentialDataset | Catalogue, folder: Path) -> LLMRecommender:
        ids = json.loads((folder / _IDS_FILE).read_text(encoding="utf-8"))
        names = [str(name) for name in dataset.field2id_token[dataset.iid_field][1:]]
        if ids.keys() != set(names):
            raise InputError(
                f"{folder}: trained on other items than {config['dataset']} has; run the same command again"
            )
        recommender = cls(config, dataset, np.array([ids[name] for name in names]))
        recommender.load(folder)
        return recommender

    @classmethod
    def most_ranked(cls, config: Config, n_items: int) -> int:
        return min(config["num_beams"], n_items) if config["scoring"] == "beam" else n_items

    @classmethod
    def check(cls, config: Config) -> None:
        if fsdp.is_requested():
            raise InputError("TIGER fits on any GPU and is not sharded; leave out FSDP")
        check_semantic_id(config["semantic_id"])
        check_text_encoder(config["text_encoder_path"])
        beams, most = config["num_beams"], max(config["topk"])
        if config["scoring"] == "beam" and beams < most:
            raise InputError(f"num_beams is {beams}, but topk asks for {most} items; set num_beams to {most} or more")

    def _origin(self) -> str:
        return json.dumps([self.config[f"t5_{name}"] for name in _SHAPE])

    def batch(self, histories: Sequence[np.ndarray], targets: Sequence[int]) -> dict[str, Tensor]:
        """Return right-padded ``input_ids`` and ``attention_mask``, int64 [B, T]; ``labels``, int64 [B, levels]."""
        sources = self._sources(map(self._latest, histories))
        return {**sources, "labels": torch.from_numpy(self._item_tokens[np.asarray(targets)])}

    def batches(self, samples: CandidateSamples) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        for index in self._token_batches(samples):
            yield index, self.batch([samples.history(row) for row in index], samples.item_id[index])

    def representation_batches(
        self, samples: CandidateSamples, with_targets: bool = False
    ) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """Yield indices and the tokens of histories; if ``with_targets``, followed by the target's tokens."""
        for index in self._token_batches(samples):
            sequences = (self._latest(samples.history(row)) for row in index)
            if with_targets:
                sequences = map(np.append, sequences, samples.item_id[index])
            yield index, self._sources(sequences)

    def represent(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean of the encoder's last hidden states of each row, float32 [B, d].

        With random weights, similarity only reflects which codes two samples share.
        """
        sources = {name: ids.to(self.device) for name, ids in batch.items()}
        mask = sources["attention_mask"].unsqueeze(-1)
        with self._evaluation_mode():
            hidden = self.network.encoder(**sources).last_hidden_state
        return ((hidden * mask).sum(dim=1) / mask.sum(dim=1)).float()

    def token_lengths(self, samples: CandidateSamples) -> np.ndarray:
        items = np.minimum(samples.item_length, self.config["max_history_items"])
        return np.column_stack([items, np.ones_like(items)]) * self._trie.depth

    def instructions(self, samples: CandidateSamples) -> Iterator[dict[str, str]]:
        for row, target in enumerate(samples.item_id):
            history = "".join(map(self._id_text, self._latest(samples.history(row))))
            answer = self._id_text(target)
            yield {"instruction": "", "input": history, "output": answer, "prompt": history, "completion": answer}

    def item_scores(self, interaction: Interaction) -> Tensor:
        """Return the log-likelihood of every item's ID, float32 [B, n_items]; -inf for items without a beam."""
        histories = map(self._latest, self._histories(interaction))
        sources = {name: ids.to(self.device) for name, ids in self._sources(histories).items()}
        decoder = PrefixDecoder(self.network, **sources, depth=self._trie.depth)
        likelihoods = {"beam": self._beam_scores, "exact": self._exact_scores}[self.config["scoring"]]
        scores = torch.full((len(interaction), self.n_items), -torch.inf, device=self.device)
        for items, values in likelihoods(decoder):
            scores.scatter_(1, items, values)
        return scores

    def save(self, folder: Path) -> None:
        """Save the T5 in the format of transformers, and each item's semantic ID in the same folder."""
        self.network.save_pretrained(folder)
        with open(folder / _IDS_FILE, "w", encoding="utf-8") as file:
            json.dump(self._ids_by_name(), file, ensure_ascii=False)

    @classmethod
    def card(cls, config: Config, folder: Path) -> dict[str, Any]:
        codes = next(iter(json.loads((folder / _IDS_FILE).read_text(encoding="utf-8")).values()))
        return {
            "metadata": {"library_name": "transformers", "tags": ["generative-retrieval"]},
            "origin": (
                f"A T5 trained from random weights. It reads the semantic IDs of a history, {len(codes)} codes each, "
                f"and generates that of the next item. `{_IDS_FILE}` contains the ID of each item. Each code is a "
                "token; token ids start at 1, and those of a level follow those of the level before."
            ),
            "prompt": "",
            "code": _CODE,
        }

    def load(self, folder: Path) -> None:
        """Load the T5 from a folder that ``save`` wrote.

        Raises:
            InputError: the T5 was trained with other semantic IDs.
        """
        if json.loads((folder / _IDS_FILE).read_text(encoding="utf-8")) != self._ids_by_name():
            raise InputError(f"{folder}: trained with semantic IDs the items no longer have; delete the run folder")
        load_model(self.network, folder / _WEIGHTS_FILE, device=str(self.device))

    def _latest(self, history: np.ndarray) -> np.ndarray:
        return history[-self.config["max_history_items"] :]

    def _token_batches(self, samples: CandidateSamples) -> list[np.ndarray]:
        """Return batches of sample indices, each of at most ``tokens_per_batch`` tokens."""
        return token_batches(self.token_lengths(samples).sum(axis=1), self.config["tokens_per_batch"])

    def _sources(self, sequences: Iterable[np.ndarray]) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask`` of sequences of item ids, int64 [B, T], padded on the right."""
        rows = [torch.from_numpy(self._item_tokens[items].reshape(-1)) for items in sequences]
        input_ids = pad_sequence(rows, batch_first=True, padding_value=_PAD)
        return {"input_ids": input_ids, "attention_mask": (input_ids != _PAD).long()}

    def _id_text(self, item_id: int) -> str:
        return id_text(self.codes[item_id - 1])

    def _ids_by_name(self) -> dict[str, list[int]]:
        return dict(zip(map(str, self._item_names), self.codes.tolist(), strict=True))

    def _beam_scores(self, decoder: PrefixDecoder) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the items that the beam search finds and their log-likelihoods, [B, num_beams] each."""
        beams = search(decoder.start(), decoder, self.config["num_beams"], self._trie.depth, self._trie)
        yield self._trie.leaf(beams.nodes) + 1, beams.scores  # -inf for a beam without an item, which becomes padding

    def _exact_scores(self, decoder: PrefixDecoder) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all items and their log-likelihoods in parts [B, n]; shared prefixes are decoded once."""
        _, counts = np.unique(self.codes[:, 0], return_counts=True)
        for part in _slices(counts, self.config["tokens_per_batch"] // self.config["eval_batch_size"]):
            nodes, scores = self._subtree_scores(decoder, part)
            yield (self._trie.leaf(nodes) + 1).expand_as(scores), scores

    def _subtree_scores(self, decoder: PrefixDecoder, part: slice) -> tuple[Tensor, Tensor]:
        """Return the nodes [n] of all IDs with a first code in ``part``, and their log-likelihoods [B, n]."""
        logits = decoder.start()
        parents, tokens, nodes = (edge[part] for edge in self._trie.edges(self._root))
        scores = logits.log_softmax(-1)[:, parents, tokens]
        for _ in range(self._trie.depth - 1):
            logits = decoder(parents.expand_as(scores), tokens.expand_as(scores))
            parents, tokens, nodes = self._trie.edges(nodes)
            scores = scores[:, parents] + logits.log_softmax(-1)[:, parents, tokens]
        return nodes, scores


def _slices(counts: Sequence[int], most: int) -> Iterator[slice]:
    """Yield consecutive slices of ``counts``, each with a sum of at most ``most`` or with one entry."""
    start, total = 0, 0
    for place, count in enumerate(counts):
        if total and total + count > most:
            yield slice(start, place)
            start, total = place, 0
        total += count
    yield slice(start, len(counts))
