"""The options of `recipes/reproduce.py`."""

from dataclasses import dataclass, field

from emor3_trl.reproduce.paper import PAPER
from emor3_trl.reproduce.systems import SYSTEMS, TABLES


@dataclass
class ReproduceArguments:
    """Which part of the grid is run, and where."""

    tables: list[int] = field(
        default_factory=lambda: list(PAPER),
        metadata={
            "aliases": ["--table"],
            "help": "Tables of the paper (1, 2, 3), and 4: what lies beyond it. A run that several need is run once.",
        },
    )
    scale: str = field(
        default="demo",
        metadata={"help": "A folder of recipes/configs with a reproduce.yaml, or the path of such a file."},
    )
    seeds: int = field(default=3, metadata={"help": "Seeds 1 to N of each training (paper: three, and their median)."})
    systems: list[str] | None = field(
        default=None, metadata={"help": "Only these rows, and what they start from; docs/SYSTEMS.md has their names."}
    )
    train_on: list[str] | None = field(
        default=None,
        metadata={"help": "Data sets that Table 4 trains on, each by itself (default: the first that Table 1 has)."},
    )
    output_dir: str = field(
        default="runs/reproduce", metadata={"help": "Folder of grids; <scale>/<train>/<system>/seed<k> is a run."}
    )
    jobs: int = field(default=1, metadata={"help": "Runs at once; each gets its share of the cores."})
    plan: bool = field(default=False, metadata={"help": "List the runs with their time and cost, and stop."})
    overwrite: bool = field(
        default=False, metadata={"help": "Run anew what was run with other settings, weights or data."}
    )
    write_results: bool = field(
        default=False, metadata={"help": "Run nothing; write docs/RESULTS.md and its figures from what is finished."}
    )

    def __post_init__(self) -> None:
        self.tables = list(dict.fromkeys(self.tables))
        unknown = [number for number in self.tables if number not in TABLES]
        if unknown or not self.tables:
            raise ValueError(f"--table names {', '.join(map(str, unknown)) or 'nothing'}. Expected some of 1, 2, 3, 4.")
        for name in ("seeds", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}. Expected 1 or more.")
        absent = [name for name in self.systems or () if name not in SYSTEMS]
        rows = {name for number in self.tables for name in TABLES[number]}
        if absent:
            raise ValueError(f"--systems names {', '.join(absent)}. Expected some of {', '.join(sorted(rows))}.")
        if self.systems is not None and not rows & set(self.systems):
            tables = ", ".join(map(str, self.tables))
            raise ValueError(
                f"--systems names {', '.join(self.systems)}, no row of table {tables}. Choose its --table."
            )
