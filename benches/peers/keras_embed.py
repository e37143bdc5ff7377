"""Inference of the original's network beside Keras', the framework it was written in.

Usage: python3 benches/peers/keras_embed.py
"""

import turns

turns.in_environment("keras", ["tensorflow-cpu"])

import os
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import tensorflow as tf

tf.config.threading.set_intra_op_parallelism_threads(turns.THREADS)
BATCH, BATCHES = 96, 12


def network():
    layers = [keras.Input((64, 64, 3))]
    for outputs, pool in [(32, True), (64, True), (128, False)]:
        layers += [keras.layers.Conv2D(outputs, 3, padding="same", activation="relu")]
        layers += [keras.layers.BatchNormalization()]
        layers += [keras.layers.MaxPooling2D()] if pool else []
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(256, activation="relu")]
    layers += [keras.layers.Dropout(0.3), keras.layers.Dense(128, activation="tanh")]
    return keras.Sequential(layers)


def peer(by_xla):
    model = network()
    forward = tf.function(lambda x: model(x, training=False), jit_compile=by_xla)
    images = tf.random.uniform((BATCH, 64, 64, 3))

    def run(batches=BATCHES):
        start = time.perf_counter()
        for _ in range(batches):
            forward(images).numpy()
        return batches * BATCH / (time.perf_counter() - start)

    run(2)
    return run


ours = turns.Ours("original", BATCH)
ours.seconds("infer 2")
peers = {"Keras": peer(False), "Keras by XLA": peer(True)}
turns.compare("inference of the original network", lambda: ours.speed("infer", BATCHES), peers)
