"""Compares inference with PyTorch.

Usage: python3 benches/peers/torch_embed.py [original|residual [BATCH]]
"""

import turns

turns.in_environment("torch", ["torch", "numpy", "safetensors"])

import time

import torch
import torch_networks

torch.set_num_threads(turns.THREADS)
NETWORK, BATCH = turns.network_and_batch()
BATCHES = 12


def peer(layout, compiled):
    network = torch_networks.build(NETWORK).to(memory_format=layout).eval()
    side = turns.SIDES[NETWORK]
    images = torch.rand(BATCH, 3, side, side).contiguous(memory_format=layout)
    forward = torch.compile(network) if compiled else network

    def run(batches=BATCHES):
        start = time.perf_counter()
        with torch.inference_mode():
            for _ in range(batches):
                forward(images)
        return batches * BATCH / (time.perf_counter() - start)

    run(2)
    return run


ours = turns.Ours(NETWORK, BATCH)
ours.seconds("infer 2")
peers, compiled = torch_networks.in_both_layouts(peer)
turns.compare(f"inference of the {NETWORK} network", lambda: ours.speed("infer", BATCHES), peers, compiled)
