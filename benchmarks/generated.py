"""Generated data of a real dataset's shape, for machines that do not have it."""

from pathlib import Path

import numpy as np

USERS, ITEMS, VALID = 45_774, 17_331, 4_000


def write_games_like(folder: Path) -> Path:
    """Atomic files in ``folder/games`` with as many users and items as Games; returns ``folder``.

    Histories have a geometric length of mean 5.5, items a Zipf-like popularity.
    """
    random = np.random.default_rng(0)
    target = folder / "games"
    target.mkdir(parents=True, exist_ok=True)
    weights = 1 / np.arange(10, ITEMS + 10)
    lengths = np.minimum(random.geometric(1 / 5.5, USERS) + 1, 50)
    items = random.choice(ITEMS, lengths.sum(), p=weights / weights.sum())
    sequences = np.split(items, np.cumsum(lengths)[:-1])
    header = "user_id:token\titem_id_list:token_seq\titem_id:token"
    rows = [f"u{user}\t{' '.join(map(str, items[:-1]))}\t{items[-1]}" for user, items in enumerate(sequences)]
    for part, lines in {"train": rows, "valid": rows[:VALID], "test": rows[:VALID]}.items():
        text = "\n".join([header, *lines, ""])
        (target / f"games.{part}.inter").write_text(text, encoding="utf-8")
    titles = [f"{item}\tgame number {item}" for item in range(ITEMS)]
    (target / "games.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *titles, ""]), encoding="utf-8")
    return folder
