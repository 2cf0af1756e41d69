"""One engine for several models, one after the other, as an evaluation of the checkpoints of one base needs it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoProcessor

from emor3_trl.checkpoints import find_base, whole_checkpoint
from emor3_trl.engines.engine import Engine
from emor3_trl.engines.opening import MAX_PROMPT_TOKENS, compute_dtype, open_engine, open_llm, resolve_engine
from emor3_trl.engines.shapes import describe_shape
from emor3_trl.engines.vllm import VLLMEngine

_EXTENSION = "emor3_trl.engines.vllm_weights.CheckpointLoading"


class SuccessiveEngine:
    """Serves models one after the other; on vLLM, models of equal shapes share one engine.

    The weights of the next model are copied into those of the last one, and what was computed with those is forgotten.
    So the device never holds two models, and each model answers as it does on an engine of its own.

    Args:
        engine, dtype, max_tokens, seed: see `open_engine`.

    Attributes:
        starts: how often vLLM was started.
    """

    def __init__(self, *, engine: str = "auto", dtype: str = "auto", max_tokens: int = 2048, seed: int = 0) -> None:
        self.engine, self.dtype, self.max_tokens, self.seed = engine, dtype, max_tokens, seed
        self.starts = 0
        self._running = ExitStack()  # ends the vLLM engine
        self._llm: Any | None = None
        self._loaded = ""  # its model's folder, or name on the Hub
        self._shape: dict[str, Any] | None = None  # of the models that it takes; None if it takes no other

    def __enter__(self) -> "SuccessiveEngine":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the engine that runs, and free what it held."""
        self._llm, self._shape = None, None
        self._running.close()

    @contextmanager
    def serve(
        self,
        model_path: str | Path,
        *,
        base_model: str | None = None,
        max_prompt_tokens: int = MAX_PROMPT_TOKENS,
        scratch: str | Path | None = None,
    ) -> Iterator[Engine]:
        """Give an engine with a model. After an error in the block, the next model gets another engine.

        Args:
            model_path, base_model, max_prompt_tokens, scratch: see `open_engine`.

        Raises:
            ValueError: if the checkpoint lacks weights of the model.
        """
        if resolve_engine(self.engine) == "transformers":
            options: dict[str, Any] = {"base_model": base_model, "scratch": scratch}
            options |= {name: getattr(self, name) for name in ("engine", "dtype", "max_tokens", "seed")}
            with open_engine(model_path, max_prompt_tokens=max_prompt_tokens, **options) as engine:
                yield engine
            return
        try:
            with ExitStack() as block:
                folder = block.enter_context(whole_checkpoint(model_path, base_model, scratch))
                processor = AutoProcessor.from_pretrained(folder, padding_side="left", trust_remote_code=False)
                shape = describe_shape(folder, processor) | {"max_prompt_tokens": max_prompt_tokens}
                if self._shape is None or self._shape != shape:
                    self._start(folder, find_base(model_path, base_model), shape)
                if self._loaded != folder:
                    self._load(folder)
                if self._shape is not None:
                    block.close()  # a merged adapter is needed no longer
                opened = VLLMEngine(self._llm, processor)
                try:
                    yield opened
                finally:
                    opened.close()
                if self._shape is None:
                    self.close()
        except BaseException:
            self.close()
            raise

    def _start(self, folder: str, base: str, shape: dict[str, Any]) -> None:
        """Start vLLM on a model: on the base of a merged adapter, whose own folder goes before the engine does."""
        self.close()
        if base != folder:
            processor = AutoProcessor.from_pretrained(base, trust_remote_code=False)
            fits = describe_shape(base, processor) | {"max_prompt_tokens": shape["max_prompt_tokens"]} == shape
            self._open(base if fits else folder, shape)
            if not fits:
                self._shape = None
            elif self._shape is None:
                self.close()
                self._open(folder, shape)
                self._shape = None
            return
        self._open(folder, shape)

    def _open(self, folder: str, shape: dict[str, Any]) -> None:
        tokens = shape["max_prompt_tokens"], self.max_tokens
        opened = open_llm(folder, compute_dtype(self.dtype), *tokens, self.seed, worker_extension_cls=_EXTENSION)
        self._llm = self._running.enter_context(opened)
        self.starts += 1
        self._loaded = folder
        self._shape = shape if all(self._llm.collective_rpc("takes_other_weights")) else None

    def _load(self, folder: str) -> None:
        assert self._llm is not None
        missing = {name for names in self._llm.collective_rpc("load_checkpoint", args=(folder,)) for name in names}
        if missing:
            raise ValueError(
                f"The checkpoint '{folder}' lacks {len(missing)} weights of its model (first: {min(missing)}). Save it "
                "again, or copy it again from where it was trained."
            )
        self._loaded = folder
        self._llm.reset_prefix_cache()
        self._llm.llm_engine.reset_encoder_cache()
