"""What an evaluation collects, of all processes together."""

import torch
from recbole.evaluator import Collector

from recbole_dealrec.distributed import processes

COLLECTED = ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label")  # RecBole's, batch by batch


class JoinedCollector(Collector):
    """RecBole's collector, over what all processes collected. RecBole's own fails on what is no tensor: the counts that
    ItemCoverage, AveragePopularity and others need."""

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
        """Take what the other processes collected; each query was one process's, so none is counted twice."""
        if processes.world_size() == 1:
            return
        data = self.data_struct._data_dict
        shares = processes.gather({name: data[name].cpu() for name in COLLECTED if name in data})
        for name in set().union(*shares):
            data[name] = torch.cat([share[name] for share in shares if name in share])
