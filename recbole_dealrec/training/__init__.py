"""Training: RecBole's trainers with safetensors checkpoints, for surrogates and language models."""
