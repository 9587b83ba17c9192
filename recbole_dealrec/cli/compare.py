"""``compare``: a comparison of samplers over seeds."""

from recbole_dealrec.cli.run import carry_out


def main(arguments: list[str]) -> int:
    """Compare what the words say, and return the exit code."""
    return carry_out("compare", arguments, compared=True)[0]
