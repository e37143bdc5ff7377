"""Compares complete training steps, with the optimiser, with PyTorch.

Usage: python3 benches/peers/torch_train.py [original|residual [BATCH]]
"""

import turns

turns.in_environment("torch", ["torch", "numpy", "safetensors"])

import time

import torch
import torch_networks

torch.set_num_threads(turns.THREADS)
NETWORK, BATCH = turns.network_and_batch()
STEPS = 8


def peer(layout, compiled):
    network = torch_networks.build(NETWORK).to(memory_format=layout)
    side = turns.SIDES[NETWORK]
    images = torch.rand(BATCH, 3, side, side).contiguous(memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    forward = torch.compile(network) if compiled else network

    def run(steps=STEPS):
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            torch_networks.loss(NETWORK, forward(images)).backward()
            optimizer.step()
        return steps * BATCH / (time.perf_counter() - start)

    run(2)
    return run


ours = turns.Ours(NETWORK, BATCH)
ours.seconds("train 2")
peers, compiled = torch_networks.in_both_layouts(peer)
turns.compare(f"training steps of the {NETWORK} network", lambda: ours.speed("train", STEPS), peers, compiled)
