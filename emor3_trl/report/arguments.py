"""What `recipes/report.py` can be told."""

from dataclasses import dataclass, field


@dataclass
class ReportArguments:
    """A report on one or more folders of runs."""

    runs: list[str] = field(
        default_factory=lambda: ["runs/demo"],
        metadata={"help": "Folders that hold evaluation/ and the runs of the models; may stand first, without --runs."},
    )
    data: list[str] | None = field(
        default=None,
        metadata={"help": "Folders of prepared data with the pictures (default: where the evaluation found them)."},
    )
    in_domain: list[str] | None = field(
        default=None,
        metadata={"help": "Data sets that count as in-domain (default: what the evaluation was told, else test)."},
    )
    baseline: str | None = field(
        default=None, metadata={"help": "Model that the others are compared with (default: base, else the first)."}
    )
    trained: str | None = field(
        default=None, metadata={"help": "Model whose completions are shown (default: emo_r3, else the last)."}
    )
    page: str | None = field(default=None, metadata={"help": "The page to write (default: report.html, first folder)."})
    max_cases: int = field(default=5000, metadata={"help": "Cases on the page; of more, so many are drawn at random."})
    serve: bool = field(
        default=False,
        metadata={"help": "Show the page on this machine only, and draw it again when the runs' files grow."},
    )
    port: int = field(default=8000, metadata={"help": "Port of --serve on 127.0.0.1; 0 takes a free one."})

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port is {self.port}. Expected 0 to 65535; 0 takes a free one.")
        if self.max_cases < 1:
            raise ValueError(f"max_cases is {self.max_cases}. Expected 1 or more.")
