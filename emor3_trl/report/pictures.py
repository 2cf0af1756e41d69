"""Pictures of a prepared split by their ids, for showing them: what is missing or broken is left out."""

from collections.abc import Container, Iterator
from pathlib import Path

import pyarrow.parquet as pq
from pyarrow import ArrowException


def read_pictures(file: str | Path, ids: Container[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (id, bytes of the picture file) of the wanted rows of a split, a few hundred pictures in memory at a time.

    Args:
        file: the split's Parquet file; of one that is not there, or cannot be read, nothing is yielded.
        ids: the wanted pictures.
    """
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=256, columns=["id", "image"]):
                for row in batch.to_pylist():
                    picture = (row["image"] or {}).get("bytes")
                    if row["id"] in ids and picture:
                        yield row["id"], picture
    except (ArrowException, OSError):
        return
