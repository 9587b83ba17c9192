"""DEALRec for RecBole: few-shot fine-tuning data for LLM recommenders, chosen by influence and effort."""

__version__ = "0.1.0"

__all__ = ["run_recbole_dealrec"]


def __getattr__(name: str):
    if name == "run_recbole_dealrec":
        from recbole_dealrec.quick_start import run_recbole_dealrec

        return run_recbole_dealrec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
