"""DEALRec for RecBole: few-shot fine-tuning data for LLM recommenders, chosen by influence and effort."""

from importlib import import_module
from logging import ERROR, getLogger

from recbole_dealrec.compat import prepare_recbole, recbole_folder

prepare_recbole()

__version__ = "0.2.0"

getLogger("bitsandbytes").setLevel(ERROR)  # PEFT imports it, and it warns about faster kernels on some CPUs

__all__ = ["compare_samplers", "recommend", "run_recbole_dealrec", "select_fewshot"]


def __getattr__(name: str):
    # Import on first access: the import takes seconds, and not every use of the package needs it.
    if name in __all__:
        recbole_folder()  # raises InputError if RecBole is missing
    if name == "recommend":
        return import_module("recbole_dealrec.recommend")  # a module that can be called
    if name in __all__:
        return getattr(import_module("recbole_dealrec.quick_start"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
