"""Each stage is killed at random moments and started again: it must end as one that was left alone.

    python benchmarks/survive.py --kills 50                           # all stages: an hour and a half on two cores
    python benchmarks/survive.py --kills 50 --stages grpo evaluate    # some; the others' rows in the JSON stay

A stage is a recipe on a model of 0.1 M parameters (survive_stages.py). It runs to its end once. Then, in a new folder,
it is started and killed with SIGKILL, with its whole process group, at a moment that is drawn uniformly from the
processor time of the uninterrupted run, so that it falls where it would on an idle machine; and started again there,
until it ends before its moment comes. What it left is compared with what the uninterrupted run left: all files, number
by number (survive_checks.py), what a clock decides left out.
Then a new folder begins, until there are as many kills as asked for. After each kill no process of the command may be
alive, and no segment of shared memory left. At last each stage gets SIGTERM, and Ctrl-C, once: exit code 143 or 130,
one line, no traceback, and the same command ends as uninterrupted; the checkpoint that a stop saves counts as any
other, so it may stand where save_total_limit would have kept an older one. (torchrun, which launches two ranks, has an
exit code and a traceback of its own.)

Figures: runs/benchmarks/survive.json, written again after each run.
"""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from survive_checks import MARK, compare_folders, excuse_checkpoint, find_orphans, find_segments, list_segments
from survive_stages import ROOT, STAGES, build_inputs, copy_inputs, run_command

from emor3_trl.files import write_json

LAUNCHED = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
TIME_LIMIT = 900.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Survivor:
    """Kills one stage.

    Args:
        name: of `STAGES`.
        work: a folder of its own.
        inputs: what the stages start from.
        draw: draws the moments.
    """

    def __init__(self, name: str, work: Path, inputs: Path, draw: random.Random) -> None:
        self.name, self.stage = name, STAGES[name]
        self.work, self.inputs, self.draw = work, inputs, draw
        self.row: dict[str, Any] = {
            "stage": self.stage.title, "kills": 0, "runs": 0, "files": 0, "worst_difference": 0.0, "unlike": [],
            "left_behind": [], "orphans": [], "failed": [], "kills_before_an_end": [], "seconds_after_last_kill": [],
            "signals": [], "of_libraries_in_tmp": 0,
        }  # fmt: skip
        self.temporary = work / "tmp"
        self.temporary.mkdir(parents=True)
        self.seconds = 0.0  # of processor time that the stage takes

    def attempt(self, folder: Path, moment: float | None, number: int = signal.SIGKILL) -> tuple[int, float, str]:
        """Start the command; send its group a signal when it has taken so much processor time, if it still runs.

        Returns:
            Exit code (negative: of that signal), seconds, and what it said.
        """
        mark, segments = uuid.uuid4().hex, list_segments()
        environment = make_environment() | {MARK: mark, "TMPDIR": str(self.temporary)}
        log = self.work / "output.txt"
        start = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.stage.list_command(), cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                while moment is not None and process.poll() is None and time.monotonic() - start < TIME_LIMIT:
                    if processor_seconds(process.pid) >= moment:
                        os.killpg(process.pid, number)
                        break
                    time.sleep(random.uniform(0, 0.1))  # not of `draw`, whose moments would depend on a clock
                process.wait(max(TIME_LIMIT - (time.monotonic() - start), 60.0))
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        seconds = time.monotonic() - start
        self.row["orphans"] += find_orphans(mark)
        self.row["left_behind"] += [f"/dev/shm/{name}" for name in find_segments(segments)]
        return process.returncode, seconds, log.read_text(errors="replace")

    def begin(self, name: str) -> Path:
        """Return a new folder in which the stage can run."""
        copy_inputs(self.stage, self.inputs, self.work / name)
        return self.work / name

    def finish(self, folder: Path, record: dict[str, Any] | None = None) -> None:
        """Compare a finished run with the uninterrupted one."""
        result = compare_folders(folder, self.work / "whole")
        if record is not None:
            result.faults, record["kept"] = excuse_checkpoint(result.faults, record["lines"])
        left = [fault for fault in result.faults if fault.startswith("left behind: ")]
        row = self.row if record is None else record
        row["files"] = result.files
        row["worst_difference"] = max(row["worst_difference"], result.worst)
        row["left_behind"] += [fault.removeprefix("left behind: ") for fault in left]
        row["unlike"] += [fault for fault in result.faults if fault not in left]
        names = [path.name for path in self.temporary.iterdir()]
        self.row["left_behind"] += [f"$TMPDIR/{name}" for name in names if name.startswith("emor3")]
        self.row["of_libraries_in_tmp"] = len(names)

    def is_finished(self, code: int, said: str) -> bool:
        """Whether a command says that it had ended before it was killed; an export is never written over."""
        return self.stage.title.startswith("export") and code == 2 and "output_dir 'out/exported' exists" in said

    def measure(self) -> None:
        """Run the stage to its end: how long that takes, and what it leaves."""
        before = ended_children_seconds()
        code, seconds, said = self.attempt(self.begin("whole"), None)
        self.seconds = ended_children_seconds() - before
        if code:
            raise RuntimeError(f"{self.stage.title} ended with {code}:\n{said[-3000:]}")
        self.row |= {"seconds": round(seconds, 1), "processor_seconds": round(self.seconds, 1)}

    def kill_and_go_on(self, kills: int) -> None:
        """Start the stage in a new folder until it ends, killing it on the way while kills are left; compare."""
        folder, before = self.begin("killed"), 0
        while True:
            moment = self.draw.uniform(0, self.seconds) if self.row["kills"] < kills else None
            code, seconds, said = self.attempt(folder, moment)
            if code == -signal.SIGKILL:
                self.row["kills"] += 1
                before += 1
                continue
            self.row["kills_before_an_end"].append(before)
            if code and not self.is_finished(code, said):  # it was not killed: it did not go on
                self.row["failed"].append(f"exit code {code}: {' '.join(said.split())[-600:]}")
                return
            self.row["runs"] += 1
            if before:
                self.row["seconds_after_last_kill"].append(round(seconds, 1))
            self.finish(folder)
            return

    def stop_and_go_on(self, number: signal.Signals) -> None:
        """Send a signal once, at a moment past the half; look at what is said, go on, and compare."""
        for share in (0.75, 0.6, 0.9, 0.45):  # on a busy machine, one falls before or after what can be stopped
            folder = self.begin("stopped")
            code, _, said = self.attempt(folder, share * self.seconds, number)
            lines = [line for line in said.splitlines() if line.strip().startswith("Stopped")]
            if lines:
                break
        record: dict[str, Any] = {
            "signal": number.name, "exit_code": 128 - code if code < 0 else code, "lines": lines,
            "traceback": "Traceback" in said and not self.stage.is_launched, "worst_difference": 0.0, "unlike": [],
            "left_behind": [],
        }  # fmt: skip
        code, _, said = self.attempt(folder, None)
        if code and not self.is_finished(code, said):
            record["unlike"].append(f"exit code {code} afterwards: {' '.join(said.split())[-600:]}")
        else:
            self.finish(folder, record)
        self.row["signals"].append(record)


def processor_seconds(process: int) -> float:
    """Return what a process and its descendants have taken so far, those that have ended included."""
    import psutil

    seconds = 0.0
    with suppress(psutil.Error):
        for member in [parent := psutil.Process(process), *parent.children(recursive=True)]:
            with suppress(psutil.Error):  # it has ended meanwhile
                seconds += sum(member.cpu_times()[:4])  # user, system, and both of children that have ended
    return seconds


def ended_children_seconds() -> float:
    """Return the processor time of all children of this process that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def enter_own_shared_memory() -> None:
    """Start this script again with a /dev/shm of its own, where the user may: others' segments are none of ours."""
    if os.geteuid() or os.environ.get("EMOR3_SURVIVE_SHM"):
        return
    inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    inside += ['mount -t tmpfs tmpfs /dev/shm && exec "$@"']
    if shutil.which("unshare") and not subprocess.run([*inside, "sh", "true"], capture_output=True).returncode:
        os.environ["EMOR3_SURVIVE_SHM"] = "its own"
        os.execvp(inside[0], [*inside, "sh", sys.executable, *sys.argv])


def make_environment() -> dict[str, str]:
    """Return the environment of the commands."""
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    return kept | {
        "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", "VLLM_LOGGING_LEVEL": "ERROR", "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def format_table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the figures of all stages as text."""
    lines = [
        f"{'stage':26}{'seconds':>8}{'kills':>6}{'runs':>5}{'worst':>8}{'unlike':>7}{'left':>5}{'orphans':>8}"
        f"{'failed':>7}{'again s':>8}  SIGTERM, Ctrl-C: exit code, lines"
    ]
    for row in rows.values():
        again = statistics.median(row["seconds_after_last_kill"]) if row["seconds_after_last_kill"] else float("nan")
        signals = "; ".join(
            f"{record['exit_code']}, {len(record['lines'])}"
            + (", traceback" if record["traceback"] else "")
            + (", UNLIKE" if record["unlike"] or record["left_behind"] or record["worst_difference"] else "")
            for record in row["signals"]
        )
        lines.append(
            f"{row['stage']:26}{row['seconds']:8.1f}{row['kills']:6}{row['runs']:5}"
            f"{row['worst_difference']:8.1g}{len(row['unlike']):7}{len(row['left_behind']):5}{len(row['orphans']):8}"
            f"{len(row['failed']):7}{again:8.1f}  {signals}"
        )
    return "\n".join(lines)


def is_clean(row: dict[str, Any]) -> bool:
    """Whether a stage ended as an uninterrupted one each time, and left nothing."""
    faults = [row["worst_difference"], *(row[key] for key in ("unlike", "left_behind", "orphans", "failed"))]
    for record in row["signals"]:
        faults += [record["worst_difference"], record["unlike"], record["left_behind"], record["traceback"]]
    return not any(faults)


def main() -> None:
    """Build, kill, compare, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each stage")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--no_signals", action="store_true", help="leave out SIGTERM and Ctrl-C")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--photos", type=int, default=160, help="that 'prepare' starts from")
    parser.add_argument("--work", type=Path, help="where the stages run; kept (default: a temporary folder)")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    enter_own_shared_memory()
    # A shell ignores SIGINT for what it puts into the background; commands would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what runs, and the temporary folder
    file = args.output_dir / "survive.json"
    rows: dict[str, Any] = json.loads(file.read_text())["stages"] if file.is_file() else {}
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="survive-", dir=args.work) as temporary:
        work = Path(temporary)
        environment = make_environment()
        inputs = work / "inputs"
        build_inputs(inputs, args.stages, args.photos, lambda command, at: run_command(command, at, environment))
        survivors = {
            name: Survivor(name, work / name, inputs, random.Random(f"{args.seed} {name}")) for name in args.stages
        }
        while left := [survivor for survivor in survivors.values() if survivor.row["kills"] < args.kills]:
            for survivor in left:  # in turn, so that a benchmark that is stopped has seen each stage
                if not survivor.seconds:
                    survivor.measure()
                    rows[survivor.name] = survivor.row
                survivor.kill_and_go_on(args.kills)
                write_json(file, {**describe_machine(), "stages": rows})
                print(format_table({"": survivor.row}).splitlines()[1], flush=True)
        for survivor in () if args.no_signals else survivors.values():
            if not survivor.seconds:  # no kills were asked for
                survivor.measure()
                rows[survivor.name] = survivor.row
            for number in SIGNALS:
                survivor.stop_and_go_on(number)
            write_json(file, {**describe_machine(), "stages": rows})
    print(format_table(rows))
    faulty = [row["stage"] for name, row in rows.items() if name in args.stages and not is_clean(row)]
    if faulty:
        raise SystemExit(f"Not as uninterrupted: {', '.join(faulty)} (see {file})")


def describe_machine() -> dict[str, Any]:
    """Return the processor and the versions."""
    import torch
    import transformers
    import trl

    lines = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    names = [line.split(":")[1].strip() for line in lines.splitlines() if line.startswith("model name")]
    flags = "AVX-512" if "avx512f" in lines else "AVX2" if "avx2" in lines else ""
    own = os.environ.get("EMOR3_SURVIVE_SHM", "the machine's")
    return {
        "cpu": f"{(names or [platform.machine()])[0]}, {os.cpu_count()} cores, {flags}",
        "shared_memory": own,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
    }


if __name__ == "__main__":
    main()
