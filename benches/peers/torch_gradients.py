"""Compares the embeddings and gradients of one step with PyTorch in 64 bits, from the same weights and images.

Rounding can flip a ReLU or a maximum whose inputs are nearly tied, so medians and percentiles are compared.

Usage: python3 benches/peers/torch_gradients.py [original|residual [BATCH]]
"""

import turns

turns.in_environment("torch", ["torch", "numpy", "safetensors"])

import json
import tempfile

import torch
import torch_networks
from safetensors.torch import load_file

NETWORK, BATCH = turns.network_and_batch()
NAMES = {"scale": "weight", "offset": "bias", "running_mean": "running_mean", "running_variance": "running_var"}


def theirs(name):
    parts = name.split(".")
    if parts[-2].startswith("norm"):
        parts[-1] = NAMES[parts[-1]]
    return ".".join(parts)


with tempfile.NamedTemporaryFile() as file:
    turns.Ours(NETWORK, BATCH, "--no-dropout").seconds(f"dump {file.name}")
    tensors = {name: tensor.double() for name, tensor in load_file(file.name).items()}
images, embeddings = tensors.pop("images"), tensors.pop("embeddings")
gradients = {theirs(name[9:]): tensors.pop(name) for name in list(tensors) if name.startswith("gradient.")}
state = {theirs(name): tensor for name, tensor in tensors.items()}


def of_torch(kind):
    """Returns embeddings and gradients by PyTorch, computed with the number type `kind`."""
    network = torch_networks.build(NETWORK, dropout=False).to(kind)
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected and all("num_batches" in name for name in missing), (missing, unexpected)
    found = network(images.permute(0, 3, 1, 2).to(kind))
    torch_networks.loss(NETWORK, found).backward()
    return found.detach(), {name: parameter.grad.double() for name, parameter in network.named_parameters()}


def quantiles(error):
    return torch.quantile(error, torch.tensor([0.5, 0.9, 0.99], dtype=torch.float64)).tolist()


(expected, exact), (_, single) = of_torch(torch.float64), of_torch(torch.float32)
print(f"embeddings: largest difference {(expected - embeddings).abs().max():.1e}")
print(f"{'relative error of the gradients':28}  ours: median, 90 %, 99 %      PyTorch in 32 bits")
all_ours, all_single = [], []
for name, gradient in exact.items():
    size = gradient.square().mean().sqrt()
    # The gradient of a bias before a batch norm is 0, except for rounding.
    if size < 1e-12:
        print(f"{name:28}  none in 64 bits; ours up to {gradients[name].abs().max():.1e}")
        continue
    ours, theirs_single = [((found[name] - gradient).abs() / size).flatten() for found in (gradients, single)]
    shown = ["  ".join(f"{value:.1e}" for value in quantiles(error)) for error in (ours, theirs_single)]
    print(f"{name:28}  {shown[0]}     {shown[1]}")
    all_ours.append(ours)
    all_single.append(theirs_single)
ours, peer = quantiles(torch.cat(all_ours)), quantiles(torch.cat(all_single))
what = f"median relative error of the gradients of the {NETWORK} network"
print(json.dumps({"what": what, "ours": ours[0], "peer": peer[0], "ratio": round(ours[0] / peer[0], 2)}))
