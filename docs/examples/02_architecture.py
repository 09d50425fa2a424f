# ruff: noqa: T201
"""Worked example 2 of 5: what the model sees, what it costs, and what it can't see.

python docs/examples/02_architecture.py [DIRECTORY]        after 01_data.py, with the same directory
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

from flashtrader.attention import AttentionPattern
from flashtrader.attention.cost import AttentionShape, attention_cost
from flashtrader.config import load_config
from flashtrader.models.stream import forecast_rows
from flashtrader.panel.loading import load_panel
from flashtrader.panel.splits import Rows
from flashtrader.training.budget import estimate, untrained_model

place = Path(sys.argv[1] if len(sys.argv) > 1 else "examples-output")
experiment = load_config(Path(__file__).with_name("tutorial.yaml"))
panel = load_panel(experiment, place / "data").panel

print("1. Who sees whom: causal attention with a sliding window, here of three bars\n")
for row in AttentionPattern(causal=True, window_steps=3).mask(range(6), range(6), torch.device("cpu")):
    print("   " + " ".join("x" if seen else "." for seen in row))

print("\n2. Why that is affordable: memory that attention keeps for the backward pass, 4 heads of 16\n")
window = AttentionPattern(causal=True, window_steps=2_048)
print("     tokens   matrix of weights   window of 2,048")
for tokens in (2_048, 32_768, 204_800):
    shape = AttentionShape(batch=1, num_queries=tokens, num_keys=tokens, heads=4, head_dim=16)
    kept = [attention_cost(backend, shape, window).saved_bytes / 2**20 for backend in ("naive", "sdpa")]
    print(f"   {tokens:8,} {kept[0]:15,.0f} MiB {kept[1]:13,.0f} MiB")

print("\n3. The model of this experiment, before anything is trained\n")
budget = estimate(experiment)
print(f"   {budget.parameters:,} parameters; a step reads {budget.tokens_per_step:,} tokens, one a bar,")
print(f"   and learns from {budget.labels_per_step:,} labels, one a bar and market")
torch.manual_seed(0)
model = untrained_model(experiment)
# A new model forecasts exactly no change, whatever it sees. For what follows it gets an opinion.
print(f"   its first forecasts: {forecast_rows(model, panel, Rows(500, 503), 64)[:, 0].tolist()}")
torch.nn.init.normal_(model.head.weight)

print("\n4. Causal, tested: replace everything after bar 1,000 by noise\n")
values, mask = (torch.from_numpy(array[None, :1_500]) for array in (panel.values, panel.mask))
changed = values.clone()
changed[:, 1_001:] = 100 * torch.randn_like(changed[:, 1_001:])
with torch.inference_mode():
    outputs, after = model.eval()(values, mask), model(changed, mask)
same = (outputs == after).all(dim=(0, 2, 3))
print(f"   forecasts that stayed the same to the bit: those of bars 0 to {int(same.nonzero().max()):,}")

print("\n5. One pass over a history, bar for bar what one pass per bar gives\n")
# Positions are relative and the window slides: layers x (window - 1) earlier bars decide a forecast, and no others.
reach = model.decoder.receptive_bars
rows = Rows(2_000, 6_000)
began = time.perf_counter()
at_once = forecast_rows(model, panel, rows, experiment.warmup_bars)
seconds_at_once = (time.perf_counter() - began) / len(rows)
began = time.perf_counter()
one_by_one = [forecast_rows(model, panel, Rows(row, row + 1), experiment.warmup_bars)[0] for row in range(2_000, 2_050)]
seconds_one_by_one = (time.perf_counter() - began) / 50
error = np.abs(at_once[:50] - np.array(one_by_one)).max() / np.abs(at_once).std()
print(f"   each forecast reaches back {reach} bars; largest difference: {error:.0e} of their spread")
print(f"   one pass is {seconds_one_by_one / seconds_at_once:,.0f} times as fast a bar")
