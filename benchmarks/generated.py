"""Generated data with the shape of a real dataset, for machines without that dataset."""

from pathlib import Path

import numpy as np

USERS, ITEMS, VALID = 45_774, 17_331, 4_000


def write_games_like(folder: Path, users: int = USERS, items: int = ITEMS, valid: int = VALID) -> Path:
    """Write atomic files to ``folder/games`` with as many users and items as Games, or fewer; return ``folder``.

    Histories have a geometric length of mean 5.5, items a Zipf-like popularity. The first ``valid`` users are those of
    the validation and the test part.
    """
    random = np.random.default_rng(0)
    target = folder / "games"
    target.mkdir(parents=True, exist_ok=True)
    weights = 1 / np.arange(10, items + 10)
    lengths = np.minimum(random.geometric(1 / 5.5, users) + 1, 50)
    chosen = random.choice(items, lengths.sum(), p=weights / weights.sum())
    sequences = np.split(chosen, np.cumsum(lengths)[:-1])
    header = "user_id:token\titem_id_list:token_seq\titem_id:token"
    rows = [f"u{user}\t{' '.join(map(str, own[:-1]))}\t{own[-1]}" for user, own in enumerate(sequences)]
    for part, lines in {"train": rows, "valid": rows[:valid], "test": rows[:valid]}.items():
        text = "\n".join([header, *lines, ""])
        (target / f"games.{part}.inter").write_text(text, encoding="utf-8")
    titles = [f"{item}\tgame number {item}" for item in range(items)]
    (target / "games.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *titles, ""]), encoding="utf-8")
    return folder
