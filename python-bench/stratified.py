"""Stratified Transformer in plain PyTorch: the yardstick that Cairn's second network is compared with.

    python stratified.py check [FOLDER]         against the reference files of data/golden/stratified
    python stratified.py s3dis FOLDER           the S3DIS network (8 022 970 parameters) as a seeded checkpoint in the
                                                official layout, with inputs and the logits it has to give
    python stratified.py compare WANT GOT       two files of logits, as `cairn forward` writes them

Written from a description of the published network (Lai et al. 2022, arXiv 2203.14508, and the layer names of its
checkpoints). Keys are pair lists, as there. What the official code leaves to CUDA extensions is done here as fast as
PyTorch's own operations on a CPU allow: neighbours from a k-d tree; the sums over pairs by `embedding_bag`, which adds
rows up without writing out one per pair; a backward pass of attention that keeps one number per pair and head, as
theirs. `stratified_lists.py` finds samples, neighbours and pairs.

N points, C channels, H heads of d = C / H channels, M pairs, L rows of each of the three parts (x, y, z) of a table.
`offset` holds the last row + 1 of every cloud.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import embedding_bag

from ptv2 import clouds, neighbours, room, rows
from stratified_lists import ball, furthest_points, pair_lists

PART = 3 << 18  # numbers in the largest tensor of a part of the pairs


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
        offset = (coord[rows] - coord.unsqueeze(1)).to(x.dtype)  # [N, K, 3]
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


def added(table, rows):
    """[m, C]: the sums of the rows of `table` that each row of `rows` names."""
    if torch.compiler.is_compiling():  # writes one loop for all of `dots`
        return sum(table[rows[:, i]] for i in range(rows.shape[1]))
    return embedding_bag(rows, table, mode="sum")


def dots(a, left, b, right, query, rows, points, heads):
    """[m, H]: a[query] · (sum of rows of `left`), and b[key] · (sum of rows of the table `right`), if there is one."""
    x = a.index_select(0, query) * added(left, rows)
    if right is not None:
        x = x + b.index_select(0, rows[:, 0]) * added(right, rows[:, 1:] - points)
    if torch.compiler.is_compiling():
        return x.unflatten(1, (heads, -1)).sum(-1)
    return x @ torch.block_diag(*[x.new_ones(x.shape[1] // heads, 1)] * heads)  # faster than a sum of few numbers


def scores(a, left, b, right, lists, heads):
    """`dots` of all pairs, in parts that stay in the cache: [M, H]."""
    size = max(PART // a.shape[1], 1)
    y = a.new_empty(len(lists.query), heads)
    for i in range(0, len(y), size):
        own = slice(i, i + size)
        y[own] = dots(a, left, b, right, lists.query[own], lists.rows[own], lists.points, heads)
    return y


def bags(tables, rows, starts, weights, pair=None):
    """[B, C]: for each head, weighted sums of the rows of its table (H tables [R, d], weights [H, M]). Each weight, or
    each that `pair` names, is that of as many rows as there are for it."""
    rows, each = rows.flatten(), rows[0].numel()

    def bag(table, weight):
        if pair is not None:
            weight = weight.index_select(0, pair)
        weight = weight.unsqueeze(1).expand(-1, each).reshape(-1)
        return embedding_bag(rows, table, starts * each, mode="sum", per_sample_weights=weight)

    return torch.cat([bag(t, w) for t, w in zip(tables, weights)], 1)


def by_head(x, heads):
    """[H, R, d] of [R, C]."""
    return x.unflatten(1, (heads, -1)).transpose(0, 1).contiguous()


class Attend(torch.autograd.Function):
    """Softmax over the keys of (query · (key + Tq) + key · Tk), weighing (value + Tv), Tx being the sum of three rows of
    a table: q, k, v [N, C], tables [3L, C], heads. Backward works out everything but the weights again."""

    @staticmethod
    def forward(ctx, q, k, v, tq, tk, tv, lists, heads):
        score = scores(q, torch.cat([k, tq]), k, tk, lists, heads)
        most = torch.segment_reduce(score, "max", lengths=lists.counts, axis=0)
        p = (score - most.index_select(0, lists.query)).exp_()
        total = torch.segment_reduce(p, "sum", lengths=lists.counts, axis=0)
        p = (p / total.index_select(0, lists.query)).T.contiguous()  # [H, M]
        ctx.save_for_backward(q, k, v, tq, tk, tv, p)
        ctx.lists, ctx.heads = lists, heads
        return bags(by_head(torch.cat([v, tv]), heads), lists.rows, lists.starts, p)

    @staticmethod
    def backward(ctx, d_y):
        q, k, v, tq, tk, tv, p = ctx.saved_tensors
        lists, heads, d_y = ctx.lists, ctx.heads, d_y.contiguous()
        d_p = scores(d_y, torch.cat([v, tv]), None, None, lists, heads)
        weighted = torch.segment_reduce(d_p * p.T, "sum", lengths=lists.counts, axis=0)
        d_score = p * d_p.sub_(weighted.index_select(0, lists.query)).T
        d_q = bags(by_head(torch.cat([k, tq]), heads), lists.rows, lists.starts, d_score)
        # What a row of [values; table] gave to pairs comes back from all of these.
        n, cut, begins = lists.points, lists.cut, lists.begins
        d_vt = bags(by_head(d_y, heads), lists.query_of, begins[:-1], p, lists.pair)
        d_kt = bags(by_head(q, heads), lists.query_of, begins[:-1], d_score, lists.pair)
        d_k = bags(by_head(tk, heads), lists.bins_of_key, begins[:n], d_score, lists.pair[:cut])
        d_tk = bags(by_head(k, heads), lists.key_of_bin, begins[n:-1] - cut, d_score, lists.pair[cut:])
        return d_q, d_kt[:n] + d_k, d_vt[:n], d_kt[n:], d_tk, d_vt[n:], None, None


attend = Attend.apply  # or that of a GPU, `cuda_attention.attend`


class Attention(nn.Module):
    def __init__(self, channels, heads, window, step):
        super().__init__()
        self.heads = heads
        rows = 2 * int((2 * window + 1e-4) / step)
        for name in ("query", "key", "value"):
            table = nn.Parameter(torch.empty(rows, heads, channels // heads, 3))
            nn.init.trunc_normal_(table, std=0.02)
            setattr(self, f"relative_pos_{name}_table", table)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x, lists):
        q, k, v = (t.contiguous() for t in self.qkv(x).chunk(3, 1))
        names = ("query", "key", "value")
        tables = [getattr(self, f"relative_pos_{name}_table").permute(3, 0, 1, 2).flatten(2).flatten(0, 1) for name in names]
        q = q * (q.shape[1] // self.heads) ** -0.5
        return self.proj(attend(q, k, v, *tables, lists, self.heads))


class Perceptron(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, channels, heads, window, step, drop):
        super().__init__()
        self.drop = drop
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn, self.mlp = Attention(channels, heads, window, step), Perceptron(channels)

    def kept(self, x):
        if not self.training or self.drop == 0:
            return x
        return x * ((torch.rand(len(x), 1, device=x.device) >= self.drop) / (1 - self.drop))

    def forward(self, x, lists):
        x = x + self.kept(self.attn(self.norm1(x), lists))
        return x + self.kept(self.mlp(self.norm2(x)))


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
        sampled = furthest_points(coord, offset, np.diff([0, *ends]).tolist())
        index, _ = neighbours(self.k, coord, offset, coord[sampled], new_offset)
        y = self.linear(self.norm(x))
        y = torch.where((index >= 0).unsqueeze(-1), rows(y, index.clamp_min(0)), -torch.inf).amax(1)
        return y, coord[sampled], new_offset


class Stage(nn.Module):
    def __init__(self, channels, heads, window, step, scale, drops, down):
        super().__init__()
        self.window, self.step, self.scale = window, step, scale
        self.blocks = nn.ModuleList(Block(channels, heads, window, step, drop) for drop in drops)
        self.downsample = down

    def forward(self, x, coord, offset):
        counts = [(b - a) // self.scale + 1 for a, b in clouds(offset)]
        sampled = furthest_points(coord, offset, counts)
        where = coord, offset, self.window, self.step, sampled
        lists = [pair_lists(*where, shifted, self.training) for shifted in (False, True)[: len(self.blocks)]]
        for i, block in enumerate(self.blocks):
            x = block(x, lists[i % 2])
        return x, self.downsample(x, coord, offset) if self.downsample else None


class Upsample(nn.Module):
    def __init__(self, deep, fine):
        super().__init__()
        self.linear1 = nn.Sequential(nn.LayerNorm(fine), nn.Linear(fine, fine))
        self.linear2 = nn.Sequential(nn.LayerNorm(deep), nn.Linear(deep, fine))

    def forward(self, x, coord, offset, skip, skip_coord, skip_offset):
        index, distance = neighbours(3, coord, offset, skip_coord, skip_offset)
        for (a, b), (first, _) in zip(clouds(skip_offset), clouds(offset)):
            index[a:b].masked_fill_(index[a:b] < 0, first)  # far away, but there
        weight = 1 / (distance.to(torch.promote_types(x.dtype, distance.dtype)) + 1e-8)
        weight = weight / weight.sum(1, keepdim=True)
        return self.linear1(skip) + (rows(self.linear2(x), index) * weight.unsqueeze(-1)).sum(1)


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
        drops = torch.linspace(0, config.get("drop_path_rate", 0.0), sum(depths)).split(depths)
        for i in range(start, last + 1):
            down = TransitionDown(c[i], c[i + 1], ratio, k) if i < last else None
            self.layers.append(Stage(c[i], heads[i], windows[i], steps[i], scale, drops[i].tolist(), down))
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
    drop_path_rate=0.3,
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


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["check", *rest]:
            golden = Path(__file__).parent.parent / "data" / "golden" / "stratified"
            check(Path(rest[0]) if rest else golden)
        case ["s3dis", folder]:
            s3dis(Path(folder))
        case ["compare", want, got]:
            compare(want, got)
        case _:
            sys.exit(__doc__)
