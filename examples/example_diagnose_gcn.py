"""
Why does a 32-layer GCN not learn?
==================================

A deep GCN on a small generated graph, where nothing needs to be downloaded: one call
gives the verdict, and the same network at depth 2 gives the comparison.
"""

# %%
# The graph is drawn from a contextual stochastic block model: neighbours mostly share
# their class, so a graph network has something to gain from them.

import matplotlib.pyplot as plt
import torch
from torch_geometric.nn import GCN

import graphfathom as gf

data = gf.datasets.csbm(
    120, num_classes=3, avg_degree=5, homophily=0.8, num_features=16, mu=1.0, seed=0
)
torch.manual_seed(0)

# %%
# Any PyG model will do, unchanged. After the call it is bit for bit what it was.

model = GCN(in_channels=16, hidden_channels=16, num_layers=32, out_channels=3)
report = gf.diagnose(model, data)
print(report)

# %%
# The verdict is the finding of highest precedence. Its evidence is taken from a table
# of observations, one row for each measured number, that can be read directly.

states, gradients = report.observations.series("gradient.state")
print(f"{report.verdict.name}: {report.verdict.where}")
print(f"log10 gradient of the loss at state {states[0]}: {gradients[0]:.1f}")
print(f"log10 gradient of the loss at state {states[-1]}: {gradients[-1]:.1f}")

# %%
# A figure of a report is a function of the report and an ``Axes``.

figure, ax = plt.subplots(layout="constrained")
gf.plotting.gradients(report, ax=ax)

# %%
# Is it the depth? The same network with two layers.

shallow = GCN(in_channels=16, hidden_channels=16, num_layers=2, out_channels=3)
print(gf.diagnose(shallow, data).verdict.title)
