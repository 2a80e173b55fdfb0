"""What stands in for packages that some models need and that may be missing?  As little of each as RecBole calls."""

from __future__ import annotations

import types

import numpy as np
import scipy.sparse
import torch


def dgl() -> types.ModuleType:
    """Return a `dgl` with the calls of release 1.1: none of the options that RecBole's KGAT gives."""
    module = types.ModuleType("dgl")
    module.DGLGraph, module.edge_subgraph = Graph, edge_subgraph
    module.graph = lambda pair: Graph(*pair)
    return module


class Graph:
    """A directed graph whose edges have data."""

    def __init__(self, sources, targets):
        self.sources, self.targets, self.edata = sources, targets, {}
        self.nodes = 1 + int(torch.cat([sources, targets]).max())

    def filter_edges(self, predicate):
        """Return the indices of the edges that the predicate keeps."""
        return torch.nonzero(predicate(types.SimpleNamespace(data=self.edata)))[:, 0]

    def adjacency_matrix(self, etype=None):
        """Return a matrix of dgl's own kind, of which RecBole has no use."""
        raise NotImplementedError

    def adj_external(self, transpose=False, ctx=None, scipy_fmt=None, etype=None):
        """Return the adjacency matrix, a row per source."""
        places = (self.targets, self.sources) if transpose else (self.sources, self.targets)
        ones = np.ones(len(self.sources))
        return scipy.sparse.coo_matrix((ones, tuple(map(np.asarray, places))), (self.nodes, self.nodes))


def edge_subgraph(graph, edges, *, relabel_nodes=True, store_ids=True):
    """Return the graph of these edges; without new labels it keeps every node."""
    assert not relabel_nodes
    part = Graph(graph.sources[edges], graph.targets[edges])
    part.nodes = graph.nodes
    return part


def torch_scatter() -> types.ModuleType:
    """Return a `torch_scatter` with the mean that RecBole's KGIN takes."""
    module = types.ModuleType("torch_scatter")
    module.scatter_mean = scatter_mean
    return module


def scatter_mean(src, index, dim_size, dim):
    """Return the mean of the rows of each index; 0 for one without rows."""
    zeros = torch.zeros(dim_size, src.shape[1])
    return zeros.index_reduce(dim, index, src, "mean", include_self=False)


def faiss() -> types.ModuleType:
    """Return a `faiss` that clusters around the first k points."""
    module = types.ModuleType("faiss")
    module.Kmeans = Kmeans
    return module


class Kmeans:
    """Clusters around the first k points; its own `index`."""

    def __init__(self, d, k, gpu=False):
        self.k, self.index = k, self

    def train(self, points):
        """Choose the centroids."""
        self.centroids = points[: self.k].copy()

    def search(self, points, count):
        """Return distances to the nearest centroid, and its number."""
        distances = ((points[:, None] - self.centroids) ** 2).sum(2)
        return distances.min(1)[:, None], distances.argmin(1)[:, None]
