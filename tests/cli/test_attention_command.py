"""`predict --attention` on the smoke config, for one entity and for several."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from command import Command

SMOKE = Path(__file__).parents[2] / "configs" / "smoke" / "returns.yaml"
QUICK = ("--set", "training.max_steps=3", "--set", "training.evaluate_every=3", "--set", "training.plain_models=[]")


class Place:
    def __init__(self, root: Path, flashtrader: Command) -> None:
        self._flashtrader = flashtrader
        self.runs = root / "runs"
        self._places = ("--data-dir", root / "data", "--runs-dir", self.runs)
        fetched = ("--source", "simulated", "--symbols", "SIM1,SIM2", "--start", "2024-01-01", "--end", "2024-04-01")
        flashtrader.succeeds("fetch", *fetched, "--data-dir", root / "data")

    def train(self, *overrides: str) -> Path:
        done = self._flashtrader.succeeds("train", "--config", SMOKE, *QUICK, *overrides, *self._places, "--json")
        return Path(done.json["run"])

    def predict(self, *arguments: object) -> Any:
        return self._flashtrader.succeeds("predict", *arguments, *self._places, "--json").json

    def says(self, *arguments: object) -> str:
        return self._flashtrader.succeeds("predict", *arguments, *self._places).out

    def fails(self, *arguments: object) -> str:
        return self._flashtrader.fails(2, "predict", *arguments, *self._places)


@pytest.fixture
def place(tmp_path: Path, flashtrader: Command) -> Place:
    return Place(tmp_path, flashtrader)


def test_attention_of_the_smoke_config(place: Place) -> None:
    run = place.train()
    shown = place.predict("--attention", "2024-03-20T05:00,2024-03-25")
    directory = run / "attention"
    assert json.loads((directory / "summary.json").read_text()) == shown
    assert [bar["time"] for bar in shown["bars"]] == ["2024-03-20T05:00:00Z", "2024-03-25T00:00:00Z"]
    for path in (*(bar["picture"] for bar in shown["bars"]), *shown["pictures"]):
        assert Path(path).read_bytes().startswith(b"\x89PNG")
    assert [Path(path).name for path in shown["pictures"]] == ["ages.png"]
    arrays = load_file(directory / "20240325T000000Z.safetensors")
    assert {name: array.shape for name, array in arrays.items()} == {
        "layer_1": (2, 1, 32, 1),
        "layer_2": (2, 1, 32, 1),
        "rollout": (1, 63, 1),
        "times_ms": (63,),
    }
    ages = np.arange(62, -1, -1)
    of_both = [load_file(bar["weights"])["rollout"][0, :, 0] for bar in shown["bars"]]
    assert shown["rollout"]["mean_bars"] == pytest.approx(np.mean(of_both, axis=0) @ ages, rel=1e-5)
    assert {name: len(heads) for name, heads in shown["layers"].items()} == {"layer 1": 2, "layer 2": 2}

    place.predict("--out", run / "forecasts.csv")
    forecasts = {row.split(",")[0]: row.split(",")[1] for row in (run / "forecasts.csv").read_text().splitlines()}
    assert shown["bars"][1]["forecasts"]["SIM1"] == pytest.approx(
        float(forecasts["2024-03-25 00:00:00+00:00"]), abs=1e-7
    )

    assert len(place.predict("--attention", "3", "--out", run / "elsewhere")["bars"]) == 3
    assert (run / "elsewhere" / "ages.png").is_file()
    assert "looks back furthest" in place.says("--attention", "latest")
    assert place.fails("--attention", "latest", "--follow") == "give --follow or --attention, not both"


@pytest.mark.parametrize("mixing", ["joint", "factorised"])
def test_attention_across_assets(place: Place, mixing: str) -> None:
    place.train("--set", "model.family=portfolio", "--set", f"model.mixing={mixing}")
    shown = place.predict("--attention", "2")
    assert [Path(path).name for path in shown["pictures"]] == ["ages.png", "entities.png"]
    arrays = load_file(shown["bars"][0]["weights"])
    shapes = {name: array.shape for name, array in arrays.items() if name.startswith("layer_1")}
    if mixing == "joint":
        assert shapes == {"layer_1": (2, 2, 32, 2)}
    else:
        assert shapes == {"layer_1_time": (2, 2, 32, 1), "layer_1_across": (2, 2, 1, 2)}
    for array in (arrays["rollout"][None], *(arrays[name] for name in shapes)):
        np.testing.assert_allclose(array.sum(axis=(2, 3)), 1, atol=1e-5)


def test_a_plain_model_has_nothing_to_show(place: Place) -> None:
    place.train("--set", "model.family=ridge")
    message = f"{place.runs}/returns-001: a plain model (ridge) has no attention; leave --attention out"
    assert place.fails("--attention", "latest") == message
