#!/usr/bin/env python3
"""Sidebolt's kernels and PyTorch Geometric take turns on one graph, with the same threads.

    cargo build --release -p sidebolt-gnn --example gnn-bench
    /tmp/pyg/bin/python tests/gnn/compare_pyg.py [--threads 2] [--nodes N] [--edges N] [--rounds 7]

A venv as for make_fixtures.py. GraphSAGE, mean, 64 -> 64 -> 64 -> 128, on a random graph without doubled edges, because
PyTorch Geometric's torch.sparse path merges those. Prints medians, ratios, and by how much the numbers differ.
"""
import argparse
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from safetensors.torch import save_file
from torch_geometric.nn.models import GraphSAGE

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "deploy" / "examples"))
from export_pyg import export  # noqa: E402


def timed(work):
    used = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    out = work()
    wall = (time.perf_counter() - began) * 1e3
    now = resource.getrusage(resource.RUSAGE_SELF)
    return out, wall, (now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime) * 1e3


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--nodes", type=int, default=169_343)
    options.add_argument("--edges", type=int, default=1_166_243)
    options.add_argument("--rounds", type=int, default=7)
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    generator = np.random.default_rng(1)
    pairs = np.unique(generator.integers(0, options.nodes, (options.edges, 2)), axis=0)
    pairs = pairs[generator.permutation(len(pairs))]
    edge_index = torch.from_numpy(np.ascontiguousarray(pairs.T))
    x = torch.randn(options.nodes, 64, generator=torch.Generator().manual_seed(1))
    model = GraphSAGE(64, 64, 3, 128).eval()
    by_target = edge_index[:, torch.argsort(edge_index[1], stable=True)]
    ones = torch.ones(edge_index.shape[1])
    # Rows are targets: PyTorch Geometric multiplies a sparse adjacency as it is.
    sparse = torch.sparse_coo_tensor(edge_index.flip(0), ones, (options.nodes, options.nodes)).coalesce().to_sparse_csr()
    ways = {"PyG edge_index": edge_index, "PyG edge_index, by target": by_target, "PyG torch.sparse CSR": sparse}
    with tempfile.TemporaryDirectory() as folder:
        export(model, folder)
        save_file({"x": x, "edge_index": edge_index.contiguous()}, pathlib.Path(folder) / "case.safetensors")
        bench = ROOT / "target" / "release" / "examples" / "gnn-bench"
        ours = subprocess.Popen(
            [bench, "--threads", str(options.threads), "--case", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

        def ask():
            ours.stdin.write("go\n")
            ours.stdin.flush()
            return [float(number) for number in ours.stdout.readline().split()]

        first = ask()
        got = torch.from_numpy(np.fromfile(pathlib.Path(folder) / "out.f32", dtype=np.float32)).view(options.nodes, 128)
        walls, cpus = {"Sidebolt": []}, {"Sidebolt": []}
        with torch.no_grad():
            for way in ways.values():
                difference = (model(x, way) - got).abs().max().item()
                assert difference < 1e-4, difference
            for _ in range(options.rounds):
                wall, cpu = ask()
                walls["Sidebolt"].append(wall)
                cpus["Sidebolt"].append(cpu)
                for name, way in ways.items():
                    _, wall, cpu = timed(lambda way=way: model(x, way))
                    walls.setdefault(name, []).append(wall)
                    cpus.setdefault(name, []).append(cpu)
        ours.stdin.close()
        ours.wait()
    base, base_least = statistics.median(walls["Sidebolt"]), min(walls["Sidebolt"])
    base_cpu = statistics.median(cpus["Sidebolt"])
    print(f"{options.nodes} nodes, {edge_index.shape[1]} edges, {options.threads} threads, {options.rounds} rounds in turn")
    print(f"numbers differ by {difference:.1e} at most; Sidebolt's peak is {first[2]:.0f} MiB above graph and features")
    for name in walls:
        median, least, cpu = statistics.median(walls[name]), min(walls[name]), statistics.median(cpus[name])
        print(
            f"{name:27} median {median:7.1f} ms ({median / base:4.2f} x), least {least:7.1f} ms ({least / base_least:4.2f} x), "
            f"CPU {cpu:7.0f} ms ({cpu / max(base_cpu, 1):4.2f} x)"
        )


if __name__ == "__main__":
    main()
