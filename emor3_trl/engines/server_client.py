"""vLLM's server as a trainer calls it: requests whose faults are one line, and weights over a group of processes."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
import torch
from requests.adapters import HTTPAdapter
from torch.distributed import TCPStore
from trl.generation.vllm_client import VLLMClient
from vllm.utils.network_utils import get_ip

from emor3_trl.engines.server_checks import ServerError
from emor3_trl.engines.server_weights import INTERRUPTED, join_group, open_meeting

CONNECTIONS = 256  # requests of a process at once; vLLM makes batches of them
# A machine that is gone is noticed in a minute. A server that dies closes its connections by itself.
KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, socket_options=KEEPALIVE, **kwargs)


class ServerClient(VLLMClient):
    """TRL's client, with errors of one line, fresh caches, and weights for a server on a CPU.

    It fails at once, where TRL's tries again for a minute: a server that was started anew in the meantime would answer
    with the weights that it has loaded.

    Args:
        kwargs: as for `trl.generation.vllm_client.VLLMClient`.
    """

    base_url: str
    communicator: Any
    _meeting: TCPStore | None = None  # with the workers of a server on a CPU

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.session.mount("http://", _Adapter(pool_maxsize=CONNECTIONS))
        self.session.mount("https://", _Adapter(pool_maxsize=CONNECTIONS))

    def _get(self, url: str, **kwargs: Any) -> Any:
        return self._call(self.session.get, url, **kwargs).json()

    def _post(self, url: str, **kwargs: Any) -> Any:
        response = self._call(self.session.post, url, **kwargs)
        return response.json() if response.content else {}

    def _call(self, method: Any, url: str, **kwargs: Any) -> requests.Response:
        try:
            response = method(url, **kwargs)
        except requests.RequestException as error:
            raise ServerError(
                f"vLLM's server at {self.base_url} does not answer ({type(error).__name__}): it has stopped, or the "
                "network is broken. See its log, start it again, then run the same command, which goes on from the "
                "last checkpoint."
            ) from error
        if response.status_code != 200:
            raise ServerError(f"vLLM's server at {self.base_url} refused {url.split('/')[-1]}: {_explain(response)}")
        return response

    def init_communicator(self, device: torch.device | str | int = 0) -> None:
        """Meet the server's workers; over NCCL on GPUs, over gloo on a CPU.

        Args:
            device: the trainer's.
        """
        if torch.device(device).type != "cpu":
            super().init_communicator(device)
            return
        address = "127.0.0.1" if self.host in ("localhost", "127.0.0.1", "0.0.0.0") else get_ip()
        size = self.get_world_size() + 1
        self._meeting = open_meeting(address)
        init_info = {"master_address": address, "master_port": self._meeting.port, "rank_offset": 1, "world_size": size}
        with ThreadPoolExecutor(max_workers=1) as executor:  # the workers wait for the trainer, and it for them
            url = f"{self.base_url}/init_weight_transfer_engine"
            future = executor.submit(self._post, url, json={"init_info": init_info})
            self.communicator = join_group(self._meeting, 0, size)
            future.result()

    def close_communicator(self) -> None:
        """Leave the group."""
        if self._meeting is not None:
            self.communicator = self._meeting = None
        else:
            super().close_communicator()

    def _start_weight_update(self) -> None:
        try:
            super()._start_weight_update()
        except ServerError as error:
            if INTERRUPTED not in str(error):
                raise
            raise ServerError(
                f"An earlier trainer was stopped while it sent weights to vLLM's server at {self.base_url}, which has "
                "a part of them. Start the server again."
            ) from error

    def update_named_params(
        self, metadata: list[tuple[str, str, list[int]]], named_params: Iterator[tuple[str, torch.Tensor]]
    ) -> None:
        """Stream weights to the server.

        Args:
            metadata: name, type and shape of each.
            named_params: names and weights, in the same order.
        """
        if self._meeting is None:
            super().update_named_params(metadata, named_params)
            return
        names, dtypes, shapes = (list(part) for part in zip(*metadata, strict=True))
        update_info = {"names": names, "dtype_names": dtypes, "shapes": shapes}
        self._start_weight_update()
        with ThreadPoolExecutor(max_workers=1) as executor:
            future = executor.submit(self._post, f"{self.base_url}/update_weights", json={"update_info": update_info})
            try:
                for _, weight in named_params:
                    self.communicator.broadcast(weight.detach().contiguous(), 0).wait()
            except RuntimeError as error:  # the server's side has ended; its answer says why
                future.result()
                raise ServerError(f"vLLM's server at {self.base_url} stopped taking weights: {error}") from error
            future.result()
        self._finish_weight_update()

    def reset_caches(self) -> None:
        """Drop what the server computed with earlier weights: prefixes, and what the vision tower made of images."""
        if not self._post(f"{self.base_url}/reset_prefix_cache").get("success", True):
            raise ServerError(
                f"vLLM's server at {self.base_url} cannot drop its prefix cache, because it answers somebody else. "
                "Give each run a server of its own."
            )
        self._post(f"{self.base_url}/reset_encoder_cache")


def _explain(response: requests.Response) -> str:
    try:
        answer = response.json()
        said = answer.get("error", answer) if isinstance(answer, dict) else answer
        return str(said.get("message", said) if isinstance(said, dict) else said)
    except ValueError:
        return f"{response.status_code} {response.text}"
