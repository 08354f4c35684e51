"""Attention over pairs on a GPU, as the CUDA extension of the official Stratified Transformer: `attention.cu`.

In single precision whatever the rest of the network runs in, as there (double where that is asked for).
"""

import torch

from driver import Source

kernels = Source("attention.cu")
THREADS = 256


def launch(name, count, *args):
    kernels(name, -(-count // THREADS), THREADS, *args)


class Attend(torch.autograd.Function):
    """As `stratified.Attend`: q, k, v [N, C], tables [3L, C]."""

    @staticmethod
    def forward(ctx, q, k, v, tq, tk, tv, lists, heads):
        points, channels, pairs = *q.shape, len(lists.query)
        sizes = channels, channels // heads
        p, y = q.new_empty(pairs, heads), torch.empty_like(q)
        by_pair = lists.query, lists.key, lists.bins, pairs, *sizes
        by_point = lists.first, lists.key, lists.bins, points, *sizes
        launch("scores", pairs * channels, q, k, tq, tk, *by_pair, p)
        launch("softmax", points * heads, lists.first, points, heads, p)
        launch("values", points * channels, p, v, tv, *by_point, y)
        ctx.save_for_backward(q, k, v, tq, tk, tv, p)
        ctx.lists, ctx.heads, ctx.by_pair, ctx.by_point = lists, heads, by_pair, by_point
        return y

    @staticmethod
    def backward(ctx, d_y):
        q, k, v, tq, tk, tv, p = ctx.saved_tensors
        (points, channels), pairs = q.shape, len(p)
        d_p, d_q = torch.empty_like(p), torch.empty_like(q)
        d_k, d_v, d_tq, d_tk, d_tv = (torch.zeros_like(t) for t in (k, v, tq, tk, tv))
        launch("values_pairs", pairs * channels, d_y.contiguous(), p, v, tv, *ctx.by_pair, d_p, d_v, d_tv)
        launch("softmax_backward", points * ctx.heads, ctx.lists.first, points, ctx.heads, p, d_p)
        launch("scores_queries", points * channels, d_p, k, tq, *ctx.by_point, d_q)
        launch("scores_pairs", pairs * channels, d_p, q, k, tk, *ctx.by_pair, d_k, d_tq, d_tk)
        return d_q, d_k, d_v, d_tq, d_tk, d_tv, None, None


def attend(q, k, v, tq, tk, tv, lists, heads):
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    return Attend.apply(*(t.to(kind).contiguous() for t in (q, k, v, tq, tk, tv)), lists, heads)
