"""Stratified Transformer in plain PyTorch: the yardstick that Cairn's second network is compared with.

    python stratified.py check [FOLDER]         against the reference files of data/golden/stratified
    python stratified.py s3dis FOLDER           the S3DIS network (8 022 970 parameters) as a seeded checkpoint in the
                                                official layout, with inputs and the logits it has to give
    python stratified.py compare WANT GOT       two files of logits, as `cairn forward` writes them
    python stratified.py time POINTS [train]    seconds and memory of one pass

Written from a description of the published network (Lai et al. 2022, arXiv 2203.14508, and the layer names of its
checkpoints). Keys are pair lists, as there; neighbours come from a k-d tree, and pairs are worked on some at a time.

N points, C channels, H heads of d = C / H channels, M pairs. `offset` holds the last row + 1 of every cloud.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.spatial import cKDTree
from torch import nn

from ptv2 import clouds, neighbours, room

PAIRS = 1 << 17  # pairs that are worked on at once


def furthest_points(coord, offset, counts):
    """Rows of counts[b] points of every cloud, each the furthest from those before it, the first one first."""
    points, rows = coord.numpy(), []
    for (a, b), count in zip(clouds(offset), counts):
        own, nearest, at = points[a:b], np.full(b - a, 1e10, np.float32), 0
        for _ in range(count):
            rows.append(a + at)
            nearest = np.minimum(nearest, ((own - own[at]) ** 2).sum(1))
            at = int(nearest.argmax())
    return torch.tensor(rows)


def ball(coord, offset, radius, most):
    """[N, most]: the first neighbours within the radius in row order, -1 where there are fewer."""
    index = np.full((len(coord), most), -1, np.int64)
    for a, b in clouds(offset):
        own = coord[a:b].numpy()
        for i, rows in enumerate(cKDTree(own).query_ball_point(own, radius, return_sorted=True)):
            index[a + i, : len(rows[:most])] = np.array(rows[:most]) + a
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
    """Queries and keys: all points of the small window, and sampled ones of the large window in other small ones."""
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
    query, key = np.concatenate([dense[0], query[other]]), np.concatenate([dense[1], key[other]])
    order = np.argsort(query, kind="stable")
    return torch.from_numpy(query[order]), torch.from_numpy(key[order])


class KPConv(nn.Module):
    def __init__(self, inputs, outputs, influence):
        super().__init__()
        self.influence = influence
        self.K_points = nn.Parameter(1.5 * influence * 0.6 * torch.randn(15, 3), requires_grad=False)
        self.weight = nn.Parameter(torch.empty(15, inputs, outputs))
        nn.init.xavier_normal_(self.weight)

    def forward(self, x, coord, index):
        there = (index >= 0).unsqueeze(-1)
        rows = index.clamp_min(0)
        offset = coord[rows] - coord.unsqueeze(1)  # [N, K, 3]
        distance = (offset.unsqueeze(2) - self.K_points).square().sum(-1).sqrt()  # [N, K, 15]
        h = (1 - distance / self.influence).clamp_min(0) * there
        sums = h.transpose(1, 2) @ (x[rows] * there)  # [N, 15, I]
        return sums.flatten(1) @ self.weight.flatten(0, 1)


class BatchNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(channels, momentum=0.02)

    def forward(self, x):
        return self.batch_norm(x)


class SimpleBlock(nn.Module):
    def __init__(self, inputs, outputs, influence):
        super().__init__()
        self.kpconv, self.bn = KPConv(inputs, outputs, influence), BatchNorm(outputs)

    def forward(self, x, coord, index):
        return nn.functional.leaky_relu(self.bn(self.kpconv(x, coord, index)), 0.2)


class ResidualBlock(nn.Module):
    def __init__(self, channels, influence):
        super().__init__()

        def unary(a, b):
            return nn.Sequential(nn.Linear(a, b, bias=False), BatchNorm(b), nn.LeakyReLU(0.2))

        self.unary_1, self.unary_2 = unary(channels, channels // 4), unary(channels // 4, channels)
        self.kpconv = KPConv(channels // 4, channels // 4, influence)
        self.bn = BatchNorm(channels)  # in every checkpoint, never used

    def forward(self, x, coord, index):
        return self.unary_2(self.kpconv(self.unary_1(x), coord, index)) + x


class Attention(nn.Module):
    def __init__(self, channels, heads, window, step):
        super().__init__()
        self.heads, self.window, self.step = heads, window, step
        rows = 2 * int((2 * window + 1e-4) / step)
        for name in ("query", "key", "value"):
            table = nn.Parameter(torch.empty(rows, heads, channels // heads, 3))
            nn.init.trunc_normal_(table, std=0.02)
            setattr(self, f"relative_pos_{name}_table", table)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def part(self, q, k, v, coord, query, key):
        """Exponentials of the scores, and what they weigh, of some pairs: [m, H], [m, H, d]."""
        r = coord[query] - coord[key]
        r = torch.round(r * 100000) / 100000
        bins = (((r + 2 * self.window) - 0.0001) / self.step).trunc().clamp_min(0).long()

        def rows(table):
            return table[bins[:, 0], ..., 0] + table[bins[:, 1], ..., 1] + table[bins[:, 2], ..., 2]

        a, b = q[query], k[key]
        score = (a * (b + rows(self.relative_pos_query_table)) + b * rows(self.relative_pos_key_table)).sum(-1)
        return score, v[key] + rows(self.relative_pos_value_table)

    def forward(self, x, coord, query, key):
        q, k, v = self.qkv(x).unflatten(1, (3, self.heads, -1)).unbind(1)
        q = q * q.shape[-1] ** -0.5
        total, y = x.new_zeros(len(x), self.heads), torch.zeros_like(v)
        starts = np.searchsorted(query.numpy(), np.arange(len(x) + 1))
        first = 0
        while first < len(x):  # whole queries, about PAIRS pairs at once
            end = max(int(np.searchsorted(starts, starts[first] + PAIRS, "right")) - 1, first + 1)
            own = slice(int(starts[first]), int(starts[end]))
            score, value = self.part(q, k, v, coord, query[own], key[own])
            at = query[own]
            most = score.new_full((len(x), self.heads), -torch.inf)
            most = most.scatter_reduce(0, at.unsqueeze(1).expand_as(score), score.detach(), "amax")
            p = (score - most[at]).exp()
            total = total.index_add(0, at, p)
            y = y.index_add(0, at, p.unsqueeze(-1) * value)
            first = end
        return self.proj((y / total.unsqueeze(-1)).flatten(1))


class Perceptron(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, channels, heads, window, step):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn, self.mlp = Attention(channels, heads, window, step), Perceptron(channels)

    def forward(self, x, coord, query, key):
        x = x + self.attn(self.norm1(x), coord, query, key)
        return x + self.mlp(self.norm2(x))


class TransitionDown(nn.Module):
    def __init__(self, inputs, outputs, ratio, k):
        super().__init__()
        self.ratio, self.k = ratio, k
        self.norm, self.linear = nn.LayerNorm(inputs), nn.Linear(inputs, outputs, bias=False)

    def forward(self, x, coord, offset):
        ends, total = [], 0.0
        for i, (a, b) in enumerate(clouds(offset)):
            total = int((b - a) * self.ratio) + 1 if i == 0 else total + (b - a) * self.ratio + 1
            ends.append(int(total))
        new_offset = torch.tensor(ends)
        rows = furthest_points(coord, offset, np.diff([0, *ends]))
        index, _ = neighbours(self.k, coord, offset, coord[rows], new_offset)
        y = self.linear(self.norm(x))
        y = torch.where((index >= 0).unsqueeze(-1), y[index.clamp_min(0)], -torch.inf).amax(1)
        return y, coord[rows], new_offset


class Stage(nn.Module):
    def __init__(self, depth, channels, heads, window, step, scale, down):
        super().__init__()
        self.window, self.scale = window, scale
        self.blocks = nn.ModuleList(Block(channels, heads, window, step) for _ in range(depth))
        self.downsample = down

    def forward(self, x, coord, offset):
        counts = [(b - a) // self.scale + 1 for a, b in clouds(offset)]
        sampled = furthest_points(coord, offset, counts)
        lists = [pairs(coord, offset, self.window, sampled, shifted) for shifted in (False, True)]
        for i, block in enumerate(self.blocks):
            x = block(x, coord, *lists[i % 2])
        return x, self.downsample(x, coord, offset) if self.downsample else None


class Upsample(nn.Module):
    def __init__(self, deep, fine):
        super().__init__()
        self.linear1 = nn.Sequential(nn.LayerNorm(fine), nn.Linear(fine, fine))
        self.linear2 = nn.Sequential(nn.LayerNorm(deep), nn.Linear(deep, fine))

    def forward(self, x, coord, offset, skip, skip_coord, skip_offset):
        index, distance = neighbours(3, coord, offset, skip_coord, skip_offset)
        for (a, b), (first, _) in zip(clouds(skip_offset), clouds(offset)):
            index[a:b][index[a:b] < 0] = first  # far away, but there
        weight = 1 / (distance + 1e-8)
        weight = weight / weight.sum(1, keepdim=True)
        return self.linear1(skip) + (self.linear2(x)[index] * weight.unsqueeze(-1)).sum(1)


class StratifiedTransformer(nn.Module):
    def __init__(self, config):
        super().__init__()
        c, heads, depths = config["channels"], config["num_heads"], config["depths"]
        grid, windows, steps = config["prev_grid_size"], config["window_size"], config["quant_sizes"]
        ratio, k, scale, last = config["ratio"], config["k"], config["downsample_scale"], len(c) - 1
        self.radius, self.most = config["ball_radius"], config["max_num_neighbors"]
        influence = grid * config["sigma"]
        stem = [SimpleBlock(6, c[0], influence)]
        self.downsample, start = None, 0
        if not config["stem_transformer"]:
            stem.append(ResidualBlock(c[0], influence))
            self.downsample, start = TransitionDown(c[0], c[1], ratio, k), 1
        self.stem_layer = nn.ModuleList(stem)
        self.layers = nn.ModuleList()
        for i in range(start, last + 1):
            down = TransitionDown(c[i], c[i + 1], ratio, k) if i < last else None
            self.layers.append(Stage(depths[i], c[i], heads[i], windows[i], steps[i], scale, down))
        self.upsamples = nn.ModuleList(Upsample(c[last - j], c[last - j - 1]) for j in range(last))
        head = [nn.Linear(c[0], c[0]), nn.BatchNorm1d(c[0]), nn.ReLU(), nn.Linear(c[0], config["num_classes"])]
        self.classifier = nn.Sequential(*head)

    def forward(self, coord, feat, offset, index=None):
        if index is None:
            index = ball(coord, offset, self.radius, self.most)
        x = feat
        for layer in self.stem_layer:
            x = layer(x, coord, index)
        skips, here = [], (coord, offset)
        if self.downsample:
            skips.append((x, *here))
            x, *here = self.downsample(x, *here)
        for stage in self.layers:
            x, down = stage(x, *here)
            skips.append((x, *here))
            if down:
                x, *here = down
        deep = skips.pop()
        for up in self.upsamples:
            skip = skips.pop()
            deep = (up(*deep, *skip), *skip[1:])
        return self.classifier(deep[0])


S3DIS = dict(
    downsample_scale=8,
    depths=[2, 2, 6, 2],
    channels=[48, 96, 192, 384],
    num_heads=[3, 6, 12, 24],
    num_classes=13,
    ratio=0.25,
    k=16,
    sigma=1.0,
    stem_transformer=True,
    window_size=[0.16, 0.32, 0.64, 1.28],
    quant_sizes=[0.01, 0.02, 0.04, 0.08],
    prev_grid_size=0.04,
    ball_radius=0.1,
    max_num_neighbors=34,
)


def seeded():
    torch.manual_seed(17)
    model = StratifiedTransformer(S3DIS)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_mean"):
                value += 0.1 * torch.randn(value.shape)
            elif name.endswith("running_var") or name.endswith("norm.weight"):
                value *= 0.6 + 0.8 * torch.rand(value.shape)
            elif "table" in name:
                value *= 20  # as large as after training: positions have to matter
    count = sum(p.numel() for p in model.parameters())
    assert (count, len(model.state_dict())) == (8_022_970, 229), (count, len(model.state_dict()))
    return model.eval()


def batch_of(sizes):
    """Clouds that start at 0: coordinates, features (colours, coordinates), ends."""
    parts = [room(n, 3 + i) for i, n in enumerate(sizes)]
    coord = torch.cat([p - p.amin(0) for p, _ in parts])
    ends = torch.tensor(np.cumsum([len(p) for p, _ in parts]))
    return coord, torch.cat([torch.cat([c for _, c in parts]), coord], 1), ends


def check(folder):
    worst = 0.0
    for name in ("net_stem_transformer", "net_stem_kpconv"):
        with safe_open(folder / f"{name}.safetensors", "pt") as file:
            tensors, meta = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()
        config, silent = json.loads(meta["config"]), meta["zero_grad_params"]  # those whose true gradient is 0
        model = StratifiedTransformer(config)
        model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("param.")})
        inputs = [tensors[f"in.{k}"] for k in ("coord", "feat", "offset", "neighbor_idx")]
        inputs[3] = inputs[3].long()
        with torch.no_grad():
            error = float((model.eval()(*inputs) - tensors["out.eval_logits"]).abs().max())
        print(f"{name}: eval logits off by {error:.1e} (limit 1e-4)")
        logits = model.train()(*inputs)
        label = tensors["in.label"].long()
        nn.functional.cross_entropy(logits, label, ignore_index=255).backward()
        drift = max(
            float((p.grad - tensors[f"grad.{n}"]).abs().max() / tensors[f"grad.{n}"].abs().max())
            for n, p in model.named_parameters()
            if p.grad is not None and n not in silent
        )
        print(f"{name}: gradients off by {drift:.1e} of the largest of each (limit 5e-4)")
        worst = max(worst, error / 1e-4, drift / 5e-4)
    sys.exit(worst > 1)


def s3dis(folder):
    folder.mkdir(parents=True, exist_ok=True)
    model, batch = seeded(), batch_of([4000, 3000, 1000])
    with torch.no_grad():
        logits = model(*batch)
    state = {f"module.{k}": v for k, v in model.state_dict().items()}
    torch.save(dict(epoch=7, state_dict=state, best_iou=np.float64(0.7)), folder / "s3dis.pth")
    names = ("coord", "feat", "offset")
    save_file(dict(zip(names, (t.contiguous() for t in batch))) | {"logits": logits}, folder / "s3dis.safetensors")
    print(f"{len(state)} entries, logits up to {float(logits.abs().max()):.2f}")


def compare(want, got):
    a, b = (safe_open(path, "pt").get_tensor("logits").double() for path in (want, got))
    error = float((a - b).norm() / a.norm())
    print(f"logits off by {error:.1e}, relative L2 (limit 1e-5); {int((a.argmax(1) != b.argmax(1)).sum())} labels differ")
    sys.exit(error > 1e-5)


def clock(points, train):
    model, batch = seeded(), batch_of([points])
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    model.train(train)
    start = time.perf_counter()
    with torch.set_grad_enabled(train):
        logits = model(*batch)
    if train:
        logits.square().mean().backward()
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    kind = "training step" if train else "forward"
    print(f"{len(batch[0])} points, {kind}: {seconds:.2f} s, {peak:.2f} GiB (before: {base:.2f})")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["check", *rest]:
            golden = Path(__file__).parent.parent / "data" / "golden" / "stratified"
            check(Path(rest[0]) if rest else golden)
        case ["s3dis", folder]:
            s3dis(Path(folder))
        case ["compare", want, got]:
            compare(want, got)
        case ["time", points, *kind]:
            clock(int(points), kind == ["train"])
        case _:
            sys.exit(__doc__)
