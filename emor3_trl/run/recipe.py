"""How a recipe runs and ends: a mistake, a check that stopped it or a signal becomes one line and an exit code."""

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from emor3_trl.engines.parity import OffPolicyError
from emor3_trl.launch import end_with_launcher, is_main_process
from emor3_trl.masking import mask_text
from emor3_trl.printing import escape_controls
from emor3_trl.run.full_disk import explain_full_disk
from emor3_trl.run.signals import describe_stop, end_on_sigterm

REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}  # what the system says of a folder without rights


class UserError(ValueError):
    """A mistake in what the user asked for; the message says what was set, what is allowed and how to fix it."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn the errors of a checking phase, where only the user can be wrong, into `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, OSError, ImportError) as error:
        if isinstance(error, OSError) and error.errno in REFUSED and error.filename:
            place = f"'{error.filename}' cannot be read or written ({error.strerror})"
            raise UserError(f"{place}. Choose another folder, or change its rights.") from error
        raise UserError(str(error)) from error


def run_recipe(main: Callable[[], None]) -> None:
    """Run a recipe; a `UserError` ends it with one line on stderr and exit code 2 (with EMOR3_DEBUG=1: a traceback)."""
    # vLLM warns before it reads its own setting, so its logger is told as well.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())
    end_with_launcher()
    end_on_sigterm()
    logging.raiseExceptions = False  # a log that finds no room on the disk would print a traceback for each line
    try:
        main()
    except Exception as failure:
        full = explain_full_disk(failure)
        error = UserError(full) if full else failure
        if os.environ.get("EMOR3_DEBUG") or not (isinstance(error, UserError) or _stops_training(error)):
            raise
        rank, wrong = os.environ.get("RANK", "0"), isinstance(error, UserError)
        prefix = f"[rank {rank}] " if wrong and rank != "0" else ""
        message = f"{'error' if wrong else 'stopped'}: {escape_controls(mask_text(' '.join(str(error).split())))}"
        print(f"{prefix}{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
        raise SystemExit(2 if wrong else 1) from None
    except KeyboardInterrupt as stop:
        message, code = describe_stop(stop)
        if is_main_process():
            print(f"\n{message}", file=sys.stderr)
        raise SystemExit(code) from None


def _stops_training(error: Exception) -> bool:
    """Whether a check on the training stopped it: what it saved is kept, and the message says all."""
    from emor3_trl.engines import server_checks  # they import what a command that trains nothing is spared
    from emor3_trl.upkeep import finite, torch_files

    kinds = (OffPolicyError, finite.NotFiniteError, torch_files.UntrustedFileError, server_checks.ServerError)
    return isinstance(error, kinds)
