"""The group over which a trainer on a CPU streams weights to vLLM's server; on GPUs, NCCL does it (TRL's client)."""

from datetime import timedelta

from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore

BACKEND = "gloo"  # under this name vLLM's workers know it (`server_worker`)
INTERRUPTED = "already active"  # what a worker says that has begun to take weights and has not ended
SECONDS = 120  # that a side waits for the other


def open_meeting(address: str) -> TCPStore:
    """Return the store at which the trainer waits for the workers, on a free port."""
    return TCPStore(address, 0, None, True, timedelta(seconds=SECONDS), wait_for_workers=False)


def find_meeting(address: str, port: int) -> TCPStore:
    """Return the store at which the trainer waits."""
    return TCPStore(address, port, None, False, timedelta(seconds=SECONDS))


def join_group(store: TCPStore, rank: int, size: int) -> ProcessGroupGloo:
    """Return the group of the trainer (rank 0) and the workers, which does not touch the trainer's own."""
    return ProcessGroupGloo(PrefixStore("weights", store), rank, size, timedelta(seconds=SECONDS))
