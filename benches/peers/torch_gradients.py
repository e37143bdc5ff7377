"""The embeddings and gradients of one whole step beside PyTorch's in 64 bits: from the same weights and images.

A ReLU or a maximum flips where its input is within rounding of a tie: medians and percentiles tell.

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
network = torch_networks.build(NETWORK, dropout=False).double()
state = {theirs(name): tensor for name, tensor in tensors.items()}
missing, unexpected = network.load_state_dict(state, strict=False)
assert not unexpected and all("num_batches" in name for name in missing), (missing, unexpected)

found = network(images.permute(0, 3, 1, 2))
torch_networks.loss(NETWORK, found).backward()
print(f"embeddings: largest difference {(found - embeddings).abs().max():.1e}")
errors = []
for name, parameter in network.named_parameters():
    # A bias before a batch norm has no gradient but rounding: measured by its neighbours' size.
    size = parameter.grad.square().mean().sqrt()
    if size < 1e-12:
        print(f"{name:28} no gradient in 64 bits; ours up to {gradients[name].abs().max():.1e}")
        continue
    error = ((gradients[name] - parameter.grad).abs() / size).flatten()
    quantiles = torch.quantile(error, torch.tensor([0.5, 0.9, 0.99], dtype=torch.float64)).tolist()
    print(f"{name:28} median {quantiles[0]:.1e}  90 % {quantiles[1]:.1e}  99 % {quantiles[2]:.1e}")
    errors.append(error)
quantiles = torch.quantile(torch.cat(errors), torch.tensor([0.5, 0.9, 0.99], dtype=torch.float64)).tolist()
what = f"relative error of the gradients of the {NETWORK} network"
print(json.dumps({"what": what, "median": quantiles[0], "p90": quantiles[1], "p99": quantiles[2]}))
