"""Few-shot fine-tuning of a language model in RecBole's training loop."""

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils.memory import clear_device_cache
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction

from recbole_dealrec.config import Config
from recbole_dealrec.data import Fields, QueryDataLoader, SpareBatch
from recbole_dealrec.distributed import fsdp, processes
from recbole_dealrec.model.memory import smaller_helps
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.model.reweighting import Reweighting
from recbole_dealrec.store.console import CONSOLE, progress_bar
from recbole_dealrec.store.opening import process_folder
from recbole_dealrec.store.run_folder import UNFINISHED, RunFolder
from recbole_dealrec.store.step import stopwatch
from recbole_dealrec.training.collector import COLLECTED, JoinedCollector
from recbole_dealrec.training.query_evaluator import QueryEvaluator
from recbole_dealrec.training.safetensors_trainer import OnEpoch, SafetensorsTrainer, unheard

_SECONDS = 30  # between two writes of the evaluation's state


class LLMTrainer(SafetensorsTrainer):
    """Fine-tune with RecBole's loop, early stopping, collector and evaluator, and Accelerate's mixed precision.

    An optimiser step uses ``train_batch_size`` samples over all processes, a forward pass ``micro_batch_size`` of one
    process; the gradient is the mean over the step's samples. The learning rate follows ``rate_share``. Early stopping
    uses the validation loss with ``valid_metric: loss`` (the paper), or else the metric that the key names. An
    interrupted ``test`` resumes from the last saved batch.
    """

    _test_file = f"evaluation.state{UNFINISHED}"
    _batches_tested: int | None = None
    _reweighting: Reweighting | None = None

    def __init__(
        self, config: Config, model: LLMRecommender, folder: RunFolder, name: str, on_epoch: OnEpoch = unheard
    ) -> None:
        super().__init__(config, model, folder, name, on_epoch)
        AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
        self.accelerator = Accelerator(mixed_precision=config["mixed_precision"], cpu=self.device.type == "cpu")
        self.optimizer = self.accelerator.prepare_optimizer(self.optimizer)
        self._reweighted = JoinedCollector(config)
        self._sharded = fsdp.is_sharded(model.network)
        self._micro_batch_size = config["micro_batch_size"]

    def save(self, path: Path) -> None:
        self.model.save(path)

    def load(self, path: Path) -> None:
        self.model.load(path)

    def fit(self, train_data, *args, **kwargs):
        if processes.world_size() > 1:
            torch.manual_seed(self.config["seed"] + processes.rank())  # another dropout in each process
        return super().fit(train_data, *args, **kwargs)

    def state(self, train_data, epoch: int) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            **super().state(train_data, epoch),
            "optimizer": self._optimizer_state(),
            "scaler": scaler.state_dict() if scaler else {},
        }

    def _set_state(self, state: dict[str, Any], train_data) -> None:
        super()._set_state(state, train_data)
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    values[name] = fsdp.shard_like(parameter, value)
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _optimizer_state(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()
        full = {
            place: {name: fsdp.full_tensor(value) for name, value in values.items()}
            for place, values in state["state"].items()
        }
        return {**state, "state": full}

    def _weights(self) -> dict[str, torch.Tensor]:
        named = self.model.named_parameters()
        return {name: fsdp.full_tensor(value.detach()) for name, value in named if value.requires_grad}

    def _set_weights(self, weights: dict[str, torch.Tensor]) -> None:
        parameters = dict(self.model.named_parameters())
        for name, value in weights.items():
            parameters[name].data.copy_(fsdp.shard_like(parameters[name], value))

    def collect_data(self, train_data: TrainDataLoader) -> None:
        """Collect the training data that metrics such as ItemCoverage need, for ``test`` and ``evaluate``."""
        for collector in (self.eval_collector, self._reweighted):
            collector.data_collect(train_data)

    @torch.no_grad()
    def rankings(self, queries: QueryDataLoader) -> Iterator[tuple[torch.Tensor, Interaction, list[torch.Tensor]]]:
        """Yield the scores of all items for each batch of queries, the batch, and rows and ids of positive items."""
        self.model.eval()
        self.tot_item_num = queries.dataset.item_num
        for batch in queries:
            interaction, scores, *positives = self._full_sort_batch_eval(batch)
            if len(scores):
                yield scores, interaction.to(self.device), positives

    def test(
        self, test_data: QueryDataLoader, show_progress: bool = False, reweighting: Reweighting | None = None
    ) -> dict[str, float]:
        """Return the metrics of the best weights on the test part; ``reweighted_result`` returns the re-weighted ones.

        Args:
            test_data: test queries.
            show_progress: whether to show a progress bar.
            reweighting: re-weights the rankings for ``reweighted_result``.
        """
        self._reweighting = reweighting
        self._batches_tested, self._test_saved = 0, perf_counter()
        self._test_folder = process_folder(self.folder)
        if self._test_folder.has(self._test_file):
            state = torch.load(self._test_folder / self._test_file, self.device, weights_only=True)
            if (state["batch_size"], state["processes"]) == (self.test_batch_size, processes.world_size()):
                stopwatch.resume(state["seconds"])
                self._batches_tested = state["batches"]
                self.eval_collector.data_struct._data_dict.update(state["collected"])
                self._reweighted.data_struct._data_dict.update(state["reweighted"])
                CONSOLE.info(f"evaluation resumes after {self._batches_tested} of {len(test_data)} batches")
        test_data.first_batch = self._batches_tested * processes.world_size()
        result = self.evaluate(test_data, show_progress=show_progress)
        return {metric: float(value) for metric, value in result.items()}

    def _full_sort_batch_eval(self, batched_data):
        if self._batches_tested is not None:
            # RecBole has collected all batches before this one.
            if perf_counter() - self._test_saved > _SECONDS:
                self._save_test_state()
            self._batches_tested += 1
        with self.accelerator.autocast():
            interaction, scores, *positives = super()._full_sort_batch_eval(batched_data)
        if isinstance(batched_data, SpareBatch):
            scores, *positives = (values[:0] for values in (scores, *positives))
        if self._reweighting and len(scores):
            queries = interaction.to(self.device)
            self._reweighted.eval_batch_collect(self._reweighting(scores, queries), queries, *positives)
        return interaction, scores, *positives

    def reweighted_result(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the metrics of the re-weighted rankings of the last ``test``, and their standard errors."""
        evaluator = QueryEvaluator(self.config)
        struct = self._reweighted.get_data_struct()
        result = {metric: float(value) for metric, value in evaluator.evaluate(struct).items()}
        return result, evaluator.standard_errors()

    def _save_test_state(self) -> None:
        data, reweighted = (each.data_struct._data_dict for each in (self.eval_collector, self._reweighted))
        state = {
            "batch_size": self.test_batch_size,
            "processes": processes.world_size(),
            "batches": self._batches_tested,
            "seconds": stopwatch.seconds(),
            "collected": {name: data[name] for name in COLLECTED if name in data},
            "reweighted": {name: value for name, value in reweighted.items() if name in COLLECTED},
        }
        with self._test_folder.output(self._test_file) as path:
            torch.save(state, path)
        self._test_saved = perf_counter()

    def _build_optimizer(self, **kwargs):
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return super()._build_optimizer(params=self._trained, **kwargs)

    def _train_epoch(self, train_data, epoch_idx: int, loss_func=None, show_progress: bool = False) -> float:
        """Train one epoch; return the mean loss of a sample."""
        self._save_state(train_data, epoch_idx)
        self._place = epoch_idx, 0
        self.model.train()
        total, count = 0.0, 0
        progress = progress_bar(train_data, show_progress, desc=self._epoch_name(epoch_idx))
        for interaction in progress:
            loss = self._step(interaction)
            total, count = total + loss * len(interaction), count + len(interaction)
            progress.set_postfix(loss=f"{loss:.4f}")
        self._check_weights(epoch_idx)
        self.curve.add_loss(total / count)
        return total / count

    def _step(self, interaction: Interaction) -> float:
        """Do one optimiser step; return the mean loss of the samples before it.

        If memory runs out, ``micro_batch_size`` is halved for the rest of the run and the step is repeated.
        """
        while True:
            try:
                step_loss = self._accumulate(interaction)
                break
            except Exception as error:
                if self._micro_batch_size == 1 or not smaller_helps(error):
                    raise
            self.optimizer.zero_grad()
            clear_device_cache(garbage_collection=True)
            self._micro_batch_size //= 2
            self.logger.warning(f"out of memory: micro_batch_size is {self._micro_batch_size} from now on")
        if not self._sharded:
            processes.sum_gradients(self._trained)
        if self.clip_grad_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return sum(processes.gather(step_loss))

    def _accumulate(self, interaction: Interaction) -> float:
        """Accumulate gradients over this process's samples of a step; return their share of the mean loss."""
        size, step_loss = len(interaction), 0.0
        for batch, counts in fsdp.in_lockstep(self._micro_batches(interaction), lambda: interaction[:1]):
            with self.accelerator.autocast():
                loss = self._loss(batch)
            loss = loss * (len(batch) / size if counts else 0)
            self._check_nan(loss)
            # FSDP averages gradients over the processes.
            self.accelerator.backward(loss * processes.world_size() if self._sharded else loss)
            step_loss += loss.item()
        return step_loss

    def _micro_batches(self, interaction: Interaction) -> Iterator[Interaction]:
        """Yield this process's samples of a step, ``micro_batch_size`` of similar length at a time."""
        order = interaction[self.model.ITEM_SEQ_LEN].argsort(stable=True)
        interaction = interaction[order[processes.rank() :: processes.world_size()]]
        for start in range(0, len(interaction), self._micro_batch_size):
            yield interaction[start : start + self._micro_batch_size]

    def _valid_epoch(self, valid_data, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        if self.valid_metric != "loss":
            return super()._valid_epoch(valid_data, show_progress)
        loss = self._mean_loss(valid_data, show_progress)
        self.curve.add_result(self._place[0], {"loss": loss})
        return loss, {"loss": loss}

    @torch.no_grad()
    def _mean_loss(self, valid_data, show_progress: bool) -> float:
        """Return the mean loss of all (query, positive item) pairs."""
        self.model.eval()
        total, count = 0.0, 0
        for batch in progress_bar(valid_data, show_progress, desc="validation"):
            queries, _, query, item = batch
            rows = queries[query]
            rows.update(Interaction({Fields.of(self.config).item: item}))
            with self.accelerator.autocast():
                losses = self.model.sample_losses(rows)
            if not isinstance(batch, SpareBatch):
                total, count = total + float(losses.sum()), count + len(rows)
        total, count = map(sum, zip(*processes.gather((total, count)), strict=True))
        return total / count
