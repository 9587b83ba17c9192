"""RecBole's collector of evaluation data, joined over all processes."""

import torch
from recbole.evaluator import Collector

from recbole_dealrec.config import Config
from recbole_dealrec.distributed import processes

COLLECTED = ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label")  # RecBole's, batch by batch


class JoinedCollector(Collector):
    """Collect evaluation data of all processes.

    RecBole's own collector fails on values that are not tensors: the counts for ItemCoverage, AveragePopularity, ...
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        for name in ("rec.items", "rec.topk"):  # the items of the rankings, for the parts of Recall
            setattr(self.register, name, True)

    def get_data_struct(self):
        self._join()
        plain = {name: value for name, value in self.data_struct._data_dict.items() if not torch.is_tensor(value)}
        for name in plain:
            del self.data_struct[name]
        struct = super().get_data_struct()
        for name, value in plain.items():
            struct[name] = self.data_struct[name] = value
        return struct

    def _join(self) -> None:
        """Concatenate the data of all processes; each query belongs to one process."""
        if processes.world_size() == 1:
            return
        data = self.data_struct._data_dict
        shares = processes.gather({name: data[name].cpu() for name in COLLECTED if name in data})
        for name in set().union(*shares):
            data[name] = torch.cat([share[name] for share in shares if name in share])
