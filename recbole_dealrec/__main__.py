"""Entry point of ``python -m recbole_dealrec``."""

from recbole_dealrec.cli.command import main

if __name__ == "__main__":
    raise SystemExit(main())
