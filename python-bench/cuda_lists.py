"""Index lists on a GPU, as the official code finds them there: brute force in CUDA (`lists.cu`), the rest in PyTorch.

A `Finder` takes the place of the functions of `ptv2.py` and `stratified_lists.py` that find lists on the CPU, and returns
the same: `ptv2.backend = Finder()`. It can also remember the lists of a run and hand them out again, which leaves the
features alone to be measured.

Two things are done better than in the official code: pairs of points come from sorting and counting (there: windows padded
to the fullest, in masks [windows, keys, keys]), and rows of the tables are found once for all blocks that share a list.
Tensors are on the device, `offset` is on the host: it decides on launches.
"""

from types import SimpleNamespace

import torch

from driver import Source
from ptv2 import clouds

kernels = Source("lists.cu")
TILE = 128  # as in `lists.cu`


def on(tensor, value, dtype=torch.float32):
    """A number or a list on the device of a tensor. (PyTorch divides by numbers of the host by multiplying with their
    reciprocals, which moves points across the borders of cells.)"""
    return torch.tensor(value, dtype=dtype, device=tensor.device)


def cloud_of(coord, offset):
    """The cloud of every point."""
    sizes = on(coord, [b - a for a, b in clouds(offset)], torch.int64)
    return torch.repeat_interleave(torch.arange(len(offset), device=coord.device), sizes, output_size=len(coord))


def neighbours(k, coord, offset, query, query_offset):
    index = torch.empty(len(query), k, dtype=torch.int64, device=coord.device)
    distance = torch.empty(len(query), k, dtype=torch.float32, device=coord.device)
    points, asked = coord.float().contiguous(), query.float().contiguous()
    for (a, b), (qa, qb) in zip(clouds(offset), clouds(query_offset)):
        kernels(f"nearest_{k}", -(-(qb - qa) // TILE), TILE, points, a, b, asked, qa, qb, index, distance)
    return index, distance


def grid_cluster(coord, offset, size):
    batch = cloud_of(coord, offset)
    low = torch.stack([coord[a:b].amin(0) for a, b in clouds(offset)])
    cell = ((coord - low[batch]) / on(coord, size)).long()
    n = cell.amax(0) + 1
    key = cell[:, 0] + n[0] * (cell[:, 1] + n[1] * (cell[:, 2] + n[2] * batch))
    unique, cluster, count = torch.unique(key, return_inverse=True, return_counts=True)
    sizes = torch.bincount(unique // n.prod(), minlength=len(offset))
    return cluster, count, sizes.cumsum(0).cpu()


def centers(coord, cluster, count):
    # In double precision, so that the order of the atomics does not show.
    sums = coord.new_zeros(len(count), 3, dtype=torch.float64).index_add_(0, cluster, coord.double())
    return (sums / count[:, None]).to(coord.dtype)


def furthest_points(coord, offset, counts):
    ends = [0, *offset.tolist()]
    longest = max(b - a for a, b in zip(ends, ends[1:]))
    looking = min(1 << (longest.bit_length() - 1), 1024)
    samples = [sum(counts[:i]) for i in range(len(counts) + 1)]
    rows = torch.empty(samples[-1], dtype=torch.int64, device=coord.device)
    nearest = torch.full((len(coord),), 1e10, device=coord.device)
    where = on(coord, ends, torch.int32), on(coord, samples, torch.int32)
    kernels("furthest", len(offset), max(looking, 32), coord.contiguous(), *where, looking, nearest, rows)
    return rows


def ball(coord, offset, radius, most):
    index = torch.empty(len(coord), most, dtype=torch.int64, device=coord.device)
    points = coord.contiguous()
    for a, b in clouds(offset):
        kernels("ball", -(-(b - a) // TILE), TILE, points, a, b, radius * radius, most, index)
    return index


def expand(queries, order, first, counts):
    """Pairs of every query with the `counts` rows of `order` from place `first` on."""
    total = int(counts.sum())
    repeat = lambda x: torch.repeat_interleave(x, counts, output_size=total)
    own = torch.arange(total, device=order.device) - repeat(counts.cumsum(0) - counts)
    return repeat(queries), order[repeat(first) + own]


def pairs(coord, offset, window, sampled, shifted):
    """As `stratified_lists.pairs`."""
    low, cloud = coord.amin(0), cloud_of(coord, offset)

    def number(size):
        cells = ((coord + (size / 2 if shifted else 0.0) - low) / on(coord, size)).long()
        n = cells.amax(0) + 1
        return ((cloud * n[2] + cells[:, 2]) * n[1] + cells[:, 1]) * n[0] + cells[:, 0]

    small, large, rows = number(window), number(2 * window), torch.arange(len(coord), device=coord.device)
    _, inverse, counts = torch.unique(small, return_inverse=True, return_counts=True)
    first = counts.cumsum(0) - counts
    dense = expand(rows, torch.argsort(small, stable=True), first[inverse], counts[inverse])
    sizes, order = torch.sort(large[sampled], stable=True)
    first = torch.searchsorted(sizes, large)
    counts = torch.searchsorted(sizes, large, right=True) - first
    query, key = expand(rows, sampled[order], first, counts)
    other = small[query] != small[key]
    query, key = torch.cat([dense[0], query[other]]), torch.cat([dense[1], key[other]])
    query, order = torch.sort(query, stable=True)
    return query, key[order]


def pair_lists(coord, offset, window, step, sampled, shifted, training):
    """What `cuda_attention.py` needs: query and key of every pair, its three rows of the tables, and where those of a query
    begin."""
    query, key = pairs(coord, offset, window, sampled, shifted)
    parts = 2 * int((2 * window + 1e-4) / step)
    r = coord[query] - coord[key]
    r = torch.round(r * 100000) / on(r, 100000.0)
    bins = (((r + 2 * window) - 0.0001) / on(r, step)).trunc().clamp_min(0).int()
    bins += parts * torch.arange(3, dtype=torch.int32, device=coord.device)
    first = torch.searchsorted(query, torch.arange(len(coord) + 1, device=coord.device))
    return SimpleNamespace(query=query.int(), key=key.int(), bins=bins, first=first.int())


FUNCTIONS = [neighbours, grid_cluster, centers, furthest_points, ball, pair_lists]


class Finder:
    """Finds lists, or hands out those of the run before."""

    def __init__(self):
        self.functions = {f.__name__: f for f in FUNCTIONS}
        self.tape, self.place = [], None

    def find(self):
        """From now on lists are found anew."""
        self.tape, self.place = [], None

    def replay(self):
        """The next run gets the lists of the first run since `find`."""
        self.place = 0

    def double(self):
        """The numbers in the lists, for a network in double precision."""
        wide = lambda x: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        self.tape = [tuple(map(wide, x)) if isinstance(x, tuple) else wide(x) for x in self.tape]

    def __call__(self, name, *args):
        if self.place is not None:
            self.place += 1
            return self.tape[self.place - 1]
        found = self.functions[name](*args)
        self.tape.append(found)
        return found
