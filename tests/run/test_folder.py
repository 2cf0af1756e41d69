"""A run's folder: another run is refused, a finished one is left alone, a stopped one goes on."""

from pathlib import Path

import pytest

from emor3_trl.run.folder import RunFolder, find_last_checkpoint


class TestRunFolder:
    values = {"learning_rate": 1.0, "output_dir": "x"}

    def test_new_unfinished_finished(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path / "run", self.values)
        assert not folder.is_finished
        folder.begin()
        assert not RunFolder(tmp_path / "run", self.values).is_finished
        folder.write_metrics({"eval/loss": 1.5})
        assert RunFolder(tmp_path / "run", {**self.values, "output_dir": "moved"}).is_finished

    def test_other_configuration_is_refused_with_the_keys(self, tmp_path: Path) -> None:
        RunFolder(tmp_path / "run", self.values).begin()
        with pytest.raises(FileExistsError, match=r"learning_rate was 1\.0, now 2\.0.*--overwrite"):
            RunFolder(tmp_path / "run", {**self.values, "learning_rate": 2.0})

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
        (tmp_path / "run" / "config.yaml").write_text("learning_rate: [")
        with pytest.raises(FileExistsError, match=r"(?s)cannot be read.*--overwrite"):
            RunFolder(tmp_path / "run", self.values)

    def test_folder_that_cannot_be_made_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(PermissionError, match=r"cannot be written, because of '.*file'"):
            RunFolder(tmp_path / "file" / "run", self.values)

    def test_foreign_files_are_never_removed(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("x")
        with pytest.raises(FileExistsError, match="left alone"):
            RunFolder(tmp_path, self.values, overwrite=True)

    @pytest.mark.parametrize("flags", [["--hub_token", "hf_x", "--seed", "2"], ["--hub_token=hf_x", "--seed", "2"]])
    def test_a_token_is_written_nowhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list) -> None:
        monkeypatch.setattr("sys.argv", ["grpo.py", *flags])
        RunFolder(tmp_path / "run", {**self.values, "hub_token": "hf_x"}).begin()
        written = "".join(file.read_text() for file in (tmp_path / "run").iterdir())
        assert "hf_x" not in written
        assert "--seed" in written

    def test_resumes_from_the_last_complete_checkpoint(self, tmp_path: Path) -> None:
        RunFolder(tmp_path / "run", self.values).begin()
        for step, state in ((9, "{}"), (10, "{}"), (20, '{"cut off')):
            checkpoint = tmp_path / "run" / f"checkpoint-{step}"
            checkpoint.mkdir()
            (checkpoint / "trainer_state.json").write_text(state)
        (tmp_path / "run" / "checkpoint-30").mkdir()
        assert find_last_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-10")
        assert RunFolder(tmp_path / "run", self.values).checkpoint == str(tmp_path / "run" / "checkpoint-10")
