"""Fine-tune a language model with LoRA on a run's few-shot samples by TRL's SFTTrainer.

    python examples/sft_trainer.py saved/<run>/fewshot.jsonl --model Qwen/Qwen2.5-0.5B --output adapter

Needs ``pip install trl datasets``. The tiny LLM, saved/tiny-llm-<dataset>-<digest>, does as --model too.
"""

import argparse
from typing import Any

import torch
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer


def prompt_and_completion(row: dict[str, Any]) -> dict[str, Any]:
    """TRL's format, in which the completion alone is learnt; TIGER's samples have no instruction."""
    if "messages" in row:  # of a run with chat_template
        return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}
    return {"prompt": f"{row['instruction']}\n{row['input']}\n".lstrip(), "completion": row["output"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fewshot", help="fewshot.jsonl of a run")
    parser.add_argument("--model", required=True, help="Hugging Face id or folder of a causal language model")
    parser.add_argument("--output", default="adapter", help="folder of the adapter")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    arguments = parser.parse_args()

    samples = load_dataset("json", data_files=arguments.fewshot, split="train")
    trainer = SFTTrainer(
        model=arguments.model,
        train_dataset=samples.map(prompt_and_completion, remove_columns=samples.column_names),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        args=SFTConfig(
            output_dir=arguments.output,
            num_train_epochs=arguments.epochs,
            learning_rate=arguments.learning_rate,
            per_device_train_batch_size=16,
            bf16=torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
        ),
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
