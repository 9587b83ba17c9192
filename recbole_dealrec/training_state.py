"""All that training depends on between two epochs, so that an interrupted one ends as it would have."""

import random
from typing import Any

import numpy as np
import torch


def random_state(loader_generator: torch.Generator) -> dict[str, Any]:
    """States of all random generators that training draws from, as plain values and tensors."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "loader": loader_generator.get_state(),
    }


def set_random_state(state: dict[str, Any], loader_generator: torch.Generator) -> None:
    """Set the generators to what ``random_state`` gave."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([values.cpu() for values in state["cuda"]])
    loader_generator.set_state(state["loader"].cpu())
