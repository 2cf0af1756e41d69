"""A run's folder: another run is refused, a finished one is left alone, a stopped one goes on."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from emor3_trl.config import EmoR3Config
from emor3_trl.named_rewards import SWITCHES
from emor3_trl.run.folder import RunFolder, find_last_checkpoint


def save_checkpoint(run: Path, step: int = 1, cut: int | None = None) -> None:
    (run / f"checkpoint-{step}").mkdir()
    state = json.dumps({"global_step": step, "log_history": []})
    (run / f"checkpoint-{step}" / "trainer_state.json").write_text(state[:cut])


class TestRunFolder:
    values = {"learning_rate": 1.0, "output_dir": "x"}

    def test_new_unfinished_finished(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path / "run", self.values)
        assert not folder.is_finished
        folder.begin()
        assert not RunFolder(tmp_path / "run", self.values).is_finished
        folder.write_metrics({"eval/loss": 1.5})
        assert RunFolder(tmp_path / "run", {**self.values, "output_dir": "moved"}).is_finished

    def test_what_a_kill_at_the_very_end_left_is_removed(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path / "run", {"learning_rate": 1.0})
        folder.begin()
        folder.write_metrics({})
        journal = tmp_path / "run" / "unfinished" / "test.jsonl"
        journal.parent.mkdir()
        journal.write_text("")
        finished = RunFolder(tmp_path / "run", {"learning_rate": 1.0})
        assert finished.is_finished
        finished.say_nothing_to_do()
        assert not journal.parent.exists()

    def test_other_configuration_is_refused_with_the_keys(self, tmp_path: Path) -> None:
        RunFolder(tmp_path / "run", self.values).begin()
        save_checkpoint(tmp_path / "run")
        with pytest.raises(FileExistsError, match=r"learning_rate was 1\.0, now 2\.0.*--overwrite"):
            RunFolder(tmp_path / "run", {**self.values, "learning_rate": 2.0})

    def test_a_run_goes_on_with_other_tables_and_probes(self, tmp_path: Path) -> None:
        """They change no weight; and a run of an earlier version knew neither."""
        RunFolder(tmp_path / "run", self.values).begin()
        save_checkpoint(tmp_path / "run")
        watched = {**self.values, "probe_steps": 10, "log_completions_steps": 10}
        assert RunFolder(tmp_path / "run", watched).checkpoint == str(tmp_path / "run" / "checkpoint-1")

    def test_a_run_of_an_earlier_version_goes_on_with_the_defaults_of_all_new_options(self, tmp_path: Path) -> None:
        RunFolder(tmp_path / "run", self.values).begin()
        save_checkpoint(tmp_path / "run")
        fields = {field.name: field.default for field in dataclasses.fields(EmoR3Config)}
        new = {name: fields[name] for name in SWITCHES}
        assert RunFolder(tmp_path / "run", {**self.values, **new}).checkpoint is not None
        with pytest.raises(FileExistsError, match="gated_reflection was None, now 'right'"):
            RunFolder(tmp_path / "run", {**self.values, **new, "gated_reflection": "right"})

    def test_a_run_of_an_earlier_version_goes_on_without_its_new_options(self, tmp_path: Path) -> None:
        """And its configuration holds tokens that are no longer written, nor shown."""
        begun = {**self.values, "model_init_kwargs": {"token": "a secret of the user"}}
        RunFolder(tmp_path / "run", begun).begin()
        save_checkpoint(tmp_path / "run")
        (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(begun))
        now = {**begun, "skip_flat_groups": False, "ref_model_dtype": None, "direct": []}
        assert RunFolder(tmp_path / "run", now).checkpoint == str(tmp_path / "run" / "checkpoint-1")
        with pytest.raises(FileExistsError, match="skip_flat_groups was None, now True") as raised:
            RunFolder(tmp_path / "run", {**now, "skip_flat_groups": True, "model_init_kwargs": {"token": "x", "a": 1}})
        assert "a secret" not in str(raised.value)

    def test_overwrite_replaces_a_run_only_when_it_begins(self, tmp_path: Path) -> None:
        first = RunFolder(tmp_path / "run", self.values)
        first.begin()
        first.write_metrics({})
        second = RunFolder(tmp_path / "run", {"learning_rate": 2.0}, overwrite=True)
        assert not second.is_finished
        assert (tmp_path / "run" / "metrics.json").exists()
        second.begin()
        assert not (tmp_path / "run" / "metrics.json").exists()

    def test_run_whose_configuration_is_cut_off_is_another_run(self, tmp_path: Path) -> None:
        RunFolder(tmp_path / "run", self.values).begin()
        save_checkpoint(tmp_path / "run")
        (tmp_path / "run" / "config.yaml").write_text("learning_rate: [")
        with pytest.raises(FileExistsError, match=r"(?s)cannot be read.*--overwrite"):
            RunFolder(tmp_path / "run", self.values)

    @pytest.mark.parametrize("result", ["metrics.json", "model.safetensors", "unfinished/test.jsonl", "checkpoint-1/x"])
    def test_a_run_without_a_result_blocks_no_other_one(self, tmp_path: Path, result: str) -> None:
        """A mistake that only the trainer finds leaves a folder that was begun; the corrected command goes on in it."""
        RunFolder(tmp_path / "run", self.values).begin()
        corrected = {**self.values, "learning_rate": 2.0}
        RunFolder(tmp_path / "run", corrected).begin()
        assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["learning_rate"] == 2.0
        (tmp_path / "run" / result).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / result).write_text("{}")
        with pytest.raises(FileExistsError, match="learning_rate was 2"):
            RunFolder(tmp_path / "run", self.values)

    def test_folder_that_cannot_be_made_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(PermissionError, match=r"cannot be written, because of '.*file'"):
            RunFolder(tmp_path / "file" / "run", self.values)

    def test_foreign_files_are_never_removed(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("x")
        with pytest.raises(FileExistsError, match="left alone"):
            RunFolder(tmp_path, self.values, overwrite=True)

    @pytest.mark.parametrize(
        "flags",
        [
            ["--hub_token", "hf_x", "--seed", "2"],
            ["--hub_token=hf_x", "--seed", "2"],
            ["--hub-token", "hf_x", "--seed", "2"],
            ["--hub-token=hf_x", "--seed", "2"],
        ],
    )
    def test_a_token_is_written_nowhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list) -> None:
        monkeypatch.setattr("sys.argv", ["grpo.py", *flags])
        RunFolder(tmp_path / "run", {**self.values, "hub_token": "hf_x"}).begin()
        written = "".join(file.read_text() for file in (tmp_path / "run").iterdir())
        assert "hf_x" not in written
        assert "--seed" in written

    def test_resumes_from_the_last_complete_checkpoint(self, tmp_path: Path) -> None:
        RunFolder(tmp_path / "run", self.values).begin()
        for step, cut in ((9, None), (10, None), (20, 9)):
            save_checkpoint(tmp_path / "run", step, cut)
        (tmp_path / "run" / "checkpoint-30").mkdir()
        assert find_last_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-10")
        assert RunFolder(tmp_path / "run", self.values).checkpoint == str(tmp_path / "run" / "checkpoint-10")


ANOTHER_RUN = """
import sys, time
from emor3_trl.run import lock
from emor3_trl.run.folder import RunFolder
folder = RunFolder(sys.argv[1], {"learning_rate": 1.0})
if sys.argv[2] == "forks":
    import os
    folder.begin()
    child = os.fork()
    if child == 0:
        time.sleep(60)
    print("begun", child, flush=True)
else:
    folder.begin()
    print("begun", flush=True)
time.sleep(60)
"""


class TestTwoRuns:
    values = {"learning_rate": 1.0}

    def start(self, run: Path, *arguments: str) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", ANOTHER_RUN, str(run), *(arguments or ("alone",))]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def test_the_second_is_refused_until_the_first_is_killed(self, tmp_path: Path) -> None:
        late = RunFolder(tmp_path / "run", self.values)  # it looked before the first one began
        with self.start(tmp_path / "run") as first:
            assert first.stdout is not None
            assert first.stdout.readline() == "begun\n"
            for overwrite in (False, True):
                with pytest.raises(FileExistsError, match=r"Another run is writing to output_dir '.*run'"):
                    RunFolder(tmp_path / "run", self.values, overwrite)
            with pytest.raises(FileExistsError, match="Another run is writing"):
                late.begin()
            first.send_signal(signal.SIGKILL)
        late.begin()

    def test_a_worker_that_outlives_its_run_locks_nothing(self, tmp_path: Path) -> None:
        with self.start(tmp_path / "run", "forks") as first:
            assert first.stdout is not None
            child = int(first.stdout.readline().split()[1])
            first.send_signal(signal.SIGKILL)
            first.wait()
            try:
                RunFolder(tmp_path / "run", self.values).begin()
            finally:
                os.kill(child, signal.SIGKILL)

    def test_other_ranks_share_the_lock_of_the_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with self.start(tmp_path / "run") as first:
            assert first.stdout is not None
            assert first.stdout.readline() == "begun\n"
            monkeypatch.setenv("RANK", "1")
            RunFolder(tmp_path / "run", self.values).begin()
            first.kill()

    def test_what_another_run_finished_meanwhile_is_not_written_over(self, tmp_path: Path) -> None:
        late, first = RunFolder(tmp_path / "run", self.values), RunFolder(tmp_path / "run", self.values)
        first.begin()
        first.write_metrics({})
        with pytest.raises(FileExistsError, match=r"while this one was loading\. Start it again"):
            late.begin()

    def test_overwriting_keeps_the_lock(self, tmp_path: Path) -> None:
        RunFolder(tmp_path / "run", self.values).begin()
        save_checkpoint(tmp_path / "run")
        inode = (tmp_path / "run").stat().st_ino
        RunFolder(tmp_path / "run", self.values, overwrite=True).begin()
        assert not (tmp_path / "run" / "checkpoint-1").exists()
        assert (tmp_path / "run").stat().st_ino == inode

    def test_a_drive_without_locks_goes_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError("no locks available")

        monkeypatch.setattr("fcntl.flock", refuse)
        with pytest.warns(UserWarning, match="run' is on a drive that locks no folders: a second run"):
            RunFolder(tmp_path / "run", self.values).begin()
        assert (tmp_path / "run" / "config.yaml").is_file()


def test_a_name_with_control_characters_is_said_with_escapes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run\x1b[2J"
    folder = RunFolder(run, {})
    folder.say_nothing_to_do()
    printed = capsys.readouterr().out
    assert r"run\x1b[2J: already finished" in printed
    assert printed.rstrip("\n").isprintable()


def test_a_difference_of_thousands_of_files_is_one_line(tmp_path: Path) -> None:
    files = [f"photos/{number}.png" for number in range(2000)]
    RunFolder(tmp_path / "run", {"files": files}).begin()
    (tmp_path / "run" / "metrics.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"files was \['photos/0.png'.*\.\.\., now None") as refused:
        RunFolder(tmp_path / "run", {})
    assert len(str(refused.value)) < 700
