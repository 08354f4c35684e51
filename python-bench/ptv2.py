"""Point Transformer V2 in plain PyTorch: the yardstick that Cairn is compared with.

Written from a description of the published networks (Wu et al. 2022, arXiv 2210.05666, and the layer names of their
checkpoints), with the structure of the reference code: pair tensors [N, K, C] are materialised, and every step is one
PyTorch operation. The only thing done better than there is the neighbour search (a k-d tree instead of brute force),
so that timings compare the networks and not the search.

N points, K neighbours, C channels, G groups of I = C / G channels. `offset` holds the last row + 1 of every cloud.
"""

import functools
import time

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import nn


spent = 0.0  # seconds in functions of coordinates alone, so far
backend = None  # what finds index lists on a GPU: called with the name and the arguments of a function below


def geometry(function):
    """Adds the time of a function to `spent`, or lets `backend` do its work."""

    @functools.wraps(function)
    def timed(*args):
        global spent
        if backend is not None:
            return backend(function.__name__, *args)
        start = time.perf_counter()
        result = function(*args)
        spent += time.perf_counter() - start
        return result

    return timed


def starts(offset):
    """First row of every cloud."""
    return [0] + offset.tolist()[:-1]


def clouds(offset):
    """(first row, last row + 1) of every cloud."""
    return list(zip(starts(offset), offset.tolist()))


@geometry
def neighbours(k, coord, offset, query, query_offset):
    """Rows of the k nearest points of `coord` for every row of `query`, within its cloud: [M, k], -1 where there are
    fewer than k; and the distances, 1e5 there."""
    index = np.full((len(query), k), -1, np.int64)
    distance = np.full((len(query), k), 1e5, np.float32)
    points, asked = coord.numpy(), query.numpy()
    for (a, b), (qa, qb) in zip(clouds(offset), clouds(query_offset)):
        if a == b or qa == qb:
            continue
        found = min(k, b - a)
        d, i = cKDTree(points[a:b]).query(asked[qa:qb], k=range(1, found + 1), workers=torch.get_num_threads())
        index[qa:qb, :found] = i + a
        distance[qa:qb, :found] = d
    return torch.from_numpy(index), torch.from_numpy(distance)


def rows(x, index):
    """x[index]; -1 is the last row."""
    if backend is None:
        return x[index]
    # On a GPU the backward pass of indexing would sort, that of `index_select` adds up by atomics.
    return x.index_select(0, index.flatten().remainder(len(x))).unflatten(0, index.shape)


def group(index, feat):
    """[M, K, C]: the rows of `feat` that `index` names, zeros where it names none."""
    return rows(torch.cat([feat, feat.new_zeros(1, feat.shape[1])]), index)


class PointBatchNorm(nn.Module):
    """Batch norm over all points, or over all pairs of a [N, K, C] tensor."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x):
        if x.dim() == 3:
            return self.norm(x.transpose(1, 2).contiguous()).transpose(1, 2).contiguous()
        return self.norm(x)


class GroupedLinear(nn.Module):
    """One output per group, from the channels of that group only (mode 1)."""

    def __init__(self, channels, groups):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(1, channels))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x):
        return (x * self.weight).unflatten(-1, (self.groups, -1)).sum(-1)


def position_mlp(channels):
    return nn.Sequential(nn.Linear(3, channels), PointBatchNorm(channels), nn.ReLU(), nn.Linear(channels, channels))


class GroupedVectorAttention(nn.Module):
    def __init__(self, mode, channels, groups, qkv_bias, multiplier, bias, drop):
        super().__init__()
        self.groups = groups
        act = nn.ReLU()
        self.linear_q = nn.Sequential(nn.Linear(channels, channels, bias=qkv_bias), PointBatchNorm(channels), act)
        self.linear_k = nn.Sequential(nn.Linear(channels, channels, bias=qkv_bias), PointBatchNorm(channels), act)
        self.linear_v = nn.Linear(channels, channels, bias=qkv_bias)
        if multiplier:
            self.linear_p_multiplier = position_mlp(channels)
        if bias:
            self.linear_p_bias = position_mlp(channels)
        first = GroupedLinear(channels, groups) if mode == 1 else nn.Linear(channels, groups)
        self.weight_encoding = nn.Sequential(first, PointBatchNorm(groups), act, nn.Linear(groups, groups))
        self.attn_drop = nn.Dropout(drop)

    def forward(self, x, coord, index):
        query, key, value = self.linear_q(x), self.linear_k(x), self.linear_v(x)  # [N, C]
        present = (index >= 0).unsqueeze(-1)  # [N, K, 1]
        delta = (group(index, coord) - coord.unsqueeze(1)) * present  # [N, K, 3]
        key, value = group(index, key), group(index, value)  # [N, K, C]
        relation = key - query.unsqueeze(1)
        if hasattr(self, "linear_p_multiplier"):
            relation = relation * self.linear_p_multiplier(delta)
        if hasattr(self, "linear_p_bias"):
            position = self.linear_p_bias(delta)
            relation = relation + position
            value = value + position
        weight = torch.softmax(self.weight_encoding(relation), dim=1)  # [N, K, G]
        weight = self.attn_drop(weight) * present
        value = value.unflatten(-1, (self.groups, -1))  # [N, K, G, I]
        return torch.einsum("nkgi,nkg->ngi", value, weight).flatten(1)  # [N, C]


class Block(nn.Module):
    def __init__(self, mode, channels, groups, qkv_bias, multiplier, bias, drop, drop_path):
        super().__init__()
        self.attn = GroupedVectorAttention(mode, channels, groups, qkv_bias, multiplier, bias, drop)
        self.fc1 = nn.Linear(channels, channels, bias=False)
        self.fc3 = nn.Linear(channels, channels, bias=False)
        self.norm1 = PointBatchNorm(channels)
        self.norm2 = PointBatchNorm(channels)
        self.norm3 = PointBatchNorm(channels)
        self.drop_path = drop_path

    def forward(self, x, coord, index):
        h = torch.relu(self.norm1(self.fc1(x)))
        h = torch.relu(self.norm2(self.attn(h, coord, index)))
        h = self.norm3(self.fc3(h))
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            h = h * (torch.rand(len(h), 1, device=h.device) < keep) / keep
        return torch.relu(x + h)


class BlockSequence(nn.Module):
    """Blocks that share one neighbour table."""

    def __init__(self, depth, k, rates, **block):
        super().__init__()
        self.k = k
        self.blocks = nn.ModuleList(Block(drop_path=rate, **block) for rate in rates[:depth])

    def forward(self, x, coord, offset):
        index, _ = neighbours(self.k, coord, offset, coord, offset)
        for block in self.blocks:
            x = block(x, coord, index)
        return x


@geometry
def grid_cluster(coord, offset, size):
    """Number of the occupied grid cell of every point; cells ordered by cloud, z, y, x."""
    batch = torch.repeat_interleave(torch.arange(len(offset)), torch.tensor([b - a for a, b in clouds(offset)]))
    low = torch.stack([coord[a:b].min(0).values for a, b in clouds(offset)])
    cell = ((coord - low[batch]) / torch.tensor(size, dtype=coord.dtype)).long()
    n = cell.max(0).values + 1
    key = cell[:, 0] + n[0] * (cell[:, 1] + n[1] * (cell[:, 2] + n[2] * batch))
    unique, cluster, count = torch.unique(key, return_inverse=True, return_counts=True)
    rows = batch.new_empty(len(unique)).scatter_(0, cluster, batch)
    return cluster, count, torch.cumsum(torch.bincount(rows, minlength=len(offset)), 0)


@geometry
def centers(coord, cluster, count):
    """Mean of the points of every cell."""
    return coord.new_zeros(len(count), 3).index_add_(0, cluster, coord) / count[:, None]


class GridPool(nn.Module):
    def __init__(self, channels_in, channels, size):
        super().__init__()
        self.size = size
        self.fc = nn.Linear(channels_in, channels, bias=False)
        self.norm = PointBatchNorm(channels)

    def forward(self, x, coord, offset):
        x = torch.relu(self.norm(self.fc(x)))
        cluster, count, pooled_offset = grid_cluster(coord, offset, self.size)
        pooled = x.new_zeros(len(count), x.shape[1])
        pooled = pooled.scatter_reduce(0, cluster[:, None].expand_as(x), x, "amax", include_self=False)
        return pooled, centers(coord, cluster, count), pooled_offset, cluster


def interpolate(x, coord, offset, fine, fine_offset):
    """Inverse-distance mean of the three nearest coarse points. A missing neighbour reads the last row, as the
    reference code does (its weight is about 1e-5)."""
    index, distance = neighbours(3, coord, offset, fine, fine_offset)
    weight = 1.0 / (distance.to(torch.promote_types(x.dtype, distance.dtype)) + 1e-8)
    weight = weight / weight.sum(1, keepdim=True)
    return sum(rows(x, index[:, i]) * weight[:, i : i + 1] for i in range(3))


class UnpoolWithSkip(nn.Module):
    def __init__(self, channels_in, channels_skip, channels, backend):
        super().__init__()
        self.backend = backend
        self.proj = nn.Sequential(nn.Linear(channels_in, channels), PointBatchNorm(channels), nn.ReLU())
        self.proj_skip = nn.Sequential(nn.Linear(channels_skip, channels), PointBatchNorm(channels), nn.ReLU())

    def forward(self, coarse, fine, cluster):
        x = self.proj(coarse[0])
        if self.backend == "map":
            x = rows(x, cluster)
        else:
            x = interpolate(x, coarse[1], coarse[2], fine[1], fine[2])
        return x + self.proj_skip(fine[0])


class Encoder(nn.Module):
    def __init__(self, channels_in, channels, size, **sequence):
        super().__init__()
        self.down = GridPool(channels_in, channels, size)
        self.blocks = BlockSequence(channels=channels, **sequence)

    def forward(self, level):
        x, coord, offset, cluster = self.down(*level)
        return (self.blocks(x, coord, offset), coord, offset), cluster


class Decoder(nn.Module):
    def __init__(self, channels_in, channels_skip, channels, backend, **sequence):
        super().__init__()
        self.up = UnpoolWithSkip(channels_in, channels_skip, channels, backend)
        self.blocks = BlockSequence(channels=channels, **sequence)

    def forward(self, coarse, fine, cluster):
        x = self.up(coarse, fine, cluster)
        return self.blocks(x, fine[1], fine[2]), fine[1], fine[2]


class PatchEmbed(nn.Module):
    def __init__(self, channels_in, channels, **sequence):
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(channels_in, channels, bias=False), PointBatchNorm(channels), nn.ReLU())
        self.blocks = BlockSequence(channels=channels, **sequence)

    def forward(self, x, coord, offset):
        return self.blocks(self.proj(x), coord, offset)


class PointTransformerV2(nn.Module):
    """The segmentation network; `config` holds the constructor arguments under their published names."""

    def __init__(self, config):
        super().__init__()
        c = dict(config)
        block = dict(
            mode={"PT-v2m1": 1, "PT-v2m2": 2}[c["type"]],
            qkv_bias=c.get("attn_qkv_bias", True),
            multiplier=c["pe_multiplier"],
            bias=c["pe_bias"],
            drop=c.get("attn_drop_rate", 0.0),
        )
        enc, dec = c["enc_depths"], c["dec_depths"]
        rate = c.get("drop_path_rate", 0.0)
        enc_rates = torch.linspace(0, rate, sum(enc)).tolist()
        dec_rates = torch.linspace(0, rate, sum(dec)).tolist()
        first = c["patch_embed_channels"]
        self.patch_embed = PatchEmbed(
            c["in_channels"],
            first,
            depth=c["patch_embed_depth"],
            groups=c["patch_embed_groups"],
            k=c["patch_embed_neighbours"],
            rates=[0.0] * c["patch_embed_depth"],
            **block,
        )
        enc_channels = [first] + list(c["enc_channels"])
        dec_channels = list(c["dec_channels"]) + [enc_channels[-1]]
        self.enc_stages = nn.ModuleList()
        self.dec_stages = nn.ModuleList()
        for i in range(len(enc)):
            self.enc_stages.append(
                Encoder(
                    enc_channels[i],
                    enc_channels[i + 1],
                    c["grid_sizes"][i],
                    depth=enc[i],
                    groups=c["enc_groups"][i],
                    k=c["enc_neighbours"][i],
                    rates=enc_rates[sum(enc[:i]) :],
                    **block,
                )
            )
            self.dec_stages.append(
                Decoder(
                    dec_channels[i + 1],
                    enc_channels[i],
                    dec_channels[i],
                    c["unpool_backend"],
                    depth=dec[i],
                    groups=c["dec_groups"][i],
                    k=c["dec_neighbours"][i],
                    rates=dec_rates[sum(dec[:i]) :],
                    **block,
                )
            )
        d0 = dec_channels[0]
        self.seg_head = nn.Sequential(
            nn.Linear(d0, d0), PointBatchNorm(d0), nn.ReLU(), nn.Linear(d0, c["num_classes"])
        )

    def forward(self, coord, feat, offset):
        levels = [(self.patch_embed(feat, coord, offset), coord, offset)]
        clusters = []
        for stage in self.enc_stages:
            level, cluster = stage(levels[-1])
            levels.append(level)
            clusters.append(cluster)
        level = levels.pop()
        for stage, cluster in zip(reversed(self.dec_stages), reversed(clusters)):
            level = stage(level, levels.pop(), cluster)
        return self.seg_head(level[0])


S3DIS = dict(
    type="PT-v2m2",
    in_channels=6,
    num_classes=13,
    patch_embed_depth=2,
    patch_embed_channels=48,
    patch_embed_groups=6,
    patch_embed_neighbours=16,
    enc_depths=[2, 6, 2],
    enc_channels=[96, 192, 384],
    enc_groups=[12, 24, 48],
    enc_neighbours=[16, 16, 16],
    dec_depths=[1, 1, 1],
    dec_channels=[48, 96, 192],
    dec_groups=[6, 12, 24],
    dec_neighbours=[16, 16, 16],
    grid_sizes=[0.1, 0.2, 0.4],
    attn_qkv_bias=True,
    pe_multiplier=False,
    pe_bias=True,
    attn_drop_rate=0.0,
    enable_checkpoint=False,
    unpool_backend="interp",
    drop_path_rate=0.3,
)

SCANNET = dict(
    S3DIS,
    in_channels=9,
    num_classes=20,
    patch_embed_depth=1,
    patch_embed_neighbours=8,
    enc_depths=[2, 2, 6, 2],
    enc_channels=[96, 192, 384, 512],
    enc_groups=[12, 24, 48, 64],
    enc_neighbours=[16, 16, 16, 16],
    dec_depths=[1, 1, 1, 1],
    dec_channels=[48, 96, 192, 384],
    dec_groups=[6, 12, 24, 48],
    dec_neighbours=[16, 16, 16, 16],
    grid_sizes=[0.06, 0.15, 0.375, 0.9375],
    unpool_backend="map",
)


def room(points, seed):
    """A furnished 6 × 5 × 3 m room as points on surfaces, one per 4 cm voxel: coordinates (x, y centred, z from 0)
    and colours 0–1, both f32. Deterministic; at most `points` rows, the ones nearest to a corner."""
    rng = np.random.default_rng(seed)
    size = np.array([6.0, 5.0, 3.0])
    boxes = [(np.zeros(3), size)]
    for _ in range(12):
        extent = rng.uniform([0.3, 0.3, 0.4], [1.6, 1.2, 1.8])
        low = rng.uniform([0, 0, 0], size - extent) * [1, 1, 0]
        boxes.append((low, extent))
    parts, colors = [], []
    for low, extent in boxes:
        tone = rng.uniform(0.2, 0.9, 3)
        for axis in range(3):
            for side in (0.0, 1.0):
                u = np.delete(extent, axis)
                m = int(u.prod() * 2500)
                p = rng.uniform(0, 1, (m, 3))
                p[:, axis] = side
                parts.append(low + p * extent + rng.normal(0, 0.003, (m, 3)))
                colors.append(np.clip(tone + rng.normal(0, 0.05, (m, 3)), 0, 1))
    coord, color = np.concatenate(parts), np.concatenate(colors)
    _, first = np.unique(np.floor(coord / 0.04).astype(np.int64), axis=0, return_index=True)
    first = rng.permutation(first)
    first = first[np.argsort((coord[first] ** 2).sum(1), kind="stable")[:points]]
    coord, color = coord[first], color[first]
    middle = (coord.min(0) + coord.max(0)) / 2
    coord = coord - [middle[0], middle[1], coord[:, 2].min()]
    order = rng.permutation(len(coord))
    return torch.tensor(coord[order], dtype=torch.float32), torch.tensor(color[order], dtype=torch.float32)


def calibrate_norms(model, batch, seed):
    """Gives every batch norm an affine part and running statistics as after training, not quite those of `batch`, so
    that a mistake in any of them shows in the logits. Leaves the model in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    for norm in norms:
        norm.weight.data = 0.6 + 0.8 * torch.rand(norm.num_features, generator=generator)
        norm.bias.data = 0.4 * torch.rand(norm.num_features, generator=generator) - 0.2
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(*batch)
    for norm in norms:
        norm.momentum = 0.1
        spread = norm.running_var.sqrt()
        norm.running_mean += 0.05 * spread * torch.randn(norm.num_features, generator=generator)
        norm.running_var *= 0.8 + 0.4 * torch.rand(norm.num_features, generator=generator)
    model.eval()
