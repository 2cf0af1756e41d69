"""The images of a prepared split by their ids, for showing them; missing and broken ones are left out."""

from collections.abc import Container, Iterator
from pathlib import Path

import pyarrow.parquet as pq
from pyarrow import ArrowException


def read_images(file: str | Path, ids: Container[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (id, bytes of the image file) of the wanted rows of a split, a few hundred images in memory at a time.

    Args:
        file: the split's Parquet file. If it is not there, or cannot be read, nothing is yielded.
        ids: the wanted images.
    """
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=256, columns=["id", "image"]):
                for row in batch.to_pylist():
                    content = (row["image"] or {}).get("bytes")
                    if row["id"] in ids and content:
                        yield row["id"], content
    except (ArrowException, OSError):
        return
