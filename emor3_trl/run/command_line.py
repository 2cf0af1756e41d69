"""How a recipe is started: a YAML that is one complete run, and flags that override it."""

import argparse
import dataclasses
import difflib
import enum
import json
import os
import re
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from trl import TrlParser

from emor3_trl.launch import world_size
from emor3_trl.run.checks import check_arguments, check_secrets, check_values
from emor3_trl.run.help import OptionGroups, describe_options
from emor3_trl.run.recipe import UserError, user_errors
from emor3_trl.run.reporting import check_hub, place_trackio, prepare_reporting

if TYPE_CHECKING:
    from trl import ModelConfig


@dataclass(frozen=True)
class Parsed:
    """The parsed command line.

    Args:
        arguments: one instance per dataclass, in the order in which the classes were given.
        values: every key with the value it was set to, before any class derived others; loadable as a config again.
        source: the YAML that was read.
    """

    arguments: tuple[Any, ...]
    values: dict[str, Any]
    source: Path | None


class _Parser(TrlParser):
    """`TrlParser` that knows the file it read, checks types in it, and raises instead of printing its usage."""

    source: Path | None = None

    def error(self, message: str) -> NoReturn:
        invalid = re.fullmatch(r"argument --([\w-]+)\S*(?:, \S+)*: invalid (\S+) value: (.*)", message)
        if invalid:
            name, kind, value = invalid.groups()
            message = f"{name} is set to {value}; expected {_KINDS.get(kind, kind)}."
        elif message.startswith("the following arguments are required"):
            names = ", ".join(name.split("/")[0] for name in message.split(": ", 1)[1].split(", "))
            message = f"{names} must be set, in a --config file or as a flag."
        raise UserError(f"{message}{_name_source(self.source)}")


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string_to_bool": "true or false",
    "str": "text",
    "list": "a list",
    "dict": "a mapping",
}


def parse_arguments(
    dataclass_types: Sequence[type],
    default_config: str | Path | None = None,
    argv: Sequence[str] | None = None,
    about: str = "",
    groups: OptionGroups | None = None,
) -> Parsed:
    """Read the command line and its YAML, and check both before anything is loaded.

    Args:
        dataclass_types: the argument classes; their fields are the YAML's keys and the flags.
        default_config: the YAML to take when `--config` is not given.
        argv: the arguments; those of the process by default.
        about: the recipe's docstring, with which `--help` begins.
        groups: the options that `--help` shows; by default all. `--help_all` shows all.

    Returns:
        The arguments, the resolved values and the YAML's path.

    Raises:
        UserError: for an unknown key or flag, a value of the wrong type, a file that is not there, or values that
            cannot run on this machine (see `run.checks`).
        SystemExit: after `--help` and `--help_all`.
    """
    call, arguments = _split_call(argv, default_config)
    if call.help:
        print(describe_options(about, dataclass_types, groups))
        raise SystemExit(0)
    if call.debug:
        os.environ["EMOR3_DEBUG"] = "1"
    with user_errors():
        parser = _Parser(list(dataclass_types), allow_abbrev=False)
        if call.help_all:
            parser.print_help()
            raise SystemExit(0)
        if call.config == "":
            raise UserError("--config needs the path of a YAML file.")
        parser.source = None if call.config is None else Path(call.config)
        if parser.source is not None:
            config = _read_config(parser.source)
            _check_keys(config, dataclass_types, parser.source)
            parser.set_defaults_with_config(**config)
        _check_flags(parser, arguments)
        namespace, unknown = parser.parse_known_args(arguments)
        if unknown:
            raise UserError(_explain_unknown_flag(unknown, _list_fields(dataclass_types)))
        place_trackio(values := vars(namespace))
        _check_json(values, _list_fields(dataclass_types))
        check_values(values, parser.source)
        known = _values_for_plan(values) if values.get("plan") else values
        try:
            built = tuple(
                cls(**{f.name: known[f.name] for f in dataclasses.fields(cls) if f.init}) for cls in dataclass_types
            )
            check_arguments(built)
        except (TypeError, KeyError, AttributeError, NotImplementedError) as error:  # of a library's own checks
            raise UserError(f"{error}{_name_source(parser.source)}") from error
        prepare_reporting(values)
        check_hub(values)
    return Parsed(built, values, parser.source)


def build_model_options(model: "ModelConfig", given: dict[str, Any] | str | None) -> dict[str, Any]:
    """Return what `from_pretrained` gets, for the policy and for the reference model.

    Args:
        model: TRL's model arguments.
        given: the trainer's `model_init_kwargs`; the model arguments that are set win.
    """
    from trl import get_quantization_config

    options = {
        "dtype": model.dtype,
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "quantization_config": get_quantization_config(model),
        "use_safetensors": True,  # a pickle can run code
    }
    kept = given if isinstance(given, dict) else {}
    return {**kept, **{key: value for key, value in options.items() if value is not None}}


def _split_call(argv: Sequence[str] | None, default_config: str | Path | None) -> tuple[argparse.Namespace, list[str]]:
    """Return what every recipe understands (configuration, help, tracebacks), and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", const="", default=default_config)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--help_all", action="store_true")
    parser.add_argument("--debug", action="store_true")
    return parser.parse_known_args(argv)


def _check_flags(parser: _Parser, arguments: Sequence[str]) -> None:
    """Refuse a secret, and a list that is given twice: argparse would keep the second alone."""
    check_secrets(arguments)
    for action in parser._actions:
        flags = [argument for argument in arguments if argument.split("=")[0] in action.option_strings]
        if len(flags) > 1 and action.nargs in ("+", "*"):
            raise UserError(f"{' and '.join(flags)} are given. Write the list once: {flags[0].split('=')[0]} A B C.")


def _check_json(values: dict[str, Any], known: dict[str, Any]) -> None:
    """Refuse text that stands for a mapping and is no JSON."""
    for key, value in values.items():
        if isinstance(value, str) and value.startswith("{") and _fits({}, known[key]):
            try:
                json.loads(value)
            except ValueError as error:
                raise UserError(f"{key} is set to '{value}'; expected JSON ({error}).") from None


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        neighbours = ", ".join(sorted(map(str, path.parent.glob("*.yaml"))))
        raise UserError(f"Config file '{path}' does not exist." + (f" There are: {neighbours}." if neighbours else ""))
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' is not valid YAML: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"'{path}' must hold 'key: value' lines.")
    return config


def _list_fields(dataclass_types: Sequence[type]) -> dict[str, Any]:
    return {name: hint for cls in dataclass_types for name, hint in get_type_hints(cls).items() if name[0] != "_"}


def _check_keys(config: dict[str, Any], dataclass_types: Sequence[type], source: Path) -> None:
    known = _list_fields(dataclass_types)
    for key, value in config.items():
        if key not in known:
            raise UserError(f"Unknown key '{key}' in '{source}'.{_suggest_nearest(key, known)}")
        if value is not None and not _fits(value, known[key]):
            hint = (
                ' (a bare yes/no/on/off is a truth value in YAML: quote it, as in "no")'
                if value in (True, False)
                else ""
            )
            raise UserError(f"{key} is set to {value!r} in '{source}'; expected {_describe_type(known[key])}{hint}.")


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    hint = origin or hint
    if not isinstance(hint, type) or hint is object:
        return True
    if issubclass(hint, enum.Enum):
        return value in [member.value for member in hint]
    if isinstance(value, str):  # numbers and truth values may be written as text: the parser converts them
        return not issubclass(hint, (list, dict))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _describe_type(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe_type(option) for option in get_args(hint) if option is not type(None))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    hint = get_origin(hint) or hint
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    name = getattr(hint, "__name__", str(hint))
    return _KINDS.get(name, name)


def _explain_unknown_flag(unknown: list[str], known: dict[str, Any]) -> str:
    first = unknown[0]
    if first.endswith((".yaml", ".yml")):
        return f"Unexpected argument '{first}'. To use it as the configuration: --config {first}"
    if not first.startswith("--"):
        return f"Unexpected argument '{first}'. Options are given as --name value."
    name = first[2:].split("=")[0]
    return f"Unknown flag '--{name}'.{_suggest_nearest(name, known, '--')} --help_all lists all."


def _suggest_nearest(name: str, known: dict[str, Any], prefix: str = "") -> str:
    close = difflib.get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.6)
    return f" Did you mean '{prefix}{close[0]}'?" if close else ""


def _name_source(source: Path | None) -> str:
    return f" (Configuration: '{source}'.)" if source else ""


def _values_for_plan(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values such that any machine can read a plan: no GPU, and one process with the batches of all."""
    keys: dict[str, Any] = {"bf16": False, "fp16": False, "tf32": None, "use_cpu": True}
    if "num_generations" in values and values.get("processes"):
        keys["vllm_tensor_parallel_size"] = 1  # the planned processes have been asked
        for key in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            keys[key] = values[key] * values["processes"] // world_size()
    return {**values, **{key: value for key, value in keys.items() if key in values}}
