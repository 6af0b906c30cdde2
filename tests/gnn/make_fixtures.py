#!/usr/bin/env python3
"""Makes gnn/tests/fixtures: models, graphs and the embeddings that PyTorch Geometric computes for them.

    python3 -m venv /tmp/pyg && /tmp/pyg/bin/pip install torch torch_geometric safetensors numpy
    /tmp/pyg/bin/python tests/gnn/make_fixtures.py

Each folder is written by deploy/examples/export_pyg.py, so that the exporter is tested, too. Beside the model there is
case.safetensors: x, edge_index, edge_attr where there is one, and the expected y. Seeds are fixed.
"""
import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file
from torch_geometric.nn.models import GAT, GCN, GraphSAGE

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "deploy" / "examples"))
from export_pyg import export  # noqa: E402

OUT = HERE.parent.parent / "gnn" / "tests" / "fixtures"
NODES, EDGES, IN, HIDDEN, LAYERS, LAST = 90, 400, 12, 16, 3, 20


def graph(generator, edge_width):
    """With nodes that hear nobody, edges that are there twice, and loops, some of them twice."""
    source = torch.randint(0, NODES, (EDGES,), generator=generator)
    target = torch.randint(5, NODES, (EDGES,), generator=generator)
    loops = torch.arange(10, 20)
    source = torch.cat([source, source[:20], loops, loops[:3]])
    target = torch.cat([target, target[:20], loops, loops[:3]])
    attributes = torch.randn(source.numel(), edge_width, generator=generator) if edge_width else None
    return torch.stack([source, target]), attributes


def settle(model, generator):
    """Random weights, biases and running statistics in place of the start values, many of which are 0 or 1."""
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            value.copy_(0.5 + noise.abs())
        elif value.dim() == 1:
            value.copy_(0.3 * noise + (1.0 if name.endswith("weight") else 0.0))
        else:
            value.copy_(noise / value.shape[-1] ** 0.5)


def case(name, model, edge_width=0, weights=False, scale=1.0):
    generator = torch.Generator().manual_seed(sum(name.encode()))
    settle(model, generator)
    model.eval()
    x = scale * torch.randn(NODES, IN, generator=generator)
    edge_index, attributes = graph(generator, edge_width)
    tensors = {"x": x, "edge_index": edge_index.contiguous()}
    more = {}
    if weights:
        tensors["edge_attr"] = torch.rand(edge_index.shape[1], 1, generator=generator) + 0.1
        # Which of several loops of a node counts is left open by PyTorch Geometric: they get one weight.
        loop = edge_index[0] == edge_index[1]
        tensors["edge_attr"][loop] = 0.7
        more["edge_weight"] = tensors["edge_attr"].view(-1)
    elif attributes is not None:
        tensors["edge_attr"] = attributes
        more["edge_attr"] = attributes
    with torch.no_grad():
        tensors["y"] = model(x, edge_index, **more)
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    export(model, folder, feature_properties=["features"])
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "case.safetensors")
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size < 200_000, (name, size)
    print(f"{name}: {size} bytes, |y| up to {tensors['y'].abs().max():.3f}")


def main():
    sizes = (IN, HIDDEN, LAYERS, LAST)
    case("sage_mean", GraphSAGE(*sizes))
    # Sums over three hops grow: small features keep them where 1e-5 is more than rounding.
    case("sage_sum", GraphSAGE(*sizes, aggr="sum"), scale=0.02)
    case("sage_max", GraphSAGE(*sizes, aggr="max"))
    case("sage_normalize", GraphSAGE(*sizes, aggr="max", normalize=True))
    case("sage_project", GraphSAGE(*sizes, project=True, root_weight=False))
    case("sage_jk_cat_batch_norm", GraphSAGE(*sizes, jk="cat", norm="batch_norm"))
    case("sage_jk_max_layer_norm", GraphSAGE(*sizes, jk="max", norm="layer_norm"))
    case("sage_jk_last_node_norm", GraphSAGE(*sizes, jk="last", norm="layer_norm", norm_kwargs={"mode": "node"}))
    case("sage_narrow", GraphSAGE(IN, 8, 2, 4, act="gelu", act_first=True, norm="batch_norm"))
    case("sage_elu_no_out", GraphSAGE(IN, HIDDEN, 2, act="elu"))
    case("gcn", GCN(*sizes))
    case("gcn_weighted", GCN(IN, 8, 2, 4), weights=True)
    case("gat", GAT(*sizes, heads=4))
    case("gat_edges", GAT(*sizes, heads=2, edge_dim=3, act="leaky_relu"), edge_width=3)
    case("gat_residual", GAT(*sizes, heads=2, residual=True, add_self_loops=False))
    case("gatv2", GAT(*sizes, heads=4, v2=True))
    case("gatv2_edges_jk", GAT(*sizes, heads=2, v2=True, edge_dim=2, jk="cat", act="silu"), edge_width=2)


if __name__ == "__main__":
    main()
