"""
A learning rate that is too high
================================

A monitor records cheap measures of every layer while a network trains: three lines in
a loop of one's own. The report then judges the training together with the model.
"""

# %%
# A graph network of six layers, on a graph from a contextual stochastic block model.

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch_geometric.nn import GCN

import graphfathom as gf

data = gf.datasets.csbm(
    200, num_classes=3, avg_degree=6, homophily=0.8, num_features=16, seed=0
)


def monitored(lr: float) -> gf.Monitor:
    """Train for 200 steps and watch."""
    torch.manual_seed(0)
    model = GCN(in_channels=16, hidden_channels=32, num_layers=6, out_channels=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    monitor = gf.Monitor(model, every=20)
    for _ in range(201):
        optimizer.zero_grad()
        output = model(data.x, data.edge_index)
        loss = F.cross_entropy(output[data.train_mask], data.y[data.train_mask])
        loss.backward()
        monitor.step(loss)  # between the backward pass and the step
        optimizer.step()
    monitor.close()
    return monitor


# %%
# With a rate of 1 the loss jumps up in the first steps, and the network is lost.

monitor = monitored(lr=1.0)
report = monitor.report(data, controls="none")
print(report)

# %%
# What was recorded is part of the table of the report, and drawn from it.

figure, ax = plt.subplots(layout="constrained")
gf.plotting.training(report, ax=ax)

# %%
# The advice, taken: nothing is found any more.

healthy = monitored(lr=0.01).report(data, controls="none")
print(healthy.verdict.title)
