"""What Stratified Transformer finds by coordinates alone: samples, neighbours, pairs of queries and keys.

Samples come from fpsample where `EXACT` is off: that is for timing, as it chooses other points where rounding decides.

N points, M pairs, L rows of each of the three parts (x, y, z) of a table. `offset` holds the last row + 1 of every cloud.
"""

import functools

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.spatial import cKDTree

from ptv2 import clouds, geometry

EXACT = True  # sample exactly, slowly; otherwise with fpsample


@functools.lru_cache(16)  # the network in double precision asks for the same samples again
def sample_bytes(points, count):
    points = np.frombuffer(points, np.float32).reshape(-1, 3)
    nearest, at, rows = np.full(len(points), 1e10, np.float32), 0, []
    for _ in range(count):
        rows.append(at)
        nearest = np.minimum(nearest, ((points - points[at]) ** 2).sum(1))
        at = int(nearest.argmax())
    return np.array(rows)


def sample_exactly(points, count):
    return sample_bytes(points.tobytes(), count)


def sample_fast(points, count):
    from fpsample import bucket_fps_kdline_sampling

    height = max(len(points).bit_length() - 10, 1)  # the best of all, or nearly, for 150 to 40 000 points of a room
    return bucket_fps_kdline_sampling(points, count, h=height, start_idx=0).astype(np.int64)


@geometry
def furthest_points(coord, offset, counts):
    """Rows of counts[b] points of every cloud, each the furthest from those before it, the first one first."""
    sample = sample_exactly if EXACT else sample_fast
    points = coord.numpy()
    rows = [a + sample(points[a:b], count) for (a, b), count in zip(clouds(offset), counts)]
    return torch.from_numpy(np.concatenate(rows))


@geometry
def ball(coord, offset, radius, most):
    """[N, most]: the first neighbours within the radius in row order, -1 where there are fewer."""
    index = np.full((len(coord), most), -1, np.int64)
    for a, b in clouds(offset):
        i, j = cKDTree(coord[a:b].numpy()).query_pairs(radius, output_type="ndarray").T
        own = np.arange(b - a)
        rows, columns = np.concatenate([own, i, j]), np.concatenate([own, j, i])
        table = coo_array((np.ones(len(rows), bool), (rows, columns)), (b - a, b - a)).tocsr()
        table.sort_indices()
        counts = np.diff(table.indptr)
        rows = np.repeat(own, counts)
        place = np.arange(len(rows)) - np.repeat(table.indptr[:-1], counts)
        kept = place < most
        index[a + rows[kept], place[kept]] = a + table.indices[kept]
    return torch.from_numpy(index)


def groups_of(keys):
    """Rows in the order of their keys, and for every row the first place and the number of rows with its key."""
    order = np.argsort(keys, kind="stable")
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return order, first[inverse], counts[inverse]


def expand(queries, order, first, counts):
    """Pairs of every query with the `counts` rows of `order` from place `first` on."""
    total = np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(queries, counts), order[np.repeat(first, counts) + np.arange(counts.sum()) - total]


def pairs(coord, offset, window, sampled, shifted):
    """Queries, ascending, and keys: all points of the small window, and sampled ones of the large window in other small
    ones."""
    x, low = coord.numpy(), coord.numpy().min(0)
    cloud = np.repeat(np.arange(len(offset)), [b - a for a, b in clouds(offset)])

    def cell(size):
        shift = np.float32(size / 2 if shifted else 0)
        return ((x + shift - low) / np.float32(size)).astype(np.int64)

    def number(cells):
        n = cells.max(0) + 1
        return ((cloud * n[2] + cells[:, 2]) * n[1] + cells[:, 1]) * n[0] + cells[:, 0]

    small, large, rows = number(cell(window)), number(cell(2 * window)), np.arange(len(x))
    order, first, counts = groups_of(small)
    dense = expand(rows, order, first, counts)
    kept = sampled.numpy()[np.argsort(large[sampled.numpy()], kind="stable")]
    first = np.searchsorted(large[kept], large, "left")
    counts = np.searchsorted(large[kept], large, "right") - first
    query, key = expand(rows, kept, first, counts)
    other = small[query] != small[key]
    query, key = query[other], key[other]
    before = np.searchsorted(query, rows), np.cumsum(np.bincount(dense[0]))  # of the sampled ones, of the dense ones
    places = np.arange(len(dense[0])) + before[0][dense[0]], np.arange(len(query)) + before[1][query]
    merged = np.empty((2, len(dense[0]) + len(query)), np.int64)
    merged[:, places[0]], merged[:, places[1]] = dense, (query, key)
    return torch.from_numpy(merged[0]), torch.from_numpy(merged[1])


def turned(rows, count):
    """For every number below `count`, the places in `rows.flatten()` where it stands; and where these begin."""
    places = np.arange(rows.numel(), dtype=np.int32)
    table = coo_array((places, (rows.flatten().numpy(), places)), (count, len(places))).tocsr()
    return torch.from_numpy(table.data), torch.from_numpy(table.indptr.astype(np.int32))


class Pairs:
    """Who attends to whom, and with which rows of the tables."""

    def __init__(self, coord, offset, window, step, sampled, shifted, training):
        query, key = pairs(coord, offset, window, sampled, shifted)
        self.points, self.parts = len(coord), 2 * int((2 * window + 1e-4) / step)  # N, L
        r = coord[query] - coord[key]
        r = torch.round(r * 100000) / 100000
        bins = (((r + 2 * window) - 0.0001) / step).trunc().clamp_min(0).int()
        self.query, self.counts = query.int(), torch.bincount(query, minlength=len(coord))
        # Rows of [a value per point; a table], which every pair adds up: its key's, and three of the table: [M, 4].
        first = len(coord) + self.parts * torch.arange(3, dtype=torch.int32)
        self.rows = torch.cat([key.int().unsqueeze(1), bins + first], 1)
        self.starts = torch.cat([torch.zeros(1, dtype=torch.int32), self.counts.cumsum(0)[:-1].int()])
        if training:  # lists of pairs by row, for backward: those of keys, then those of rows of the table
            places, self.begins = turned(self.rows, len(coord) + 3 * self.parts)
            self.pair, self.cut = places // 4, int(self.begins[len(coord)])
            self.query_of = self.query.index_select(0, self.pair)
            self.bins_of_key = self.rows[:, 1:].index_select(0, self.pair[: self.cut]) - len(coord)
            self.key_of_bin = self.rows[:, 0].index_select(0, self.pair[self.cut :])


@geometry
def pair_lists(*args):
    return Pairs(*args)
