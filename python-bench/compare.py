"""Cairn and PyTorch side by side: the same network, weights and points, in turn on the same machine.

    python compare.py [--network ptv2|stratified] [--points 10000,40000] [--threads 1,2] [--rounds 5] [--json FILE]
                      [--jobs inference,training] [--patience 0] [--cairn ../target/release/cairn]
    python compare.py --device cuda [--variants eager,compiled] [--precisions f32,tf32,bf16] [--repeats 15] ...

On a GPU (`compare_cuda.py`) the table is another one; the rest of this text is about CPUs.

For the S3DIS configuration of a network: first the logits of both are compared with those of PyTorch in double precision
(a comparison of different results would mean nothing), then inference and the training step (forward, cross entropy,
backward, AdamW) are timed. Every round starts each program anew, one after another; inside it, runs are repeated after a
warm-up and the median is taken. Printed are the medians over the rounds, the ratio of them, and the smallest and largest
ratio of a round; then the same for the network alone: without what depends on coordinates only (neighbours, samples,
pairs, grids) and without the optimizer.

PyTorch runs eagerly (the structure of the official code) and compiled by `torch.compile` where the time goes, inference in
`torch.inference_mode`, on as many threads as Cairn. For Stratified Transformer it samples points by fpsample, and the two
programs see other samples where rounding decides between points; the logits are compared with exact ones.

Memory is the largest resident size of the process; for PyTorch the libraries' own share, measured before points and
network are there, is given too. Other programs disturb times: their share of the machine's processor time is measured
during each run, and with `--patience N` a run that lost more than a tenth is done again, up to N times. The ratio of
processor times (a run's mean over all threads) suffers less, and with one thread it says what the ratio of times would be
on an idle machine; several threads of PyTorch burn more while they wait.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from safetensors.torch import load_file

import make_pth
import ptv2
import stratified
import stratified_lists

HERE = Path(__file__).parent
REPEATS = {"inference": 5, "training": 3}
BUDGET = 30  # seconds of timed runs, after which fewer repeats have to do
DISTURBED = 0.1  # share of other programs above which patience helps
LIMIT = 1e-5  # of the relative L2 distance of logits


@dataclass
class Network:
    """What differs between the networks."""

    make: Callable  # an untrained network
    batch: Callable  # number of points -> inputs
    seeded: Callable  # inputs -> a network to measure
    prefix: str  # of the names in the checkpoint
    conventions: str  # how `cairn convert` calls such checkpoints
    compiled: tuple  # modules that are worth compiling
    variants: dict  # what PyTorch is timed for


NETWORKS = {
    "ptv2": Network(
        lambda: ptv2.PointTransformerV2(ptv2.S3DIS),
        lambda points: make_pth.batch_of([points], 11),
        lambda batch: make_pth.seeded(ptv2.S3DIS, 12, batch),
        "module.backbone.",
        "pointcept",
        ("GroupedVectorAttention",),
        dict(inference=["eager", "compiled"], training=["eager"]),
    ),
    "stratified": Network(
        lambda: stratified.StratifiedTransformer(stratified.S3DIS),
        lambda points: stratified.batch_of([points]),
        lambda batch: stratified.seeded(),
        "module.",
        "stratified",
        ("KPConv", "Perceptron"),
        dict(inference=["eager", "compiled"], training=["eager", "compiled"]),
    ),
}


def resident():
    """Largest resident size of this process so far, bytes. (`getrusage` would count the parent's, too.)"""
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def runner(model, batch, job):
    """A function that does the job once, and returns the seconds that the optimizer took."""
    if job == "inference":
        model.eval()

        def infer():
            with torch.inference_mode():
                model(*batch)
            return 0.0

        return infer
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.05)
    target = torch.arange(len(batch[0])) % 13

    def train():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(*batch), target).backward()
        start = time.perf_counter()
        optimizer.step()
        return time.perf_counter() - start

    return train


def compile_parts(network, model):
    for module in model.modules():
        if type(module).__name__ in network.compiled:
            module.compile(dynamic=True)
    stratified.dots = torch.compile(stratified.dots, dynamic=True)


def child(network, folder, job, variant, threads):
    """One PyTorch process: times a job and prints JSON."""
    torch.set_num_threads(threads)
    base = resident()
    tensors = load_file(folder / "input.safetensors")
    batch = tuple(tensors[k] for k in ("coord", "feat", "offset"))
    model = network.make()
    state = torch.load(folder / "model.pth", weights_only=False)["state_dict"]
    model.load_state_dict({k.removeprefix(network.prefix): v for k, v in state.items()})
    stratified_lists.EXACT = False
    if variant == "compiled":
        compile_parts(network, model)
    once = runner(model, batch, job)
    for _ in range(2 if variant == "compiled" else 1):
        once()
    times, alone, processor = [], [], time.process_time()
    while len(times) < REPEATS[job] and sum(times) < BUDGET:
        start, before = time.perf_counter(), ptv2.spent
        optimizer = once()
        times.append(time.perf_counter() - start)
        alone.append(times[-1] - optimizer - (ptv2.spent - before))
    seconds, network_seconds = statistics.median(times), statistics.median(alone)
    processor = (time.process_time() - processor) / len(times)
    print(json.dumps(dict(seconds=seconds, network=network_seconds, processor=processor, peak=resident(), base=base)))


def run(command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def busy():
    """Processor time of the whole machine so far, and of the children of this process, seconds."""
    user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().split()[1:9])
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK"), own.ru_utime + own.ru_stime


def measured(measure, patience):
    """What `measure` returns, with the share of the machine that other programs took: of several runs the one that was
    disturbed least."""
    runs = []
    while not runs or (len(runs) <= patience and runs[-1]["others"] > DISTURBED):
        start, (machine, own) = time.perf_counter(), busy()
        row, (machine_after, own_after) = measure(), busy()
        others = (machine_after - machine - (own_after - own)) / ((time.perf_counter() - start) * os.cpu_count())
        runs.append(dict(row, others=max(others, 0.0)))
    return min(runs, key=lambda r: r["others"])


def pytorch(args, folder, job, variant, threads):
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    command = [sys.executable, __file__, "--network", args.network, "--child", folder, job, variant, "--threads", threads]
    return measured(lambda: json.loads(run(command, env=environment)), args.patience)


def cairn(args, folder, job, threads):
    repeats = 3 * REPEATS[job]
    command = [args.cairn, "bench", "--weights", folder / "model.safetensors", "--input", folder / "input.safetensors"]
    command += ["--json", "--quiet", "--threads", threads, "--repeats", repeats]
    command += ["--training"] if job == "training" else []

    def measure():
        before = busy()[1]
        row = json.loads(run(command))[0]
        network = sum(op["seconds"] for op in row["ops"]) / (repeats + 1)  # the mean, with the slower warm-up
        processor = (busy()[1] - before) / (repeats + 1)  # with the start of the program
        return dict(
            seconds=row["seconds"], network=network, processor=processor, peak=row["peak_process_bytes"], base=0
        )

    return measured(measure, args.patience)


def prepare(program, network, folder, points):
    """Writes checkpoint and input. Returns how far the logits of both programs are from those in double precision."""
    batch = network.batch(points)
    model = network.seeded(batch)
    make_pth.reference(model, batch, folder / "input.safetensors")
    state = {network.prefix + k: v for k, v in model.state_dict().items()}
    torch.save(dict(epoch=7, state_dict=state, best_iou=np.float64(0.7)), folder / "model.pth")
    convert = [program, "convert", folder / "model.pth", folder / "model.safetensors"]
    run([*convert, "--conventions", network.conventions])
    files = ["--weights", folder / "model.safetensors", "--input", folder / "input.safetensors"]
    run([program, "forward", *files, "-o", folder / "output.safetensors"])
    with torch.inference_mode():
        # Stratified Transformer looks its tables up by single-precision coordinates: they are not to change.
        coord = batch[0] if isinstance(model, stratified.StratifiedTransformer) else batch[0].double()
        exact = model.double()(coord, batch[1].double(), batch[2])
    files = [folder / "output.safetensors", folder / "input.safetensors"]
    found = [load_file(f)["logits"].double() for f in files]
    return [float((logits - exact).norm() / exact.norm()) for logits in found]


def compare(args, folder, points):
    network = NETWORKS[args.network]
    ours, theirs = prepare(args.cairn, network, folder, points)
    print(f"{points} points: error of the logits: cairn {ours:.1e}, PyTorch {theirs:.1e}", flush=True)
    if ours > LIMIT:
        sys.exit("the logits differ, so the times would compare nothing")
    rows = []
    for threads, job in ((t, j) for t in args.threads for j in args.jobs):
        ours, theirs = [], {v: [] for v in network.variants[job]}
        for _ in range(args.rounds):
            ours.append(cairn(args, folder, job, threads))
            for variant in theirs:
                theirs[variant].append(pytorch(args, folder, job, variant, threads))
        for variant, runs in theirs.items():
            what = dict(network=args.network, points=points, threads=threads, job=job, variant=variant)
            rows.append(dict(what, **summary(ours, runs)))
            print(line(rows[-1]), flush=True)
    return rows


def summary(ours, theirs):
    median = lambda runs, key: statistics.median(r[key] for r in runs)
    row = {}
    for key, suffix in [("seconds", ""), ("network", "_network"), ("processor", "_processor")]:
        ratios = [t[key] / o[key] for o, t in zip(ours, theirs)]
        row[f"cairn{suffix}_seconds"] = median(ours, key)
        row[f"pytorch{suffix}_seconds"] = median(theirs, key)
        row[f"ratio{suffix}"] = median(theirs, key) / median(ours, key)
        row[f"ratio{suffix}_range"] = [min(ratios), max(ratios)]
    row.update(cairn_peak_bytes=median(ours, "peak"), pytorch_peak_bytes=median(theirs, "peak"))
    row.update(pytorch_base_bytes=median(theirs, "base"))
    row["memory_ratio"] = (row["pytorch_peak_bytes"] - row["pytorch_base_bytes"]) / row["cairn_peak_bytes"]
    row["others"] = max(r["others"] for r in ours + theirs)
    return row


def line(r):
    mib = lambda b: f"{b / 2**20:.0f} MiB"
    ratio = lambda suffix: "{:.1f} ({:.1f}–{:.1f})".format(r[f"ratio{suffix}"], *r[f"ratio{suffix}_range"])
    return (
        f"{r['job']:<10} {r['points']:>7} points, {r['threads']} threads"
        f"  cairn {r['cairn_seconds']:.3f} s, network {r['cairn_network_seconds']:.3f} s, {mib(r['cairn_peak_bytes'])}"
        f"  PyTorch {r['variant']} {r['pytorch_seconds']:.3f} s, network {r['pytorch_network_seconds']:.3f} s,"
        f" {mib(r['pytorch_peak_bytes'])} (libraries {mib(r['pytorch_base_bytes'])})"
        f"  ratio {ratio('')}, network {ratio('_network')}, processor time {ratio('_processor')},"
        f" memory {r['memory_ratio']:.1f}"
        f"  others took at most {100 * r['others']:.0f} %"
    )


def main():
    texts = lambda text: text.split(",")
    numbers = lambda text: [int(n) for n in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="ptv2")
    parser.add_argument("--points", type=numbers, default=[10000, 40000], help="sizes, separated by commas")
    parser.add_argument("--threads", type=numbers, default=[os.cpu_count()], help="the same")
    parser.add_argument("--jobs", type=texts, default=list(REPEATS), help="inference, training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=int, default=0, help="how often a disturbed run may be done again")
    parser.add_argument("--cairn", type=Path, default=HERE.parent / "target" / "release" / "cairn")
    parser.add_argument("--json", type=Path, help="write the table as JSON, too")
    parser.add_argument("--device", choices=["cpu", "cuda", "emulator"], default="cpu")
    parser.add_argument("--variants", type=texts, default=["eager", "compiled"], help="of PyTorch on a GPU")
    parser.add_argument("--precisions", type=texts, default=["f32", "tf32", "bf16"], help="of PyTorch on a GPU")
    parser.add_argument("--repeats", type=int, default=15, help="timed runs of a process on a GPU")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device != "cpu":
        import compare_cuda

        args.cairn = args.cairn.resolve()
        (compare_cuda.child if args.child else compare_cuda.main)(args, NETWORKS[args.network])
        return
    if args.child:
        child(NETWORKS[args.network], Path(args.child[0]), *args.child[1:], args.threads[0])
        return
    args.cairn = args.cairn.resolve()
    torch.set_num_threads(max(args.threads))
    rows = []
    for points in args.points:
        with tempfile.TemporaryDirectory() as folder:
            rows += compare(args, Path(folder), points)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
