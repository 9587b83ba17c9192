"""The command in a checkout: python run_recbole_dealrec.py --dataset=games [--sampler=A,B] [--key=value ...]."""

from recbole_dealrec.cli.command import main

if __name__ == "__main__":
    raise SystemExit(main())
