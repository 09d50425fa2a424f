"""One market's book, rebuilt from a stream of snapshots and deltas, and only while that can be vouched for.

The exchange numbers its updates: a delta belongs on the book with the number before its own and on no other. Whatever
else comes (a delta too many, one too few, one from another time, a book whose bid reaches its ask) leaves the book
unknown until the next snapshot, and the snapshot that is then stored says so.
"""

from collections import deque
from typing import Literal, NamedTuple

import numpy as np

from flashtrader.arrays import Floats
from flashtrader.market.book_ledger import Break, Reason

Level = tuple[float, float]
"""Price and size."""

_REMEMBERED = 100


class BookMessage(NamedTuple):
    """One message of a book's stream."""

    update_id: int
    symbol: str
    kind: Literal["snapshot", "delta"]
    time_ms: int
    """When the exchange's matching engine made it."""
    asks: tuple[Level, ...]
    """Of a snapshot all levels; of a delta those that changed, a size of zero for one that is gone."""
    bids: tuple[Level, ...]


class LiveBook:
    """The best `depth` levels of each side, as the exchange keeps them in its stream."""

    def __init__(self, depth: int) -> None:
        self.following = False
        """Whether the book is known; if not, only a snapshot helps."""
        self._depth = depth
        self._asks: dict[float, float] = {}
        self._bids: dict[float, float] = {}
        self._update_id = 0
        self._time_ms = 0
        self._recent: deque[BookMessage] = deque(maxlen=_REMEMBERED)
        self._break: Break | None = Break("began", "a recording begins here")

    def apply(self, message: BookMessage) -> bool:
        """Take in a message; return whether the book is known after it, and is that of the message's time.

        A message that was applied before changes nothing. After any that doesn't fit, `following` is False.
        """
        if self.following and message in self._recent:
            return False
        if message.time_ms < self._time_ms:
            self.lose("out_of_sequence", f"update {message.update_id} is older than update {self._update_id}")
            return False
        expected = self._update_id + 1
        if message.kind == "snapshot":
            self._replace(message)
        elif not self.following:
            return False
        elif message.update_id != expected:
            self.lose("out_of_sequence", f"update {message.update_id} came where {expected} was due")
            return False
        self._put(message)
        return self._whole()

    def lose(self, reason: Reason, evidence: str) -> None:
        """Forget the book: until the next snapshot nobody knows it."""
        if self.following:
            self._break_off(reason, evidence)
        self.following = False

    def take_break(self) -> Break | None:
        """Return why the book was not known all the time since the last call; None if it was."""
        taken, self._break = self._break, None
        return taken

    def best(self, levels: int) -> Floats:
        """Return (levels, 4): ask price, ask size, bid price, bid size; NaN and 0 where a side has fewer."""
        values = np.tile([np.nan, 0.0], (levels, 2))
        asks, bids = sorted(self._asks.items())[:levels], sorted(self._bids.items(), reverse=True)[:levels]
        values[: len(asks), :2] = np.reshape(asks, (-1, 2))
        values[: len(bids), 2:] = np.reshape(bids, (-1, 2))
        return values

    def _replace(self, snapshot: BookMessage) -> None:
        """Begin the book anew. A snapshot that is the next update, or the book as it is, leaves no gap."""
        asks, bids = dict(snapshot.asks), dict(snapshot.bids)
        unchanged = snapshot.update_id == self._update_id and (asks, bids) == (self._asks, self._bids)
        if self.following and not unchanged and snapshot.update_id != self._update_id + 1:
            evidence = f"a snapshot with update {snapshot.update_id} came after update {self._update_id}"
            self._break_off("restarted" if snapshot.update_id == 1 else "out_of_sequence", evidence)
        self._asks, self._bids, self.following = {}, {}, True

    def _put(self, message: BookMessage) -> None:
        for side, levels in ((self._asks, message.asks), (self._bids, message.bids)):
            for price, size in levels:
                if size:
                    side[price] = size
                else:
                    side.pop(price, None)
        # What falls below the depth is no longer kept up to date.
        for price in sorted(self._asks)[self._depth :]:
            del self._asks[price]
        for price in sorted(self._bids)[: -self._depth]:
            del self._bids[price]
        self._update_id, self._time_ms = message.update_id, message.time_ms
        self._recent.append(message)

    def _whole(self) -> bool:
        if not self._asks or not self._bids:
            self._break_off("one_sided", f"update {self._update_id} leaves no {'bid' if self._asks else 'ask'}")
            return False
        bid, ask = max(self._bids), min(self._asks)
        if bid >= ask:
            self.lose("crossed", f"after update {self._update_id} the best bid is {bid:g} and the best ask {ask:g}")
        return self.following

    def _break_off(self, reason: Reason, evidence: str) -> None:
        self._break = self._break or Break(reason, evidence)
