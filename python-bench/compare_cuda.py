"""Cairn and PyTorch side by side on a GPU: what `compare.py --device cuda` does. See README.md, "On a GPU".

One PyTorch process for each job and variant, and in each round; it prints a line of JSON per precision, so that what a
failure or the clock cuts off costs no more than itself. `--device emulator` is a rehearsal without a GPU: Cairn and the
CUDA kernels of PyTorch's side on Cairn's emulator, PyTorch on the CPU, times that mean nothing.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import cuda_attention
import driver
import ptv2
import stratified
from cuda_lists import Finder

PRECISIONS = {"f32": "f32", "tf32": "f32", "bf16": "bf16"}  # of PyTorch, and Cairn's to compare with
LIMIT = 1e-4  # of the relative L2 distance between the f32 logits of both
WARM_UPS = 3
PATIENCE = 300  # seconds for one process


def is_gpu():
    return driver.emulator is None


@contextlib.contextmanager
def precision(name):
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    with torch.autocast("cuda" if is_gpu() else "cpu", torch.bfloat16, enabled=name == "bf16"):
        yield


def load(network, folder):
    """The network and its inputs, on the device; `offset` stays on the host."""
    device = "cuda" if is_gpu() else "cpu"
    tensors = load_file(folder / "input.safetensors")
    model = network.make()
    state = torch.load(folder / "model.pth", weights_only=False)["state_dict"]
    model.load_state_dict({k.removeprefix(network.prefix): v for k, v in state.items()})
    return model.to(device), (tensors["coord"].to(device), tensors["feat"].to(device), tensors["offset"])


def synchronize():
    if is_gpu():
        torch.cuda.synchronize()


def allocated(most=False):
    if not is_gpu():
        return 0
    return torch.cuda.max_memory_allocated() if most else torch.cuda.memory_allocated()


def runner(model, batch, job, name):
    """A function that does the job once in the precision `name`."""
    if job == "inference":
        model.eval()

        def infer():
            with torch.inference_mode(), precision(name):
                model(*batch)

        return infer
    model.train()
    # As in `cairn bench`; `capturable` so that the step can be part of a graph.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.05, fused=True, capturable=is_gpu())
    target = torch.arange(len(batch[0]), device=batch[0].device) % 13

    def train():
        optimizer.zero_grad()
        with precision(name):
            loss = torch.nn.functional.cross_entropy(model(*batch).float(), target)
        loss.backward()
        optimizer.step()

    return train


def timed(once, repeats):
    times = []
    for _ in range(repeats):
        synchronize()
        start = time.perf_counter()
        once()
        synchronize()
        times.append(time.perf_counter() - start)
    return dict(seconds=statistics.median(times), range=[min(times), max(times)])


def captured(once):
    """The job as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            once()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    return graph.replay


def why(error):
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]


def measured(model, batch, job, name, repeats):
    """One row: the whole run, its memory, and the features alone; with the function that runs these."""
    base, finder = allocated(), Finder()
    once = runner(model, batch, job, name)

    def anew():
        finder.find()
        ptv2.backend = finder
        once()

    def features():
        finder.replay()
        ptv2.backend = finder
        once()

    start = time.perf_counter()
    for _ in range(WARM_UPS):
        anew()
    synchronize()
    row = dict(precision=name, warm_up_seconds=time.perf_counter() - start, base=base)
    if is_gpu():
        torch.cuda.reset_peak_memory_stats()
    row.update(run=timed(anew, repeats), peak=allocated(most=True))
    features()
    row["features"] = timed(features, repeats)
    return row, features


def compile_parts(network, model):
    torch._dynamo.config.recompile_limit = 256  # each width, precision and rate of a network is a case of its own
    for module in model.modules():
        if type(module).__name__ in network.compiled:
            module.compile(dynamic=True)


def child(args, network):
    """One PyTorch process: prints a line of JSON per precision, and another one for the graph of each."""
    folder, job, variant = Path(args.child[0]), *args.child[1:]
    if args.device == "emulator":
        driver.emulate(args.cairn.parent / "libcairn_emulator.so")
    stratified.attend = cuda_attention.attend
    if job == "logits":
        return logits(network, folder)
    done = {}
    for name in args.precisions:
        try:
            model, batch = load(network, folder)
            if variant == "compiled":
                compile_parts(network, model)
            row, done[name] = measured(model, batch, job, name, args.repeats)
        except Exception as error:  # out of memory, or a compiler that gives up: the next precision may fare better
            row = dict(precision=name, error=why(error))
        print(json.dumps(row), flush=True)
        if is_gpu():
            torch.cuda.empty_cache()
    # Last, since a capture that fails may leave CUDA in a state that nothing else gets out of.
    for name in done if is_gpu() else ():
        try:
            replay = captured(done[name])
            replay()
            row = dict(precision=name, graph=timed(replay, args.repeats))
        except Exception as error:
            row = dict(precision=name, graph_error=why(error))
        print(json.dumps(row), flush=True)


def logits(network, folder):
    """Writes the logits in each precision, and in double precision from the lists of single precision."""
    finder = ptv2.backend = Finder()
    model, (coord, feat, offset) = load(network, folder)
    model.eval()
    found = {}
    with torch.inference_mode():
        for name in PRECISIONS:
            finder.find()
            with precision(name):
                found[name] = model(coord, feat, offset)
            if name == "f32":
                lists = finder.tape
        finder.tape = lists
        finder.double()
        finder.replay()
        found["f64"] = model.double()(coord.double(), feat.double(), offset)
    save_file({name: x.cpu().contiguous() for name, x in found.items()}, folder / "theirs.safetensors")
    print(json.dumps(dict(gpu=torch.cuda.get_device_name() if is_gpu() else "none")))


def output(command):
    """What a program printed, and why it failed if it did."""
    command = [str(c) for c in command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode(), f"took over {PATIENCE} s"
    lines = done.stderr.strip().splitlines() or ["no message"]
    return done.stdout, f"{lines[-1]} (exit status {done.returncode})" if done.returncode else None


def need(command):
    text, error = output(command)
    if error:
        sys.exit(f"{' '.join(map(str, command))}\n{error}")
    return text


def pytorch(args, folder, job, variant):
    """Rows of a process by precision."""
    command = [sys.executable, Path(__file__).parent / "compare.py", "--network", args.network, "--device", args.device]
    command += ["--cairn", args.cairn, "--repeats", args.repeats, "--precisions", ",".join(args.precisions)]
    text, error = output([*command, "--child", folder, job, variant])
    rows = {name: {} for name in args.precisions}
    for row in map(json.loads, text.splitlines()):
        rows[row["precision"]].update(row)
    for row in rows.values():
        if "graph" not in row and error:
            row.setdefault("error", error)
    return rows


def cairn(args, folder, job, name):
    command = [args.cairn, "bench", "--weights", folder / "model.safetensors", "--input", folder / "input.safetensors"]
    command += ["--json", "--quiet", "--device", args.device, "--precision", name, "--repeats", args.repeats]
    return json.loads(need(command + (["--training"] if job == "training" else [])))[0]


def distance(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def prepare(args, network, folder, points):
    """Writes checkpoint and input; compares the logits of both programs."""
    batch = network.batch(points)
    model = network.seeded(batch)
    save_file(dict(zip(("coord", "feat", "offset"), (t.contiguous() for t in batch))), folder / "input.safetensors")
    state = {network.prefix + k: v for k, v in model.state_dict().items()}
    torch.save(dict(epoch=7, state_dict=state, best_iou=np.float64(0.7)), folder / "model.pth")
    weights = folder / "model.safetensors"
    need([args.cairn, "convert", folder / "model.pth", weights, "--conventions", network.conventions])
    command = [sys.executable, Path(__file__).parent / "compare.py", "--network", args.network, "--device", args.device]
    info = json.loads(need([*command, "--cairn", args.cairn, "--child", folder, "logits", "eager"]))
    theirs = load_file(folder / "theirs.safetensors")
    exact, errors = theirs.pop("f64"), {}
    for name in ("f32", "bf16"):
        files = ["--weights", weights, "--input", folder / "input.safetensors", "-o", folder / "ours.safetensors"]
        need([args.cairn, "forward", *files, "--device", args.device, "--precision", name])
        ours = load_file(folder / "ours.safetensors")["logits"]
        errors[f"cairn {name}"] = distance(ours, exact)
        if name == "f32":
            apart = distance(ours, theirs["f32"])
    errors.update({f"PyTorch {name}": distance(x, exact) for name, x in theirs.items()})
    texts = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    print(f"\n{args.network}, {points} points, GPU: {info['gpu']}, PyTorch {torch.__version__}")
    print(f"off from double precision (relative L2): {texts}; f32 of both apart {apart:.1e}", flush=True)
    if not apart <= LIMIT:
        sys.exit(f"the logits are further apart than {LIMIT}, so the times would compare nothing")
    return dict(info, torch=torch.__version__, errors=errors, apart=apart)


def combined(runs, key):
    """Median over the rounds, and the range of all of them."""
    runs = [r[key] for r in runs if key in r]
    if not runs:
        return None
    low, high = zip(*(r["range"] for r in runs))
    return dict(seconds=statistics.median(r["seconds"] for r in runs), range=[min(low), max(high)])


def summary(ours, theirs):
    """A row of the table from the rows of all rounds."""
    own = combined([dict(run=dict(seconds=r["seconds"], range=[r["fastest"], r["slowest"]])) for r in ours], "run")
    row = dict(cairn=own, cairn_arena_bytes=max(r["arena_bytes"] for r in ours))
    for key in ("run", "features", "graph"):
        row[key] = combined(theirs, key)
        row[f"ratio_{key}"] = row[key] and row[key]["seconds"] / own["seconds"]
    row.update({e: next((r[e] for r in theirs if e in r), None) for e in ("error", "graph_error")})
    row["peak_bytes"] = max((r["peak"] - r["base"] for r in theirs if "peak" in r), default=None)
    return row


HEAD = """
| job | points | precision | Cairn | PyTorch | whole run | ratio | features alone | ratio | as a graph | ratio | memory |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def line(r):
    mib = lambda b: "–" if b is None else f"{b / 2**20:.0f} MiB"
    time_of = lambda t: "–" if t is None else "{:.1f} ({:.1f}–{:.1f}) ms".format(*(1e3 * x for x in (t["seconds"], *t["range"])))
    ratio = lambda x: "–" if x is None else f"{x:.1f}"
    cells = [r["job"], r["points"], r["precision"], f"{time_of(r['cairn'])}, {mib(r['cairn_arena_bytes'])}", r["variant"]]
    for key in ("run", "features", "graph"):
        cells += [time_of(r[key]), ratio(r[f"ratio_{key}"])]
    cells.append(mib(r["peak_bytes"]))
    notes = [r[e] for e in ("error", "graph_error") if r[e]]
    return "| " + " | ".join(map(str, cells)) + " |" + "".join(f"  {note}" for note in notes)


def compare(args, network, points, save):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = dict(network=args.network, points=points, **prepare(args, network, folder, points))
        print(HEAD, flush=True)
        for job in args.jobs:
            ours, theirs = {}, {}
            for _ in range(args.rounds):
                for own in sorted({PRECISIONS[p] for p in args.precisions}):
                    ours.setdefault(own, []).append(cairn(args, folder, job, own))
                for variant in args.variants:
                    for name, row in pytorch(args, folder, job, variant).items():
                        theirs.setdefault((variant, name), []).append(row)
            for (variant, name), runs in theirs.items():
                what = dict(common, job=job, variant=variant, precision=name)
                row = dict(what, **summary(ours[PRECISIONS[name]], runs))
                print(line(row), flush=True)
                save(row)


def main(args, network):
    rows = []

    def save(row):
        rows.append(row)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=2) + "\n")

    for points in args.points:
        compare(args, network, points, save)
