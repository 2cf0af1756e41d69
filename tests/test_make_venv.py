"""Set-up: where uv looks, when pip takes over, when .venv is made anew, and that the pins are complete."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LISTING = """
global.cert='/etc/ssl/company.pem'
global.extra-index-url='\\nhttps://first.invalid/simple\\nhttps://second.invalid/simple'
global.find-links='/opt/wheels'
global.index-url='https://global.invalid/simple'
install.no-index='false'
install.index-url='https://install.invalid/simple'
list.format='columns'
:env:.find-links='/home/me/wheels /opt/wheels'
:env:.default-timeout='180'
"""


@pytest.fixture
def make_venv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module whose .venv lies in a folder of its own."""
    spec = importlib.util.spec_from_file_location("make_venv", ROOT / "requirements" / "make_venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("EMOR3_INSTALLER", "TORCH_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    scripts = tmp_path / ".venv" / "bin"
    for name, path in {
        "VENV": scripts.parent,
        "SCRIPTS": scripts,
        "PYTHON": scripts / "python",
        "STAMP": scripts.parent / "emor3-stamp",
    }.items():
        monkeypatch.setattr(module, name, path)
    return module


def test_pip_settings_combine_as_pip_combines_them(make_venv: ModuleType):
    assert make_venv.read_pip_settings(LISTING) == {
        "cert": "/etc/ssl/company.pem",
        "extra-index-url": "\nhttps://first.invalid/simple\nhttps://second.invalid/simple",
        "find-links": "/home/me/wheels /opt/wheels",
        "index-url": "https://install.invalid/simple",
        "no-index": "false",
        "default-timeout": "180",
    }


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param(
            {},
            {
                "SSL_CERT_FILE": "/etc/ssl/company.pem",
                "UV_DEFAULT_INDEX": "https://install.invalid/simple",
                "UV_INDEX": "https://first.invalid/simple https://second.invalid/simple",
                "UV_INDEX_STRATEGY": "unsafe-best-match",
                "UV_FIND_LINKS": "/home/me/wheels,/opt/wheels",
                "UV_HTTP_TIMEOUT": "180",
            },
            id="all-that-pip-knows",
        ),
        pytest.param(
            {"UV_INDEX_URL": "https://mine.invalid/simple", "SSL_CERT_FILE": "/mine.pem"},
            {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_HTTP_TIMEOUT": "180"},
            id="the-user-has-set-uv's-index",
        ),
    ],
)
def test_uv_looks_where_pip_looks(make_venv: ModuleType, environment: dict[str, str], expected: dict[str, str]):
    settings = make_venv.read_pip_settings(LISTING)
    assert make_venv.translate_pip_settings(settings, environment) == expected


def test_without_pip_settings_uv_is_left_alone(make_venv: ModuleType):
    assert make_venv.translate_pip_settings(make_venv.read_pip_settings(""), {}) == {}


@pytest.mark.parametrize(
    ("installer", "uv_error", "expected_calls", "told"),
    [
        pytest.param("uv", None, ["uv", "repair", "check"], "", id="uv"),
        pytest.param("pip", None, ["pip", "repair", "check"], "", id="pip-is-asked-for"),
        pytest.param(
            "uv",
            subprocess.CalledProcessError(1, ["pip"], "Looking\nERROR: No matching distribution found for uv\n\n"),
            ["uv", "pip", "repair", "check"],
            "uv cannot install here (ERROR: No matching distribution found for uv): pip does",
            id="no-uv-for-this-platform",
        ),
        pytest.param(
            "uv",
            PermissionError(13, "Permission denied"),
            ["uv", "pip", "repair", "check"],
            "uv cannot install here ([Errno 13] Permission denied): pip does",
            id="uv-does-not-run",
        ),
    ],
)
def test_pip_installs_where_uv_cannot(
    make_venv: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    installer: str,
    uv_error: Exception | None,
    expected_calls: list[str],
    told: str,
):
    calls: list[str] = []

    def install_with_uv() -> None:
        calls.append("uv")
        if uv_error is not None:
            raise uv_error

    monkeypatch.setattr(make_venv, "install_with_uv", install_with_uv)
    monkeypatch.setattr(make_venv, "install_with_pip", lambda: calls.append("pip"))
    monkeypatch.setattr(make_venv, "repair_torchvision", lambda: calls.append("repair"))
    monkeypatch.setattr(make_venv, "run", lambda *_: calls.append("check"))
    make_venv.make(installer)
    assert calls == expected_calls
    output = capsys.readouterr().out
    assert told in output
    assert output.count("\n") == bool(told)


def test_an_unknown_installer_is_refused_before_anything_is_made(
    make_venv: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EMOR3_INSTALLER", "conda")
    with pytest.raises(SystemExit, match=r"EMOR3_INSTALLER is 'conda'\. Expected uv or pip"):
        make_venv.main()
    assert not make_venv.VENV.exists()


def test_a_failed_command_shows_the_end_of_its_output(
    make_venv: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    program = "import sys; [print('line', i) for i in range(100)]; sys.exit(3)"
    monkeypatch.setattr(make_venv, "create_environment", lambda: None)
    monkeypatch.setattr(make_venv, "make", lambda _: make_venv.run("everything", sys.executable, "-c", program))
    with pytest.raises(SystemExit) as stop:
        make_venv.main()
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert "everything ... failed" in captured.out
    lines = captured.err.splitlines()
    assert lines[-2] == "line 99"
    assert lines[0] == "line 70"
    assert "exit code 3" in lines[-1]
    assert not make_venv.STAMP.exists()


def test_commands_keep_compiled_files_whatever_the_user_has_set(make_venv: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert make_venv.child_variables({"UV_INDEX": "x"})["UV_INDEX"] == "x"
    assert "PYTHONDONTWRITEBYTECODE" not in make_venv.child_variables({})


@pytest.fixture
def set_up(make_venv: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What main() does, where nothing is installed for real."""
    steps: list[str] = []

    def create_environment() -> None:
        steps.append("create")
        make_venv.SCRIPTS.mkdir(parents=True, exist_ok=True)
        make_venv.PYTHON.touch()

    monkeypatch.setattr(make_venv, "create_environment", create_environment)
    monkeypatch.setattr(make_venv, "make", lambda installer: steps.append(installer))
    make_venv.main()
    assert steps == ["create", "uv"]
    steps.clear()
    return steps


def test_a_second_set_up_does_nothing(make_venv: ModuleType, set_up: list[str], capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    make_venv.main()
    assert set_up == []
    assert capsys.readouterr().out == ".venv is up to date\n"


def test_other_pins_update_the_environment_that_is_there(
    make_venv: ModuleType, set_up: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    pins = tmp_path / "cpu.txt"
    pins.write_text(make_venv.PINS.read_text() + "\nanother==1.0\n")
    monkeypatch.setattr(make_venv, "PINS", pins)
    make_venv.main()
    assert set_up == ["uv"]


def test_settings_of_linters_leave_the_environment_alone(
    make_venv: ModuleType, set_up: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    setup = (ROOT / "setup.cfg").read_text()
    place = dict(make_venv.describe_environment({}, {}))
    monkeypatch.setattr(make_venv, "ROOT", tmp_path)
    (tmp_path / "setup.cfg").write_text(setup)
    before = make_venv.describe_environment({}, {})["files"]
    assert before == place["files"]
    (tmp_path / "setup.cfg").write_text(setup.replace("check_untyped_defs = True", "check_untyped_defs = False"))
    assert make_venv.describe_environment({}, {})["files"] == before
    (tmp_path / "setup.cfg").write_text(setup.replace("wandb>=0.31", "another-wandb>=0.31"))
    assert make_venv.describe_environment({}, {})["files"] != before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda module, patch, path: patch.setattr(sys, "version", "3.99.0 (main)"), id="another-python"),
        pytest.param(lambda module, patch, path: module.PYTHON.unlink(), id="its-python-is-gone"),
        pytest.param(lambda module, patch, path: module.STAMP.unlink(), id="the-last-set-up-failed"),
        pytest.param(
            lambda module, patch, path: patch.setenv("TORCH_INDEX_URL", "https://torch.invalid/cpu"), id="another-torch"
        ),
    ],
)
def test_an_environment_that_no_longer_fits_is_made_anew(
    make_venv: ModuleType, set_up: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change
):
    change(make_venv, monkeypatch, tmp_path)
    make_venv.main()
    assert set_up == ["create", "uv"]


def test_an_environment_of_another_folder_is_made_anew(make_venv: ModuleType, set_up: list[str]):
    stamp = make_venv.read_stamp()
    assert stamp["folder"] == str(ROOT)
    make_venv.STAMP.write_text(make_venv.STAMP.read_text().replace(str(ROOT), "/another/clone"))
    make_venv.main()
    assert set_up == ["create", "uv"]


def test_the_torch_that_is_there_stays_when_the_index_is_no_longer_named(
    make_venv: ModuleType, set_up: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_INDEX_URL", "https://user:secret@torch.invalid/cpu")
    make_venv.main()
    assert "secret" not in make_venv.STAMP.read_text()
    set_up.clear()
    monkeypatch.delenv("TORCH_INDEX_URL")
    make_venv.main()
    assert set_up == []


def list_pins(place: dict[str, str]) -> dict[str, str]:
    lines = (ROOT / "requirements" / "cpu.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    kept = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(place)]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in kept}


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_pins_are_complete(python: str):
    """They are installed with --no-deps, so what a package asks for must stand there, in a version that it takes."""
    place = {"python_version": python, "python_full_version": f"{python}.0"}
    pins = list_pins(place)
    left_out = {"torchaudio", "torchcodec", "triton"}  # compiled for CUDA, and not used on a CPU
    installed = {canonicalize_name(found.metadata["Name"]) for found in importlib.metadata.distributions()}
    # torch is installed with what its build asks for; a pin of another Python is not here to be asked
    packages = [(name, "") for name in pins if name in installed - {"torch"}]
    here = set(list_pins({}))
    assert here <= installed, f"Pinned, but not installed here: {sorted(here - installed)}. Run 'make venv'."
    missing = []
    for name, extra in packages:  # grows by the extras that packages ask for
        for requirement in map(Requirement, importlib.metadata.requires(name) or []):
            needed = canonicalize_name(requirement.name)
            if (
                requirement.marker and not requirement.marker.evaluate({**place, "extra": extra})
            ) or needed in left_out:
                continue
            if needed not in pins:
                missing.append(f"{name} needs {requirement}")
            elif needed != "torch" and not requirement.specifier.contains(pins[needed], prereleases=True):
                missing.append(f"{name} needs {requirement}, pinned is {pins[needed]}")
            packages += [(needed, more) for more in requirement.extras if (needed, more) not in packages]
    assert not missing, "\n".join([*sorted(set(missing)), "Pin them in requirements/cpu.txt."])
