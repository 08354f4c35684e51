"""Cairn and PyTorch side by side: the same network, weights and points, in turn on the same machine.

    python compare.py [--points 10000,40000] [--rounds 5] [--cairn ../target/release/cairn] [--json FILE]

For the S3DIS configuration of Point Transformer V2: first the logits of both are compared with those of PyTorch in double
precision (a comparison of different results would mean nothing), then inference and the training step (forward, cross entropy, backward, AdamW) are timed.
Every round starts each program anew, one after another; inside it, runs are repeated after a warm-up and the median is
taken. Printed are the medians over the rounds, the ratio of them, and the smallest and largest ratio of a round.

PyTorch runs eagerly (the network as published) and, for inference, compiled by `torch.compile`; both with k-d tree
neighbours, in `torch.inference_mode`, on as many threads as Cairn. Memory is the largest resident size of the process;
for PyTorch the libraries' own share, measured before the network is made, is given too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from make_pth import batch_of, reference, save, seeded
from ptv2 import S3DIS, PointTransformerV2

HERE = Path(__file__).parent
REPEATS = {"inference": 5, "training": 3}
LIMIT = 1e-5  # of the relative L2 distance of logits


def resident():
    """Largest resident size of this process so far, bytes. (`getrusage` would count the parent's, too.)"""
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def runner(model, batch, job):
    """A function that does the job once."""
    if job == "inference":
        model.eval()

        def infer():
            with torch.inference_mode():
                model(*batch)

        return infer
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.05)
    target = torch.arange(len(batch[0])) % S3DIS["num_classes"]

    def train():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(*batch), target).backward()
        optimizer.step()

    return train


def child(folder, job, variant, threads):
    """One PyTorch process: times a job and prints JSON."""
    torch.set_num_threads(threads)
    base = resident()
    tensors = load_file(folder / "input.safetensors")
    batch = tuple(tensors[k] for k in ("coord", "feat", "offset"))
    model = PointTransformerV2(S3DIS)
    state = torch.load(folder / "s3dis.pth", weights_only=False)["state_dict"]
    model.load_state_dict({k.removeprefix("module.backbone."): v for k, v in state.items()})
    if variant == "compiled":
        for name, module in list(model.named_modules()):
            if type(module).__name__ == "GroupedVectorAttention":
                module.compile(dynamic=True)
    once = runner(model, batch, job)
    for _ in range(2 if variant == "compiled" else 1):
        once()
    times = []
    for _ in range(REPEATS[job]):
        start = time.perf_counter()
        once()
        times.append(time.perf_counter() - start)
    print(json.dumps(dict(seconds=statistics.median(times), peak=resident(), base=base)))


def run(command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def pytorch(folder, job, variant, threads):
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    command = [sys.executable, __file__, "--child", folder, job, variant, "--threads", threads]
    return json.loads(run(command, env=environment))


def cairn(program, folder, job, threads):
    command = [program, "bench", "--weights", folder / "s3dis.safetensors", "--input", folder / "input.safetensors"]
    command += ["--json", "--quiet", "--threads", threads, "--repeats", 3 * REPEATS[job]]
    row = json.loads(run(command + (["--training"] if job == "training" else [])))[0]
    return dict(seconds=row["seconds"], peak=row["peak_process_bytes"], base=0)


def prepare(program, folder, points):
    """Writes checkpoint and input. Returns how far the logits of both programs are from those in double precision."""
    batch = batch_of([points], 11)
    model = seeded(S3DIS, 12, batch)
    reference(model, batch, folder / "input.safetensors")
    save(model, ["module", "backbone"], batch_of([600], 5), folder / "s3dis.pth", True)
    run([program, "convert", folder / "s3dis.pth", folder / "s3dis.safetensors", "--conventions", "pointcept"])
    files = ["--weights", folder / "s3dis.safetensors", "--input", folder / "input.safetensors"]
    run([program, "forward", *files, "-o", folder / "output.safetensors"])
    with torch.inference_mode():
        exact = model.double()(batch[0].double(), batch[1].double(), batch[2])
    files = [folder / "output.safetensors", folder / "input.safetensors"]
    found = [load_file(f)["logits"].double() for f in files]
    return [float((logits - exact).norm() / exact.norm()) for logits in found]


def compare(program, folder, points, rounds, threads):
    ours, theirs = prepare(program, folder, points)
    print(f"{points} points: error of the logits: cairn {ours:.1e}, PyTorch {theirs:.1e}", flush=True)
    if ours > LIMIT:
        sys.exit("the logits differ, so the times would compare nothing")
    rows = []
    for job, variants in [("inference", ["eager", "compiled"]), ("training", ["eager"])]:
        ours, theirs = [], {v: [] for v in variants}
        for _ in range(rounds):
            ours.append(cairn(program, folder, job, threads))
            for variant in variants:
                theirs[variant].append(pytorch(folder, job, variant, threads))
        for variant in variants:
            rows.append(dict(points=points, job=job, variant=variant, **summary(ours, theirs[variant])))
            print(line(rows[-1]), flush=True)
    return rows


def summary(ours, theirs):
    median = lambda runs, key: statistics.median(r[key] for r in runs)
    ratios = [t["seconds"] / o["seconds"] for o, t in zip(ours, theirs)]
    return dict(
        cairn_seconds=median(ours, "seconds"),
        pytorch_seconds=median(theirs, "seconds"),
        ratio=median(theirs, "seconds") / median(ours, "seconds"),
        ratio_range=[min(ratios), max(ratios)],
        cairn_peak_bytes=median(ours, "peak"),
        pytorch_peak_bytes=median(theirs, "peak"),
        pytorch_base_bytes=median(theirs, "base"),
    )


def line(r):
    mib = lambda b: f"{b / 2**20:.0f} MiB"
    return (
        f"{r['job']:<10} {r['points']:>7} points  cairn {r['cairn_seconds']:.3f} s, {mib(r['cairn_peak_bytes'])}"
        f"  PyTorch {r['variant']} {r['pytorch_seconds']:.3f} s, {mib(r['pytorch_peak_bytes'])}"
        f" (libraries {mib(r['pytorch_base_bytes'])})"
        f"  ratio {r['ratio']:.1f} ({r['ratio_range'][0]:.1f}–{r['ratio_range'][1]:.1f})"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", default="10000,40000", help="sizes, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cairn", type=Path, default=HERE.parent / "target" / "release" / "cairn")
    parser.add_argument("--json", type=Path, help="write the table as JSON, too")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(Path(args.child[0]), args.child[1], args.child[2], args.threads)
        return
    torch.set_num_threads(args.threads)
    rows = []
    for points in map(int, args.points.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            rows += compare(args.cairn.resolve(), Path(folder), points, args.rounds, args.threads)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
