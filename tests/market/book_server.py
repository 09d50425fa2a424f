"""An exchange's order book, its stream with faults on demand, and a WebSocket server on this machine that speaks it.

    market = BookMarket("BTCUSDT", seed=1)
    with BookServer(Wire(market, FAULTS, seed=1)) as server:
        source = BybitBooks(base_url=server.url)

`BookMarket` moves step by step and remembers every state that it was in. `Wire` makes the messages of each step, and
loses, repeats, swaps and delays them by a seeded schedule. `BookServer` sends them through real sockets.
"""

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from exchange_server import LocalServer, Reply, Request, json_reply

START_MS = 1_700_000_000_000
DEEP = 8
"""Levels that the exchange keeps beyond those in its stream."""

FAULTS = ("skip", "repeat", "repeat_old", "swap", "restart", "lost_restart", "disconnect", "unreadable")


class BookMarket:
    """A random book of one symbol; prices in ticks of 0.5."""

    def __init__(self, symbol: str = "BTCUSDT", seed: int = 0, depth: int = 50) -> None:
        self.symbol, self.depth = symbol, depth
        self.update_id, self.time_ms = 1_000, START_MS
        self.states: dict[int, list[np.ndarray]] = {}
        """By ms, every state of the stream's book in it, (depth, 4), in order."""
        self._rng = np.random.default_rng(seed)
        self._asks: dict[int, float] = {}
        self._bids: dict[int, float] = {}
        self._refill()
        self._remember()

    def step(self) -> dict[str, Any]:
        """Move on by one update; return its delta."""
        before = self._sides()
        self.time_ms += int(self._rng.integers(0, 4))
        self.update_id += 1
        for _ in range(self._rng.integers(1, 4)):
            self._change()
        self._refill()
        self._remember()
        changes = [_difference(old, new) for old, new in zip(before, self._sides(), strict=True)]
        return self._message("delta", *changes)

    def snapshot(self) -> dict[str, Any]:
        return self._message("snapshot", *(list(side.items()) for side in self._sides()))

    def restart(self) -> dict[str, Any]:
        """Number the updates from 1 again; return the snapshot that says so."""
        self.step()
        self.update_id = 1
        return self.snapshot()

    def _change(self) -> None:
        best_ask, best_bid = min(self._asks), max(self._bids)
        away = int(self._rng.geometric(0.15)) - 2
        size = round(float(self._rng.gamma(2.0, 1.0)) + 0.001, 3)
        if self._rng.random() < 0.5:
            price, side, other = best_bid - away, self._bids, self._asks
            taken = [ask for ask in other if ask <= price]
        else:
            price, side, other = best_ask + away, self._asks, self._bids
            taken = [bid for bid in other if bid >= price]
        for crossed in taken:
            del other[crossed]
        if price in side and self._rng.random() < 0.4:
            del side[price]
        else:
            side[price] = size

    def _refill(self) -> None:
        while len(self._asks) < self.depth + DEEP:
            self._asks[max(self._asks, default=max(self._bids, default=200_000)) + 1] = 1.5
        while len(self._bids) < self.depth + DEEP:
            self._bids[min(self._bids, default=min(self._asks)) - 1] = 2.5

    def _sides(self) -> tuple[dict[int, float], dict[int, float]]:
        asks, bids = sorted(self._asks)[: self.depth], sorted(self._bids, reverse=True)[: self.depth]
        return {price: self._asks[price] for price in asks}, {price: self._bids[price] for price in bids}

    def _remember(self) -> None:
        asks, bids = (np.array(list(side.items())) * [0.5, 1.0] for side in self._sides())
        self.states.setdefault(self.time_ms, []).append(np.hstack([asks, bids]))

    def _message(
        self, kind: str, asks: Iterable[tuple[int, float]], bids: Iterable[tuple[int, float]]
    ) -> dict[str, Any]:
        texts = [[[f"{price / 2:.2f}", f"{size:g}"] for price, size in side] for side in (bids, asks)]
        data = {"s": self.symbol, "b": texts[0], "a": texts[1], "u": self.update_id, "seq": 7 * self.update_id}
        topic = f"orderbook.{self.depth}.{self.symbol}"
        return {"topic": topic, "type": kind, "ts": self.time_ms + 3, "data": data, "cts": self.time_ms}


class Wire:
    """The messages of a market's stream, as they arrive; None is the end of a connection."""

    def __init__(self, market: BookMarket, faults: Iterable[str] = (), seed: int = 0, rate: float = 0.02) -> None:
        self.market = market
        self.steps = 0
        self.met: list[str] = []
        """The faults that occurred."""
        self._faults, self._rate = tuple(faults), rate
        self._rng = np.random.default_rng([seed, 1])
        self._sent: list[dict[str, Any]] = []

    def step(self) -> Iterator[dict[str, Any] | str | None]:
        """Move the market on by one update, or a few, and yield what of it arrives."""
        self.steps += 1
        fault = str(self._rng.choice(self._faults)) if self._faults and self._rng.random() < self._rate else None
        if fault:
            self.met.append(fault)
        for message in self._faulty(fault):
            if isinstance(message, dict):
                self._sent.append(message)
            yield message

    def _faulty(self, fault: str | None) -> Iterator[dict[str, Any] | str | None]:
        match fault:
            case None:
                yield self.market.step()
            case "skip":
                for _ in range(self._rng.integers(1, 4)):
                    self.market.step()
            case "repeat":
                message = self.market.step()
                yield from [message] * int(self._rng.integers(2, 4))
            case "repeat_old":
                yield self.market.step()
                if self._sent:
                    yield self._sent[-1 - int(self._rng.integers(0, min(len(self._sent), 150)))]
            case "swap":
                messages = [self.market.step() for _ in range(self._rng.integers(2, 5))]
                yield from (messages[place] for place in self._rng.permutation(len(messages)))
            case "restart":
                yield self.market.restart()
            case "lost_restart":
                self.market.restart()
            case "unreadable":
                self.market.step()
                yield '{"topic": "orderbook.50.BTC'
            case "disconnect":
                yield None
                for _ in range(self._rng.integers(0, 20)):
                    self.market.step()


class BookServer:
    """A WebSocket server on a free port of 127.0.0.1: subscriptions, pings, and the messages of each wire.

    steps: after so many of each wire, the market sleeps. pause_s: between two steps.
    """

    def __init__(self, *wires: Wire, steps: int = 1_000, pause_s: float = 0.0005, snapshots: bool = True) -> None:
        self.wires = {wire.market.symbol: wire for wire in wires}
        self.requests: list[dict[str, Any]] = []
        self.connections = 0
        self._lock = threading.Lock()
        self.snapshots = snapshots
        self._steps, self._pause_s = steps, pause_s

    @property
    def exhausted(self) -> bool:
        """Whether every market sleeps."""
        return all(wire.steps >= self._steps for wire in self.wires.values())

    @property
    def url(self) -> str:
        return f"ws://{self.host}"

    def __enter__(self) -> Self:
        self._server = serve(self._talk, "127.0.0.1", 0, ping_interval=None, close_timeout=0.5)
        self.host = f"127.0.0.1:{self._server.socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()

    def _talk(self, connection: ServerConnection) -> None:
        self.connections += 1
        subscribed: list[str] = []
        with suppress(ConnectionClosed):
            while True:
                with suppress(TimeoutError):
                    self._answer(connection, json.loads(connection.recv(timeout=0)), subscribed)
                for symbol, wire in self.wires.items():
                    with self._lock:
                        messages = list(wire.step()) if wire.steps < self._steps and subscribed else []
                    for message in messages:
                        if message is None:
                            return
                        if symbol in subscribed:
                            connection.send(message if isinstance(message, str) else json.dumps(message))
                time.sleep(self._pause_s)

    def _answer(self, connection: ServerConnection, request: dict[str, Any], subscribed: list[str]) -> None:
        self.requests.append(request)
        operation = request["op"]
        if operation == "ping":
            connection.send(json.dumps({"success": True, "ret_msg": "pong", "op": "ping"}))
            return
        [topic] = request["args"]
        symbol = topic.split(".")[2]
        known = symbol in self.wires
        words = "" if known else f"error:handler not found,topic:{topic}"
        connection.send(
            json.dumps({"success": known, "ret_msg": words, "op": operation, "req_id": request.get("req_id", "")})
        )
        if operation == "unsubscribe":
            subscribed.remove(symbol)
        elif known:
            subscribed.append(symbol)
            if self.snapshots:
                connection.send(json.dumps(self.wires[symbol].market.snapshot()))


class SnapshotServer(LocalServer):
    """Bybit's `/v5/market/orderbook` for one market."""

    def __init__(self, market: BookMarket) -> None:
        super().__init__()
        self.market = market

    def answer(self, request: Request) -> Reply:
        symbol, limit = request.query.get("symbol"), int(request.query.get("limit", 25))
        if request.path != "/v5/market/orderbook":
            return Reply(b"404 page not found", 404)
        if symbol != self.market.symbol:
            return json_reply({"retCode": 10001, "retMsg": "Not supported symbols", "result": {}, "time": START_MS})
        message = self.market.snapshot()
        data = message["data"]
        result = data | {"a": data["a"][:limit], "b": data["b"][:limit], "ts": message["ts"], "cts": message["cts"]}
        return json_reply({"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": START_MS})


def _difference(old: dict[int, float], new: dict[int, float]) -> list[tuple[int, float]]:
    gone = [(price, 0.0) for price in old if price not in new]
    return gone + [(price, size) for price, size in new.items() if old.get(price) != size]
