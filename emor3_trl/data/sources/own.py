"""Your own pictures: a folder of folders (label = folder), a table, or files of a data set.

The label space is one of the known ones, a YAML file (`name`, `labels` and, if spellings differ, `map` from what is
written to a label, or to null for what shall be left out), or the labels that occur.
"""

from pathlib import Path

from emor3_trl.data.sources import hub
from emor3_trl.data.sources.candidates import Source, require_path
from emor3_trl.data.sources.folders import find_tables, holds_dataset, list_folder
from emor3_trl.data.sources.label_space import read_label_space
from emor3_trl.data.sources.labels import LabelReader
from emor3_trl.data.sources.listing import build_source
from emor3_trl.data.sources.split_names import Reading
from emor3_trl.data.sources.table_rows import list_tables


def list_candidates(path: str | Path, space: str | Path | None = None, reading: Reading | None = None) -> Source:
    """List the candidates of a folder or a table.

    Args:
        path: a folder of folders, a table (.csv, .tsv, .json, .jsonl, .parquet), or a folder with a data set's files. A
            table's paths are relative to its folder.
        space: name of a label space, or path of a YAML file; None takes the labels that occur.
        reading: the columns, splits and folders that the user named.

    Raises:
        FileNotFoundError: if there is no such folder, table or YAML file.
        ValueError: if a column is missing, nothing is offered, a label is outside the label space, or labels do not
            look like emotions.
    """
    reading = reading or Reading()
    path = require_path(
        Path(path), "a folder of folders, or a .csv or .jsonl file, as --source (a data set of the Hub is a --hub_id)"
    )
    known, spelled = (None, {}) if space is None else read_label_space(space)
    reader = None if known is None else LabelReader(known, spelled)
    tables = find_tables(path) if path.is_dir() else []
    parquet = next((table for table, _ in [*tables, (path, None)] if table.suffix.lower() == ".parquet"), None)
    if parquet is not None or (path.is_dir() and not tables and holds_dataset(path)):
        listing = hub.list_rows(str(parquet or path), reading, reader, "emotion")
    elif tables:
        listing = list_tables(tables, path, reading, reader)
    elif path.is_dir():
        listing = list_folder(path, reading, reader)
    else:
        listing = list_tables([(path, None)], path.parent, reading, reader)
    return build_source(listing, reading, known, spelled)
