"""The index steps of Cairn beside the fastest libraries known for them, in turn on the same machine and points.

    python geometry.py [--points 40000,80000,1000000] [--rounds 3] [--cairn ../target/release/cairn] [--json FILE]

| step | compared with |
|---|---|
| nearest neighbours (16) | scipy's k-d tree on all threads, Open3D's search |
| farthest points (every eighth) | fpsample's bucket sampling at the best of its tree heights |
| voxel sampling | Open3D's `voxel_down_sample` |

Each library gets contiguous 32-bit floats (Open3D's legacy clouds: 64-bit ones, made before the clock starts). Building a
search structure counts. Every round runs each program once, a warm-up and the median of several runs; printed are the
medians over the rounds, and the ratio of them with the smallest and largest of a round. Libraries that are not installed
are named and left out. Cairn's results are exact and checked by its tests; fpsample's order differs where distances tie.
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
from safetensors.numpy import save_file

HERE = Path(__file__).parent
NEIGHBORS, SAMPLED, REPEATS = 16, 8, 5


def room(count, rng):
    """Points on floor, walls and boxes, one in each voxel of 4 cm."""
    side = int((count / 6) ** 0.5) + 1
    faces = []
    for face in range(6):
        axis, far = face // 2, face % 2
        a, b = np.meshgrid(np.arange(side), np.arange(side))
        plane = np.zeros((side * side, 3))
        plane[:, axis] = far * side
        plane[:, (axis + 1) % 3], plane[:, (axis + 2) % 3] = a.ravel(), b.ravel()
        faces.append(plane)
    points = np.concatenate(faces) + rng.uniform(-0.4, 0.4, (6 * side * side, 3))
    return rng.permutation(points * 0.04)[:count].astype(np.float32)


def lidar(count, rng):
    """Ground and poles around a spinning scanner; density falls a thousandfold."""
    angle, reach = rng.uniform(0, 2 * np.pi, count), 1.5 / (0.015 + rng.uniform(size=count))
    height = np.where(rng.uniform(size=count) < 0.1, rng.uniform(0, 4, count), 0) + rng.normal(0, 0.01, count)
    return np.stack([reach * np.cos(angle), reach * np.sin(angle), height], 1).astype(np.float32)


def scipy_nearest(points, threads):
    from scipy.spatial import cKDTree

    return lambda: cKDTree(points).query(points, NEIGHBORS, workers=threads)


def open3d_nearest(points, threads):
    import open3d.core as o3c

    tensor = o3c.Tensor(points)

    def run():
        search = o3c.nns.NearestNeighborSearch(tensor)
        search.knn_index()
        search.knn_search(tensor, NEIGHBORS)

    return run


def fpsample_farthest(points, threads):
    import fpsample

    count = len(points) // SAMPLED
    sample = lambda height: fpsample.bucket_fps_kdline_sampling(points, count, h=height, start_idx=0)
    best = min(range(3, 12), key=lambda height: measure(lambda: sample(height), 1))
    return lambda: sample(best)


def open3d_voxels(points, threads):
    import open3d

    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points.astype(np.float64)))
    size = 2 * spacing(points)
    return lambda: cloud.voxel_down_sample(size)


def spacing(points):
    """Median distance to the nearest other point, as Cairn measures it."""
    from scipy.spatial import cKDTree

    return float(np.median(cKDTree(points).query(points, 2, workers=-1)[0][:, 1]))


OTHERS = {
    "nearest neighbours": {"scipy": scipy_nearest, "open3d": open3d_nearest},
    "farthest points": {"fpsample": fpsample_farthest},
    "voxel sampling": {"open3d": open3d_voxels},
}


def measure(run, repeats=REPEATS):
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def child(path, step, library, threads):
    """One process of a library: prints its time."""
    points = np.load(path)
    try:
        run = OTHERS[step][library](points, threads)
    except ImportError as missing:
        print(json.dumps(dict(missing=str(missing))))
        return
    print(json.dumps(dict(seconds=measure(run))))


def output(command, threads):
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return json.loads(done.stdout)


def compare(program, folder, cloud, points, rounds, threads):
    zeros = np.zeros((len(points), 1), np.float32)
    tensors = dict(coord=points, feat=zeros, offset=np.array([len(points)], np.int64))
    save_file(tensors, folder / "points.safetensors")
    np.save(folder / "points.npy", points)
    ours, theirs = [], {}
    for _ in range(rounds):
        command = [program, "bench", "--steps", "--input", folder / "points.safetensors", "--json", "--quiet"]
        row = output(command + ["--threads", threads, "--repeats", REPEATS], threads)[0]
        ours.append({step["step"]: step["seconds"] for step in row["steps"]})
        for step, libraries in OTHERS.items():
            for library in libraries:
                command = [sys.executable, __file__, "--child", folder / "points.npy", step, library, "--threads", threads]
                theirs.setdefault((step, library), []).append(output(command, threads))
    rows = []
    for (step, library), runs in theirs.items():
        if "missing" in runs[0]:
            print(f"{library} is left out: {runs[0]['missing']}")
            continue
        mine, other = [r[step] for r in ours], [r["seconds"] for r in runs]
        ratios = [o / m for m, o in zip(mine, other)]
        row = dict(cloud=cloud, points=len(points), step=step, library=library)
        row.update(cairn_seconds=statistics.median(mine), seconds=statistics.median(other))
        row.update(ratio=row["seconds"] / row["cairn_seconds"], ratio_range=[min(ratios), max(ratios)])
        rows.append(row)
        print(
            f"{cloud:6} {len(points):8}  {step:20} cairn {row['cairn_seconds']:8.4f} s   {library:9} {row['seconds']:8.4f} s   "
            f"{row['ratio']:5.2f}x ({min(ratios):.2f}–{max(ratios):.2f})",
            flush=True,
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", default="40000,80000,1000000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cairn", type=Path, default=HERE / "../target/release/cairn")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(*args.child, args.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in map(int, args.points.split(",")):
            for cloud in (room, lidar):
                points = cloud(count, np.random.default_rng(1))
                rows += compare(args.cairn, Path(folder), cloud.__name__, points, args.rounds, args.threads)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
