"""A reward in a file of the user's: `my_rewards.py:brief` becomes a function that TRL can call, or an error says why.

Naming a file runs it: whoever may write it may do what the user may do. Its path is relative to the working directory.
"""

import hashlib
import inspect
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

# What TRL passes to a reward beside the columns of the data, and the columns that it does not pass
PASSED = ("completions", "prompts", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")
NOT_PASSED = ("prompt", "completion")


def load_own_reward(name: str) -> Callable[..., list[float]]:
    """Return a function of a Python file, which is run, once for each content that it has.

    Args:
        name: `<file>.py:<function>`. An async function is taken too, as TRL takes it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be run, or holds no function of that name that TRL can call.
    """
    file, _, attribute = name.rpartition(":")
    if not Path(file).is_file():
        raise FileNotFoundError(f"rewards names '{name}', but there is no file '{file}' in '{Path.cwd()}'.")
    module = _run_file(Path(file), name)
    function = vars(module).get(attribute)
    if function is None:
        defined = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        holds = f"It has: {', '.join(defined)}" if defined else "It has none"
        raise ValueError(f"rewards names '{name}', but '{file}' has no function '{attribute}'. {holds}.")
    _check_signature(function, name, attribute)
    return function


def list_needed_columns(function: Callable) -> list[str]:
    """Return the columns of the data that a reward of the user's cannot do without.

    >>> def brief(completions, emotion, source=None, **columns): ...
    >>> list_needed_columns(brief)
    ['emotion']
    """
    return [name for name in _list_required(function) if name not in PASSED]


def digest_files(files: Iterable[str]) -> dict[str, str]:
    """Return a digest of each file, as a run's folder keeps it: a changed reward makes another run."""
    return {f"reward file {file}": _digest(Path(file).read_bytes()) for file in dict.fromkeys(files)}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _run_file(path: Path, name: str) -> ModuleType:
    """Return a file as a module; the same content is run once in a process."""
    content = path.read_bytes()
    key = f"named_rewards_{_digest(str(path.absolute()).encode() + content)}"
    if key in sys.modules:
        return sys.modules[key]
    module = ModuleType(key)
    module.__file__ = str(path)
    sys.modules[key] = module  # where dataclasses and pickle look for it
    try:
        # Not by Python's importer, whose cache takes two versions of one second and one length for the same
        exec(compile(content, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[key]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines.append(error.lineno)
        text = textwrap.shorten(str(getattr(error, "msg", None) or error), 150, placeholder=" …")
        raise ValueError(
            f"rewards names '{name}', but '{path}'{f', line {lines[-1]}' if lines else ''} cannot be run: "
            f"{type(error).__name__}: {text}"
        ) from error
    return module


def _check_signature(function: Any, name: str, attribute: str) -> None:
    """Check that TRL can call a reward: everything that it passes, it passes by name, columns included."""
    import torch

    if not callable(function) or isinstance(function, type | torch.nn.Module):  # TRL takes a module for a reward model
        kind = "a class" if isinstance(function, type) else f"of type {type(function).__name__}"
        raise ValueError(
            f"rewards names '{name}', which is {kind}. Expected a function: 'def {attribute}(completions, **columns)'."
        )
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    takes_columns = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    by_place = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    never_passed = set(NOT_PASSED).intersection(_list_required(function) if parameters else ())
    if not takes_columns or by_place or never_passed:
        takes = ", ".join(map(str, parameters)) or "nothing that can be read"
        raise ValueError(
            f"rewards names '{name}', which takes ({takes}). TRL passes completions, prompts, completion_ids and every "
            f"column by name: write 'def {attribute}(completions, **columns)'."
        )


def _list_required(function: Callable) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [parameter.name for parameter in named if parameter.default is parameter.empty]
