#!/usr/bin/env python3
"""Writes a trained PyTorch Geometric model as a folder that Sidebolt loads: model.safetensors and config.json.

In your own program, after training:

    from export_pyg import export
    export(model, "models/papers", feature_properties=["year", "words"])

`model` is one of torch_geometric.nn's GraphSAGE, GCN and GAT (v2 or not). Needs torch, torch_geometric and safetensors.
For a model class of your own, give the configuration yourself and save the state_dict the same way; the names
have to be those of the PyTorch Geometric layers, under `convs.0.`, `convs.1.` ... or `conv1.`, `conv2.` ...
"""
import json
import pathlib

from safetensors.torch import save_file

ACTIVATIONS = {
    "ReLU": "relu", "LeakyReLU": "leaky_relu", "ELU": "elu", "GELU": "gelu", "SiLU": "silu", "Sigmoid": "sigmoid",
    "Tanh": "tanh", "Identity": "none", "NoneType": "none",
}


def configuration(model, feature_properties=(), orientation="natural"):
    """The model's config.json, read from the model itself; an error for what Sidebolt does not compute."""
    kind = type(model).__name__
    conv = model.convs[0]
    conv_kind = type(conv).__name__
    kinds = {"SAGEConv": "graphsage", "GCNConv": "gcn", "GATConv": "gat", "GATv2Conv": "gatv2"}
    if conv_kind not in kinds:
        raise ValueError(f"{kind} is made of {conv_kind}, which Sidebolt does not compute: use one of {', '.join(kinds)}")
    act = type(model.act).__name__
    if act not in ACTIVATIONS:
        raise ValueError(f"Sidebolt does not compute the activation {act}: use one of {', '.join(ACTIVATIONS)}")
    slope = getattr(model.act, "negative_slope", 0.01)
    if slope != 0.01 or getattr(model.act, "alpha", 1.0) != 1.0:
        raise ValueError(f"Sidebolt computes {act} with PyTorch's default parameters only")
    out = {
        "model_type": kinds[conv_kind],
        "in_channels": model.in_channels,
        "hidden_channels": model.hidden_channels,
        "num_layers": model.num_layers,
        "act": ACTIVATIONS[act],
        "act_first": bool(model.act_first),
        "jk": model.jk_mode,
        "orientation": orientation,
        "feature_properties": list(feature_properties),
    }
    # Without out_channels PyTorch Geometric sets it to hidden_channels, and only a last GAT layer tells.
    if model.jk_mode is not None or getattr(model, "_is_conv_to_out", False) or model.out_channels != model.hidden_channels:
        out["out_channels"] = model.out_channels
    out.update(norms(model))
    out.update(layers(conv, out["model_type"]))
    return out


def norms(model):
    """What stands between the layers."""
    norm = model.norms[0] if len(model.norms) else None
    kind = type(norm).__name__
    if norm is None or kind == "Identity":
        return {}
    if kind == "BatchNorm":
        return {"norm": "batch_norm", "norm_eps": norm.module.eps}
    if kind == "LayerNorm":
        return {"norm": "layer_norm", "norm_mode": norm.mode, "norm_eps": norm.eps}
    raise ValueError(f"Sidebolt does not compute {kind}: use BatchNorm or LayerNorm")


def layers(conv, model_type):
    """What all layers have in common."""
    if model_type == "graphsage":
        aggr = conv.aggr if isinstance(conv.aggr, str) else type(conv.aggr_module).__name__
        names = {"mean": "mean", "MeanAggregation": "mean", "sum": "sum", "add": "sum", "SumAggregation": "sum", "max": "max",
                 "MaxAggregation": "max"}
        if aggr not in names:
            raise ValueError(f"Sidebolt does not compute the aggregation {aggr}: use mean, sum or max")
        return {"aggr": names[aggr], "normalize": conv.normalize, "project": conv.project, "root_weight": conv.root_weight}
    if model_type == "gcn":
        if conv.improved or not conv.normalize or not conv.add_self_loops:
            raise ValueError("Sidebolt computes GCNConv with its default improved, normalize and add_self_loops only")
        return {}
    if conv.fill_value != "mean":
        raise ValueError("Sidebolt computes attention with fill_value='mean' only")
    out = {
        "heads": conv.heads,
        "concat": conv.concat,
        "negative_slope": conv.negative_slope,
        "residual": bool(getattr(conv, "residual", False)),
        "add_self_loops": conv.add_self_loops,
    }
    if conv.edge_dim is not None:
        out["edge_dim"] = conv.edge_dim
    return out


def export(model, folder, feature_properties=(), orientation="natural"):
    """Writes the folder."""
    config = configuration(model, feature_properties, orientation)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return config


if __name__ == "__main__":
    raise SystemExit(__doc__)
