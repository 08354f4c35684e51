"""Checks what `compare.py --device cuda` computes with against the CPU's: index lists, attention, whole networks.

    python check_cuda.py [EMULATOR]

On a GPU; or on Cairn's emulator, by default ../target/release/libcairn_emulator.so. Exit status 1 if anything is outside
its limit.
"""

import json
import sys
from pathlib import Path

import torch

import check
import cuda_attention
import driver
import ptv2
import stratified
from cuda_lists import Finder

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "data" / "golden"


def clouds():
    """Coordinates of clouds of several sizes, one of fewer points than there are neighbours; and their ends."""
    parts = [ptv2.room(n, 5 + i)[0] for i, n in enumerate((400, 5, 1, 150))]
    coord = torch.cat([p - p.amin(0) for p in parts])
    return coord, torch.tensor([len(p) for p in parts]).cumsum(0)


def both(device, offset, function, *args):
    """What a function of coordinates finds on the CPU, and what takes its place finds on the device; `offset` stays on the
    host."""
    there = [a.to(device) if isinstance(a, torch.Tensor) and a is not offset else a for a in args]
    return function(*args), Finder()(function.__name__, *there)


def same(what, expected, found):
    check.report(what, float((expected.cpu() != found.cpu()).sum()) if expected.shape == found.shape else 1e9, 0)


def check_lists(device):
    coord, offset = clouds()
    coarse, coarse_offset = coord[::7].contiguous(), torch.tensor([58, 58, 59, 80])
    for k in (3, 8, 16):
        index, distance = ptv2.neighbours(k, coarse, coarse_offset, coord, offset)
        found = Finder()("neighbours", k, coarse.to(device), coarse_offset, coord.to(device), offset)
        same(f"{k} neighbours in other clouds", index, found[0])
        check.report(f"{k} distances, largest error", float((distance - found[1].cpu()).abs().max()), 1e-5)
    counts = [100, 2, 1, 38]
    same("furthest points", *both(device, offset, stratified.furthest_points, coord, offset, counts))
    same("ball", *both(device, offset, stratified.ball, coord, offset, 0.1, 34))
    expected, found = both(device, offset, ptv2.grid_cluster, coord, offset, 0.2)
    for name, a, b in zip(("cells", "sizes of cells", "ends of cells"), expected, found):
        same(name, a, b)
    expected, found = both(device, offset, ptv2.centers, coord, *expected[:2])
    check.report("centers, largest error", float((expected - found.cpu()).abs().max()), 1e-6)
    sampled = stratified.furthest_points(coord, offset, counts)
    for shifted in (False, True):
        args = coord, offset, 0.32, 0.02, sampled, shifted, True
        expected, found = both(device, offset, stratified.pair_lists, *args)
        same(f"queries of pairs, shifted {shifted}", expected.query, found.query)
        same("keys", expected.rows[:, 0], found.key)
        same("rows of tables", expected.rows[:, 1:] - len(coord), found.bins)
        same("first pairs", expected.starts, found.first[:-1])
        check_attention(device, len(coord), expected, found)


def check_attention(device, points, lists, there):
    """Values and gradients, in single and double precision, against those of `stratified.Attend` in double."""
    heads, channels = 3, 48
    generator = torch.Generator().manual_seed(1)
    rows = [points] * 3 + [3 * lists.parts] * 3
    inputs = [torch.randn(n, channels, generator=generator, dtype=torch.float64).requires_grad_() for n in rows]
    d_y = torch.randn(points, channels, generator=generator, dtype=torch.float64)
    expected = stratified.Attend.apply(*inputs, lists, heads)
    gradients = torch.autograd.grad(expected, inputs, d_y)
    for kind, limit in ((torch.float32, 1e-5), (torch.float64, 1e-11)):
        copies = [x.detach().to(device, kind).requires_grad_() for x in inputs]
        found = cuda_attention.attend(*copies, there, heads)
        check.report(f"attention in {kind}, rel L2", check.rel(found.cpu(), expected.detach()), limit)
        for name, a, b in zip("q k v Tq Tk Tv".split(), torch.autograd.grad(found, copies, d_y.to(device, kind)), gradients):
            check.report(f"gradient of {name}", check.rel(a.cpu(), b), limit)


def check_network(device, path, make, prefixes):
    """Logits and gradients of a reference network in double precision, so that no maximum and no ReLU falls on another side;
    logits twice, the second time from the lists of the first. Only distances are in single precision."""
    tensors, meta = check.load(path)
    coord, feat, offset = (tensors[prefixes[1] + name] for name in ("coord", "feat", "offset"))
    # Stratified Transformer looks its tables up by single-precision coordinates.
    coord = coord if make is stratified.StratifiedTransformer else coord.double()
    model = make(json.loads(meta["config"])).double()
    model.load_state_dict(check.part(tensors, prefixes[0]))
    expected = gradients(model, [coord, feat.double(), offset])
    model.load_state_dict(check.part(tensors, prefixes[0]))
    ptv2.backend, stratified.attend = Finder(), cuda_attention.attend
    model.to(device)
    found = gradients(model, [coord.to(device), feat.double().to(device), offset])
    for (what, _), a, b in zip(LIMITS, expected, found):
        check.report(f"{path.name}: {what}", check.rel(b.cpu(), a), dict(LIMITS)[what])
    ptv2.backend, stratified.attend = None, stratified.Attend.apply


LIMITS = [("eval logits", 1e-6), ("train logits", 1e-6), ("logits from the same lists", 1e-6), ("all gradients", 1e-5)]


def gradients(model, inputs):
    """Logits in eval mode; in train mode; again, with lists handed out again if there is somebody to do so; all gradients."""
    with torch.no_grad():
        found = [model.eval()(*inputs)]
    if ptv2.backend:
        ptv2.backend.find()
    found.append(model.train()(*inputs).detach())
    if ptv2.backend:
        ptv2.backend.replay()
    model.zero_grad()
    logits = model(*inputs)
    target = torch.arange(len(logits), device=logits.device) % logits.shape[1]
    torch.nn.functional.cross_entropy(logits, target).backward()
    parameters = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return [*found, logits.detach(), torch.cat(parameters)]


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        default = HERE.parent / "target" / "release" / "libcairn_emulator.so"
        driver.emulate(sys.argv[1] if len(sys.argv) > 1 else default)
    check_lists(device)
    for path in sorted((GOLDEN / "ptv2").glob("net_*.safetensors")):
        check_network(device, path, ptv2.PointTransformerV2, ("state.", "input."))
    for path in sorted((GOLDEN / "stratified").glob("net_*.safetensors")):
        check_network(device, path, stratified.StratifiedTransformer, ("param.", "in."))
    print("all within limits" if not check.failures else f"{check.failures} outside their limits")
    sys.exit(1 if check.failures else 0)


if __name__ == "__main__":
    main()
