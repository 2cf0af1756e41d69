"""What a worker of vLLM's server needs on a CPU: weights that can be replaced, over gloo.

vLLM imports this file by name in each of its workers, before it loads the model (`--worker-extension-cls`). The import
is the only moment at which a worker can be told anything, so the file acts when it is imported.
"""

from typing import Any

import torch
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

from emor3_trl.engines.opening import prepare_cpu_engine
from emor3_trl.engines.server_weights import BACKEND, INTERRUPTED, find_meeting, join_group


class WorkerExtension:
    """Adds nothing to the worker: naming it imports this file."""


class GlooWeightTransferEngine(NCCLWeightTransferEngine):
    """vLLM's own receiver of weights, which loads them layer by layer, with gloo in place of NCCL."""

    is_interrupted = False

    def init_transfer_engine(self, init_info: Any) -> None:
        """Meet the trainer, which is rank 0."""
        ranks = self.parallel_config
        rank = ranks.data_parallel_index * ranks.world_size + ranks.rank + init_info.rank_offset
        self.meeting = find_meeting(init_info.master_address, init_info.master_port)
        self.model_update_group: Any = join_group(self.meeting, rank, init_info.world_size)

    def start_weight_update(self) -> None:
        """Begin, unless an earlier update ended in the middle: vLLM counts what it has of each layer."""
        if self.is_interrupted:
            raise RuntimeError(f"A weight update is {INTERRUPTED}, which was interrupted.")
        super().start_weight_update()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive the weights one after the other, and load each."""
        self.is_interrupted = True
        announced = self.parse_update_info(update_info)
        for name, dtype, shape in zip(announced.names, announced.dtype_names, announced.shapes, strict=True):
            weight = torch.empty(shape, dtype=getattr(torch, dtype))
            self.model_update_group.broadcast(weight, 0).wait()
            self.model.load_weights([(name, weight)])
        self.is_interrupted = False


WeightTransferEngineFactory.register_engine(BACKEND, GlooWeightTransferEngine)
prepare_cpu_engine()
