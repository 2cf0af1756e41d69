"""A `vllm.LLM` that lives in a server: the same requests, over HTTP.

Prompts travel as token ids, so what the policy wrote stays data on the server too, and an image travels once.
"""

import base64
import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import msgspec
import torch
from PIL import Image
from vllm import RequestOutput, SamplingParams
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from emor3_trl.engines.server_checks import ServerError
from emor3_trl.engines.server_client import CONNECTIONS, ServerClient

NOT_CACHED = "Cache miss"  # begins what vLLM says of an image that it has not, or has no more


class RemoteLLM:
    """A `vllm.LLM` on a server, as far as this project uses one.

    Args:
        client: the server.
        tokenizer: the model's, which reads the completions.
        shared: whether other processes use the server at the same time. Caches are then dropped by those who know that
            nobody asks (`ServerClient.reset_caches`), not by a call of this object.
    """

    def __init__(self, client: ServerClient, tokenizer: Any, shared: bool) -> None:
        self.client, self.tokenizer, self.shared = client, tokenizer, shared
        self.llm_engine = self  # where `vllm.LLM` keeps `reset_encoder_cache`
        self._known: set[str] = set()  # images that the server has been sent

    def reset_prefix_cache(self) -> None:
        """Drop what was computed of earlier prompts and images."""
        if not self.shared:
            self.client.reset_caches()

    def reset_encoder_cache(self) -> None:
        """Do nothing: `reset_prefix_cache` has dropped the images, too."""

    def generate(
        self,
        prompts: Sequence[dict[str, Any]],
        sampling_params: Any,
        use_tqdm: bool = False,  # noqa: ARG002  # there is no progress bar
    ) -> list[RequestOutput]:
        """Return what `vllm.LLM.generate` would, with one request a prompt.

        Where something is drawn, each request gets a seed from torch's generator, which is saved with a checkpoint:
        in which order requests reach the server does not matter, and a resumed run draws what it would have.

        Args:
            prompts: each with `prompt_token_ids`, one image token an image, and `multi_modal_data`.
            sampling_params: of all prompts, or a list of one for each.
            use_tqdm: as `vllm.LLM` has it.
        """
        if isinstance(sampling_params, SamplingParams):
            start = int(torch.randint(2**40, ())) if sampling_params.temperature > 0 else 0
            sampling_params = [_seed(sampling_params, start + row * sampling_params.n) for row in range(len(prompts))]
        rows = [_list_images(prompt) for prompt in prompts]
        distinct = {id(image): image for row in rows for image in row}
        if not prompts:
            return []
        with ThreadPoolExecutor(max_workers=min(CONNECTIONS, len(prompts))) as executor:
            names = dict(zip(distinct, executor.map(_name_image, distinct.values()), strict=True))
            named = [[(names[id(image)], image) for image in row] for row in rows]
            return list(executor.map(self._ask, prompts, sampling_params, named))

    def _ask(self, prompt: dict[str, Any], params: SamplingParams, images: list[tuple[str, Any]]) -> RequestOutput:
        body = {
            "model": self.client.model,
            "token_ids": list(prompt["prompt_token_ids"]),
            "sampling_params": _write_params(params),
            "return_token_ids": True,
        }
        try:
            answer = self._post(body, images, {name for name, _ in images} - self._known)
        except ServerError as error:
            if NOT_CACHED not in str(error):
                raise
            answer = self._post(body, images, {name for name, _ in images})
        self._known.update(name for name, _ in images)
        return self._read_output(answer, params)

    def _post(self, body: dict[str, Any], images: list[tuple[str, Any]], sent: set[str]) -> dict[str, Any]:
        """Send a request with those of its images whose names are in `sent`; the server knows the others by name."""
        parts = [
            {"type": "image_url", "uuid": name, "url": _encode_image(image) if name in sent else None}
            for name, image in images
        ]
        url = f"{self.client.base_url}/inference/v1/generate"
        return self.client._post(url, json={**body, "content_parts": parts or None})

    def _read_output(self, answer: dict[str, Any], params: SamplingParams) -> RequestOutput:
        usage, outputs = answer["usage"], []
        for choice in answer["choices"]:
            text = self._read_text(answer["prompt_token_ids"], choice, params) if params.detokenize else ""
            listed = choice["logprobs"]
            outputs.append(
                CompletionOutput(
                    choice["index"],
                    text,
                    choice["token_ids"],
                    cumulative_logprob=None,
                    logprobs=None if listed is None else [_read_log_probs(entry) for entry in listed["content"]],
                    finish_reason=choice["finish_reason"],
                )
            )
        return RequestOutput(
            answer["request_id"],
            None,
            answer["prompt_token_ids"],
            None,
            outputs,
            finished=True,
            num_cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        )

    def _read_text(self, prompt_ids: list[int], choice: dict[str, Any], params: SamplingParams) -> str:
        """Return a completion's text as vLLM reads it, which leaves out half of a character at the end."""
        request: Any = SimpleNamespace(request_id="", sampling_params=params, prompt_token_ids=prompt_ids)
        reader: Any = IncrementalDetokenizer.from_new_request(self.tokenizer, request)
        reader.update(choice["token_ids"], stop_terminated=choice["finish_reason"] == "stop" and not params.stop)
        return reader.output_text


def _seed(params: SamplingParams, seed: int) -> SamplingParams:
    if params.temperature == 0 or params.seed is not None:
        return params
    seeded = params.clone()
    seeded.seed = seed
    return seeded


def _write_params(params: SamplingParams) -> dict[str, Any]:
    # What has its default is left out; of `max_tokens` alone the server has another
    written = {**msgspec.to_builtins(params, str_keys=True), "max_tokens": params.max_tokens}
    if params.logprob_token_ids and params.logprobs is None:
        # The server lists as many as `logprobs` says, the sampled token first: one more makes room for all
        wanted = params.logprob_token_ids
        spare = next(token for token in range(len(wanted) + 1) if token not in wanted)
        written |= {"logprob_token_ids": [*wanted, spare], "logprobs": len(wanted) + 1}
    return written


def _read_log_probs(entry: dict[str, Any]) -> dict[int, Logprob]:
    """Return the log-probabilities of one place by token; the sampled one is always among them."""
    listed = [entry, *entry["top_logprobs"]]
    return {
        int(place["token"].removeprefix("token_id:")): Logprob(place["logprob"], rank)
        for rank, place in enumerate(listed)
    }


def _list_images(prompt: dict[str, Any]) -> list[Any]:
    images = prompt.get("multi_modal_data", {}).get("image", [])
    return images if isinstance(images, list) else [images]


def _name_image(image: Image.Image) -> str:
    """Return a name that no other image has."""
    return hashlib.sha256(repr((image.mode, image.size)).encode() + image.tobytes()).hexdigest()


def _encode_image(image: Image.Image) -> str:
    """Return an image without loss, in the colours that the trainer's processor reads."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
