"""The vLLM engine on a server, so that engine and trainer stand on different GPUs (`vllm_mode: server`).

`ServedEngine` is a `ColocatedEngine` whose `llm` lives elsewhere. Prompts, caches, adapters and checks are the same
code; what differs is how weights reach the engine, and that it never sleeps. Each process sends its own requests; the
main process alone sends weights, while the others wait.
"""

from emor3_trl.engines.colocated import ColocatedEngine, check_adapter_sharding
from emor3_trl.engines.server_checks import server_url
from emor3_trl.engines.server_client import ServerClient
from emor3_trl.engines.server_llm import RemoteLLM


class ServedEngine(ColocatedEngine):
    """A vLLM engine on a server, with the exact prompts and fresh caches of `ColocatedEngine`.

    Args:
        args, kwargs: as for `ColocatedEngine`.
    """

    vllm_client: ServerClient
    _weight_metadata: list[tuple[str, str, list[int]]] | None

    def _init_vllm(self) -> None:
        check_adapter_sharding(self.model, self._dist)
        self.vllm_client = ServerClient(
            base_url=server_url(self.server_base_url, self.server_host, self.server_port),
            group_port=self.group_port,
            connection_timeout=self.server_timeout,
        )
        if self.accelerator.is_main_process:
            self.vllm_client.init_communicator(self.accelerator.device)
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        self.llm = RemoteLLM(self.vllm_client, tokenizer, shared=self.accelerator.num_processes > 1)
        self.mode = "colocate"  # from here on TRL calls `llm`, and not the client of its server mode
        self.tensor_parallel_size = 1  # the server's own affair
        self.enable_sleep_mode = self._llm_weights_sleeping = False
        self.accelerator.wait_for_everyone()

    def sync_weights(self) -> None:
        """Send the policy's weights to the server and drop all that it computed with the old ones."""
        self.accelerator.wait_for_everyone()  # nobody asks any more
        if self._weight_metadata is None:
            self._weight_metadata = [
                (name, str(weight.dtype).removeprefix("torch."), list(weight.shape))
                for name, weight in self._iter_named_params()
            ]
        if self.accelerator.is_main_process:
            self.vllm_client.update_named_params(self._weight_metadata, self._iter_named_params())
            self.vllm_client.reset_caches()
        else:
            for _ in self._iter_named_params():  # takes part in gathering what is sharded
                pass
        self.accelerator.wait_for_everyone()  # nobody asks yet

    def reset_caches(self) -> None:
        """Drop what was computed of earlier prompts."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.vllm_client.reset_caches()
        self.accelerator.wait_for_everyone()
