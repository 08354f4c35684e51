"""Checks `ptv2.py` against the reference files of `data/golden/ptv2`: is the yardstick itself right?

    python check.py [FOLDER]

For every network file: logits in eval and train mode, loss, batch-norm buffers, every gradient, one AdamW step; for
the training curves: a free run of 40 steps in double precision, as the reference ran, and the logits of the final state.
Limits of networks are those of the README beside the files. Exit status 1 if anything is outside.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from torch.nn.functional import cross_entropy

from ptv2 import PointTransformerV2

failures = 0


def report(what, error, limit):
    global failures
    good = error <= limit
    failures += not good
    print(f"  {'ok  ' if good else 'FAIL'} {what:<44} {error:9.2e}  limit {limit:.0e}")


def load(path):
    with safe_open(path, "pt") as f:
        return {k: f.get_tensor(k) for k in f.keys()}, {k: v for k, v in (f.metadata() or {}).items()}


def part(tensors, prefix):
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def rel(a, b):
    a, b = a.detach().double(), b.double()
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


def make(config, state):
    model = PointTransformerV2(config)
    model.load_state_dict(state)  # strict: names and shapes have to be the published ones
    return model


def lovasz_softmax(logits, target):
    """Berman et al. 2018: mean over the present classes of the Lovász extension of the Jaccard loss."""
    probability, losses = logits.softmax(1), []
    for c in target.unique().tolist():
        foreground = (target == c).to(logits.dtype)
        errors, order = torch.sort((foreground - probability[:, c]).abs(), descending=True)
        foreground = foreground[order]
        jaccard = 1 - (foreground.sum() - foreground.cumsum(0)) / (foreground.sum() + (1 - foreground).cumsum(0))
        gradient = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
        losses.append(errors @ gradient)
    return torch.stack(losses).mean()


def check_network(path):
    tensors, meta = load(path)
    model = make(json.loads(meta["config"]), part(tensors, "state."))
    count = sum(p.numel() for p in model.parameters())
    print(f"{path.name}: {count} parameters")
    assert count == int(meta["n_params"])
    inputs = [tensors[f"input.{k}"] for k in ("coord", "feat", "offset")]
    segment = tensors["input.segment"]
    model.eval()
    with torch.no_grad():
        report("eval logits, rel L2", rel(model(*inputs), tensors["eval_logits"]), 1e-5)
    model.train()
    logits = model(*inputs)
    loss = cross_entropy(logits, segment, ignore_index=-1)
    report("train logits, rel L2", rel(logits, tensors["train_logits"]), 1e-4)
    expected = float(tensors["train_loss"].reshape(-1)[0])
    report("train loss, relative", abs(float(loss) - expected) / expected, 1e-5)
    buffers = dict(model.named_buffers())
    after = part(tensors, "buffer_after_forward.")
    floats = [k for k in after if not k.endswith("num_batches_tracked")]
    report("batch-norm buffers, worst rel L2", max(rel(buffers[k], after[k]) for k in floats), 1e-5)
    loss.backward()
    zero = set(json.loads(meta["structurally_zero_grad"]))
    expected = part(tensors, "grad.")
    largest = max(float(g.abs().max()) for g in expected.values())
    parameters = dict(model.named_parameters())
    errors = sorted(rel(p.grad, expected[k]) for k, p in parameters.items() if k not in zero)
    report("gradients, worst rel L2", errors[-1], 5e-3)
    report("gradients, median rel L2", errors[len(errors) // 2], 1e-3)
    report("gradients that are zero, largest / largest", max(float(parameters[k].grad.abs().max()) for k in zero) / largest, 1e-4)
    settings = json.loads(meta["optimizer"])
    for k, p in parameters.items():
        p.grad = expected[k].clone()
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=settings["lr"], weight_decay=settings["weight_decay"], betas=settings["betas"]
    )
    optimizer.step()
    stepped = part(tensors, "after_step.")
    report("AdamW step, worst rel L2", max(rel(p, stepped[k]) for k, p in parameters.items()), 1e-6)


def check_curve(tensors, meta, name):
    prefix = f"{name}."
    settings = json.loads(meta[f"curve_{name}"])
    config = dict(json.loads(meta["config"]), unpool_backend=settings["unpool_backend"])
    t = part(tensors, prefix)
    # The reference ran in double precision. In single precision two values that are nearly the same change places in a
    # maximum, depending on the order of sums and so on the number of threads, and from there on the run is another one.
    model = make(config, part(tensors, "init.")).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=settings["weight_decay"])
    worst = 0.0
    for step in range(40):
        batch = part(tensors, f"batch{step % 4}.")
        logits = model(batch["coord"].double(), batch["feat"].double(), batch["offset"])
        loss = cross_entropy(logits, batch["segment"], ignore_index=-1)
        if name == "lovasz":
            keep = batch["segment"] >= 0
            loss = loss + lovasz_softmax(logits[keep], batch["segment"][keep])
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0].update(lr=float(t["lr"][step]), betas=(float(t["beta1"][step]), 0.999))
        optimizer.step()
        worst = max(worst, abs(float(loss.detach()) - float(t["loss"][step])))
    print(f"curve {name}")
    report("loss over 40 steps in f64, worst error", worst, 1e-6)
    model = make(config, part(tensors, f"{prefix}final.state."))
    batch = part(tensors, "batch0.")
    inputs = batch["coord"], batch["feat"], batch["offset"]
    with torch.no_grad():
        report("final eval logits, rel L2", rel(model.eval()(*inputs), t["final.eval_logits"]), 1e-5)
        report("final train logits, rel L2", rel(model.train()(*inputs), t["final.train_logits"]), 1e-5)


def main():
    here = Path(__file__).parent
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else here.parent / "data" / "golden" / "ptv2"
    networks = sorted(folder.glob("net_*.safetensors"))
    if not networks:
        sys.exit(f"{folder} holds no net_*.safetensors")
    for path in networks:
        check_network(path)
    for path in sorted(folder.glob("curve_*.safetensors")):
        tensors, meta = load(path)
        for name in ("ce", "lovasz"):
            check_curve(tensors, meta, name)
    print("all within limits" if not failures else f"{failures} outside their limits")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
