"""Pre-training of the tiny LLM, a small Llama, on the titles of a catalogue."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from recbole_dealrec.data import PromptTemplate
from recbole_dealrec.store.console import progress_bar
from recbole_dealrec.store.files import atomic_path

PAD, BOS, EOS = "<|pad|>", "<|begin|>", "<|end|>"
# Share of the mean popularity that is added to each title's, so that titles without interactions are drawn too.
SMOOTHING = 0.01


def title_probabilities(popularity: Sequence[float]) -> np.ndarray:
    """Return the probability of drawing each title, its share of the smoothed popularity, float64 [M].

    Raises:
        ValueError: there is no title, or a popularity is negative or not finite.
    """
    weights = np.asarray(popularity, dtype=np.float64)
    if not weights.size or not np.isfinite(weights).all() or weights.min() < 0:
        raise ValueError("popularity has to contain at least one number, and all have to be finite and at least 0")
    weights = weights + (SMOOTHING * weights.mean() or 1.0)
    return weights / weights.sum()


def train_tokenizer(texts: Sequence[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer that prepends the begin token and pads on the left.

    Args:
        texts: training texts; other texts are encoded in more tokens.
        vocab_size: largest vocabulary; it has at least the 256 bytes and the special tokens.
        max_length: ``model_max_length`` of the tokenizer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, BOS, EOS], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, padding_side="left",
        model_max_length=max_length, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def create_model(
    tokenizer: PreTrainedTokenizerFast, hidden_size: int, n_layers: int, n_heads: int, seed: int
) -> LlamaForCausalLM:
    """Return an untrained Llama with tied embeddings on the CPU, float32; the same seed gives the same weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden_size, intermediate_size=3 * hidden_size,
        num_hidden_layers=n_layers, num_attention_heads=n_heads, max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return LlamaForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerFast, documents: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Encode documents with begin and end token, truncated to ``model_max_length`` and padded on the right.

    Returns:
        input_ids and labels, int64 [B, T] each; labels are -100 on padding. A causal model needs no attention mask for
        padding on the right.
    """
    encoded = tokenizer(list(documents), verbose=False)["input_ids"]
    end, length = tokenizer.eos_token_id, tokenizer.model_max_length
    rows = [torch.tensor((ids + [end])[:length]) for ids in encoded]
    return pad_sequence(rows, True, tokenizer.pad_token_id), pad_sequence(rows, True, -100)


def draw_documents(
    titles: Sequence[str], probabilities: np.ndarray, render: Callable[[Sequence[str]], str], shape: tuple[int, int],
    seed: int,
) -> Iterator[list[str]]:  # fmt: skip
    """Yield batches of documents of independently drawn titles forever; shape is (documents, titles per document)."""
    generator = np.random.default_rng(seed)
    while True:
        drawn = generator.choice(len(titles), size=shape, p=probabilities)
        yield [render([titles[title] for title in row]) for row in drawn]


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    batches: Iterator[list[str]],
    *,
    steps: int,
    learning_rate: float,
    show_progress: bool,
) -> float:
    """Train a causal LM in place with AdamW, warm-up, cosine decay and clipped gradients.

    Args:
        model: model, on the device to train on.
        tokenizer: its tokenizer.
        batches: documents of each optimizer step.
        steps: optimizer steps.
        learning_rate: highest learning rate, reached after a twentieth of the steps.
        show_progress: whether to draw a progress bar.

    Returns:
        Loss per token of the last step, nan for 0 steps.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    loss = torch.tensor(torch.nan)
    bar = progress_bar(range(steps), show_progress, desc="pre-training")
    for _ in bar:
        input_ids, labels = (x.to(model.device) for x in encode(tokenizer, next(batches)))
        loss = model(input_ids=input_ids, labels=labels, use_cache=False).loss
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval()
    return loss.item()


def build_tiny_llm(
    folder: Path, titles: Sequence[str], popularity: Sequence[float], *,
    render: Callable[[Sequence[str]], str] = PromptTemplate.list_titles,
    steps: int = 1000, batch_size: int = 16, titles_per_document: int = 6, learning_rate: float = 3e-3,
    hidden_size: int = 128, n_layers: int = 2, n_heads: int = 4, vocab_size: int = 4096, max_length: int = 512,
    seed: int = 0, show_progress: bool = True, device: torch.device | str = "cpu",
) -> None:  # fmt: skip
    """Pre-train a small causal LM and its tokenizer on a catalogue's titles and write both.

    The model replaces the pre-trained LLM of BIGRec (arXiv 2308.08434). Its training documents list a few titles each,
    drawn by popularity at every step. The same arguments give the same weights.

    Args:
        folder: folder to write, completely or not at all; ``from_pretrained`` of transformers can load it.
        titles: title of every item, any text; may repeat.
        popularity: popularity of each title, on any scale.
        render: returns the text of a document of some titles.
        steps: optimizer steps.
        batch_size: documents per step.
        titles_per_document: titles per document.
        learning_rate: highest learning rate.
        hidden_size, n_layers, n_heads: shape of the model.
        vocab_size: largest vocabulary.
        max_length: maximum number of tokens of a document, also saved as the maximum length of model and tokenizer.
        seed: seed of the initial weights and of the documents.
        show_progress: whether to draw a progress bar.
        device: device to train on.

    Raises:
        ValueError: there is no title, or not one popularity per title, or a popularity is negative or not finite.
        FileExistsError: the folder exists.
    """
    if len(titles) != len(popularity):
        raise ValueError(f"{len(titles)} titles, but {len(popularity)} popularities")
    if folder.exists():
        raise FileExistsError(f"{folder} exists already")
    probabilities = title_probabilities(popularity)
    groups = [titles[start : start + titles_per_document] for start in range(0, len(titles), titles_per_document)]
    tokenizer = train_tokenizer([*map(render, groups), *titles], vocab_size, max_length)
    model = create_model(tokenizer, hidden_size, n_layers, n_heads, seed).to(device)
    documents = draw_documents(titles, probabilities, render, (batch_size, titles_per_document), seed)
    loss = pretrain(model, tokenizer, documents, steps=steps, learning_rate=learning_rate, show_progress=show_progress)
    logging.getLogger().info("tiny LLM: loss per token %.3f after %d steps", loss, steps)
    save(folder, model, tokenizer)


def save(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save model and tokenizer into a new folder, completely or not at all."""
    with atomic_path(folder) as written:
        model.save_pretrained(written)
        tokenizer.save_pretrained(written)
