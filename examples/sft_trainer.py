"""Fine-tune a language model with LoRA on a run's few-shot samples by TRL's SFTTrainer.

    python examples/sft_trainer.py saved/<run>/fewshot.jsonl --model Qwen/Qwen2.5-0.5B --output adapter

Needs ``pip install trl datasets``. The tiny LLM, saved/tiny-llm-<dataset>-<digest>, does as --model too.
"""

import argparse
from typing import Any

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer


def tokenised(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """TRL's format of tokenised samples; prompt and completion hold their special tokens as text."""
    texts = [row["prompt"], row["completion"]]
    prompt, completion = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return {"input_ids": prompt + completion, "completion_mask": [0] * len(prompt) + [1] * len(completion)}


def make_trainer(fewshot: str, model: str, output: str, epochs: int, learning_rate: float) -> SFTTrainer:
    """Return the trainer, whose loss is that of the completion alone."""
    samples = load_dataset("json", data_files=fewshot, split="train")
    tokenizer = AutoTokenizer.from_pretrained(model)
    return SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=samples.map(tokenised, fn_kwargs={"tokenizer": tokenizer}, remove_columns=samples.column_names),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        args=SFTConfig(
            output_dir=output,
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            per_device_train_batch_size=16,
            completion_only_loss=True,
            max_length=None,
            bf16=torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fewshot", help="fewshot.jsonl of a run")
    parser.add_argument("--model", required=True, help="Hugging Face id or folder of a causal language model")
    parser.add_argument("--output", default="adapter", help="folder of the adapter")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    trainer = make_trainer(**vars(parser.parse_args()))
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
