"""DEALRec for RecBole: few-shot fine-tuning data for LLM recommenders, chosen by influence and effort."""

__version__ = "0.1.0"

__all__ = ["compare_samplers", "run_recbole_dealrec"]


def __getattr__(name: str):
    if name in __all__:
        from recbole_dealrec import quick_start  # takes seconds, and not everyone who imports the package runs it

        return getattr(quick_start, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
