"""What outlives the processes of a launch, all of which torchrun starts again when one of them is lost."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store

from flashtrader.errors import BackendError, ConfigError, DataError, DivergedError
from flashtrader.launch import num_processes, rank

_LOOK_SECONDS = 0.05

_LASTING = (ConfigError, DataError, BackendError, DivergedError)
"""What a training meets again when its processes are started again."""


@dataclass(frozen=True)
class Launch:
    """The memory of one launch: a key-value store that every process of every start sees."""

    store: Store | None = None
    """torchrun's own; None where its processes keep the store, and it ends with them: nothing is remembered then."""

    @classmethod
    def of_torchrun(cls) -> "Launch":
        """Return the launch that this process belongs to."""
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return cls()
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return cls(PrefixStore("flashtrader", TCPStore(address, port, is_master=False)))

    def begun(self) -> Path | None:
        """Return the run that an earlier start began, if it did."""
        run = self._recall("run")
        return None if run is None else Path(run)

    def remember(self, run: Path) -> None:
        """Keep which run this start began."""
        self._keep("run", str(run))

    @contextmanager
    def refusing_again(self) -> Iterator[None]:
        """Raise at once what ended an earlier start and would end this one; keep for later ones what ends it within."""
        refused = self._recall("refused")
        if refused is not None:
            number, _, words = refused.partition(" ")
            raise _LASTING[int(number)](words)
        try:
            yield
        except _LASTING as refusal:
            kind = next(index for index, each in enumerate(_LASTING) if isinstance(refusal, each))
            self._keep("refused", f"{kind} {refusal}")
            raise

    def _recall(self, key: str) -> str | None:
        if self.store is None or not self.store.check([key]):
            return None
        return self.store.get(key).decode()

    def _keep(self, key: str, text: str) -> None:
        if self.store is not None:
            self.store.set(key, text)

    def store_of_start(self) -> Store | None:
        """Return a part of the store in which the processes of this start meet, and none of an earlier one."""
        return None if self.store is None else PrefixStore(_agree_on_start(self.store), self.store)


def _agree_on_start(store: Store) -> str:
    """Return a name that all processes of this start, and of no earlier one, have for it.

    torchrun's store outlives a restart, and so do the addresses in it of processes that are no more (PyTorch 2.13), nor
    do the machines count restarts alike. So each process leaves a sign of its own, and the first one answers every sign
    that it finds until all have taken note; signs of the dead are answered in vain.
    """
    own = uuid4().hex
    if rank() > 0:
        store.set(f"sign of {rank()}", own)
        start = store.get(f"answer to {own}").decode()
        store.set(f"{start} noted by {rank()}", "")
        return start
    missing = set(range(1, num_processes()))
    while missing:
        for other in missing:
            if store.check([f"sign of {other}"]):
                store.set(f"answer to {store.get(f'sign of {other}').decode()}", own)
        time.sleep(_LOOK_SECONDS)
        missing = {other for other in missing if not store.check([f"{own} noted by {other}"])}
    return own
