"""Secrets of a user, kept out of what a run writes, prints and reports.

A value is a secret by the name that it stands under, by its form (a password in a URL, a token of the Hub or of W&B),
or because the environment holds it as one.
"""

import json
import os
import re
from functools import lru_cache
from typing import Any

HIDDEN = "…"
SHORTEST = 8  # characters of a secret of the environment: a shorter one stands in too many words

# Names as hub_token, api_key, HF_TOKEN, AWS_SECRET_ACCESS_KEY, Authorization; not eos_token, max_tokens, mask_token_id
_NAME = re.compile(
    r"(^|[-_.])((hub|hf|hugging_?face|hub_push|auth|access|bearer|refresh|session|github|gh|wandb|openai)_?token|"
    r"(api|access|private|secret|session|encryption|signing)_?key|pass(word|wd|phrase)|secrets?|credentials?|"
    r"authorization|auth|cookie)($|[-_.](id|key)$|[-_.]?header$)|^token$|[a-z0-9]_TOKEN$",
    re.IGNORECASE,
)
# A tokenizer's or a sampler's: never a secret, though the name ends alike
_OF_TEXT = re.compile(
    r"^(eos|bos|pad|unk|sep|cls|mask|image|video|audio|vision_\w+|stop|think|start|end|decoder_\w+|\w*special|boi|eoi)"
    r"_token$",
    re.IGNORECASE,
)
_URL = re.compile(r"(?<=://)[^/\s@'\"]+@")  # user:password@
# As long as those of the services: a folder may be called hf_qwen25vl3binstruct or sk-learn-baseline
_FORM = re.compile(
    r"\b(hf_[A-Za-z0-9]{30,}|wandb_v\d_\w{16,}|gh[opsu]_[A-Za-z0-9]{20,}|sk-[\w-]*[A-Za-z0-9]{20,}[\w-]*)"
)


def mask_secrets(value: Any, name: str = "") -> Any:
    """Return a value without the secrets in it, at any depth of mappings and lists.

    Args:
        value: JSON values.
        name: what it stands under.

    Returns:
        The same, with None in the place of a value with a secret's name, and "…" in the place of a secret in a text.

    >>> mask_secrets({"hub_token": "hf_x", "model_init_kwargs": {"token": "hf_x", "dtype": "auto"}})
    {'hub_token': None, 'model_init_kwargs': {'token': None, 'dtype': 'auto'}}
    >>> mask_secrets(["https://me:word@host/data", {"eos_token": "<|im_end|>"}])
    ['https://…@host/data', {'eos_token': '<|im_end|>'}]
    """
    if isinstance(value, dict):
        return {key: mask_secrets(item, str(key)) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(mask_secrets(item, name) for item in value)
    if type(value) is not str:  # an enumeration of texts stays one
        return value
    if is_secret(name):
        return None
    return mask_text(value)


def mask_text(text: str) -> str:
    """Return a text with "…" in the place of secrets; JSON with secrets in it stays JSON.

    >>> mask_text("no connection to http://me:word@proxy:80")
    'no connection to http://…@proxy:80'
    """
    if text.startswith(("{", "[")):
        try:
            content = json.loads(text)
        except ValueError:
            content = None
        masked = mask_secrets(content)
        if masked != content:
            return json.dumps(masked, ensure_ascii=False)
    for secret in _list_known():
        text = text.replace(secret, HIDDEN)
    return _FORM.sub(HIDDEN, _URL.sub(f"{HIDDEN}@", text))


def mask_arguments(arguments: list[str]) -> list[str]:
    """Return a command's arguments with "…" in the place of secrets.

    >>> mask_arguments(["--hub_token", "hf_x", "--hub-token=hf_x", "--seed", "2"])
    ['--hub_token', '…', '--hub-token=…', '--seed', '2']
    """
    shown = []
    for flag, argument in zip(["", *arguments], arguments, strict=False):
        name, equals, _ = argument.partition("=")
        if _is_secret_flag(flag):
            shown.append(HIDDEN)
        else:
            shown.append(f"{name}={HIDDEN}" if equals and _is_secret_flag(name) else mask_text(argument))
    return shown


@lru_cache(maxsize=4096)  # a list of files asks for the same names again and again
def is_secret(name: str) -> bool:
    """Return whether what stands under a name is a secret.

    >>> [is_secret(name) for name in ("hf_token", "WANDB_API_KEY", "push_to_hub_token", "eos_token", "max_tokens")]
    [True, True, True, False, False]
    """
    return bool(_NAME.search(name)) and not _OF_TEXT.match(name)


def _is_secret_flag(flag: str) -> bool:
    return flag.startswith("--") and "=" not in flag and is_secret(flag[2:].replace("-", "_"))


def _list_known() -> list[str]:
    """Return the secrets of the environment, the longest first."""
    values = {value for name, value in os.environ.items() if len(value) >= SHORTEST and is_secret(name)}
    return sorted((value for value in values if not os.path.exists(value)), key=len, reverse=True)
