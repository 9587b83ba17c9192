"""``compare``: a comparison of samplers over seeds."""

from recbole_dealrec.cli.run import carry_out


def main(arguments: list[str]) -> int:
    """Run the comparison that the arguments describe, and return the exit code."""
    return carry_out("compare", arguments, compared=True)[0]
