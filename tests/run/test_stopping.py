"""SIGTERM and Ctrl-C: one line, their exit codes, and no process is kept from ending."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader

from emor3_trl.run.recipe import run_recipe
from emor3_trl.run.signals import end_on_sigterm
from emor3_trl.run.stopping import _StopOnSignal


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)
    time.sleep(0)  # the interpreter looks for signals


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        pytest.param(
            signal.SIGTERM, 143, "Stopped by SIGTERM. The same command goes on from what is saved.", id="TERM"
        ),
        pytest.param(signal.SIGINT, 130, "Stopped by Ctrl-C. The same command goes on from what is saved.", id="INT"),
    ],
)
def test_a_recipe_that_does_not_train_ends_at_once(
    capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int, line: str
) -> None:
    with pytest.raises(SystemExit) as end:
        run_recipe(lambda: send(number))
    assert end.value.code == code
    assert capsys.readouterr().err.strip() == line


def test_the_ranks_but_the_first_say_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit, match="143"):
        run_recipe(lambda: send(signal.SIGTERM))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("sent", "agreed"),
    [
        pytest.param([], None, id="none"),
        pytest.param([signal.SIGTERM], signal.SIGTERM, id="SIGTERM"),
        pytest.param([signal.SIGTERM] * 2, signal.SIGTERM, id="SIGTERM, and once more by a launcher"),
        pytest.param([signal.SIGINT], signal.SIGINT, id="Ctrl-C"),
        pytest.param([signal.SIGINT, signal.SIGTERM, signal.SIGINT], signal.SIGTERM, id="both"),
    ],
)
def test_a_signal_ends_training_after_its_step_with_a_checkpoint(
    sent: list[signal.Signals], agreed: signal.Signals | None
) -> None:
    stop, control = _StopOnSignal(), SimpleNamespace(should_save=False, should_training_stop=False)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    stop.on_train_begin()
    send(*sent)
    stop.on_step_end(SimpleNamespace(world_size=1), None, control)
    stop.on_train_end()
    assert control.should_save is control.should_training_stop is stop.saved is bool(sent)
    assert stop.agree(SimpleNamespace(world_size=1)) == agreed
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_ctrl_c_stops_a_step_at_once() -> None:
    stop = _StopOnSignal()
    stop.on_train_begin()
    send(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    stop.on_train_end()


def test_a_background_job_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = _StopOnSignal()
    stop.on_train_begin()
    send(signal.SIGINT)
    stop.on_train_end()
    assert stop.received == 0


@pytest.mark.parametrize(
    "catch", [end_on_sigterm, lambda: _StopOnSignal().on_train_begin()], ids=["recipe", "training"]
)
def test_a_forked_worker_is_still_ended_by_sigterm(catch: Callable[[], None]) -> None:
    catch()
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    time.sleep(0.2)
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == -signal.SIGTERM


def test_ctrl_c_leaves_the_worker_that_loads_the_rows_of_the_step() -> None:
    stop = _StopOnSignal()
    stop.on_train_begin()
    loaded = iter(DataLoader(list(range(8)), num_workers=1, prefetch_factor=1))
    rows = [int(next(loaded))]
    worker = loaded._workers[0]
    for process in (worker.pid, os.getpid()):
        os.kill(process, signal.SIGINT)
    time.sleep(0.2)
    assert rows + [int(row) for row in loaded] == list(range(8))
    assert stop.received == signal.SIGINT
    stop.on_train_end()
    worker.join(10)
    assert worker.exitcode == 0
