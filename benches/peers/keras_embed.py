"""Compares inference of the original project's network with Keras, in which that project was written.

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


def peer(way):
    model = network()
    images = tf.random.uniform((BATCH * BATCHES, 64, 64, 3))
    graph = tf.function(lambda x: model(x, training=False), jit_compile=way == "XLA")

    def run():
        start = time.perf_counter()
        if way == "predict":
            model.predict(images, batch_size=BATCH, verbose=0)
        else:
            for first in range(0, len(images), BATCH):
                graph(images[first : first + BATCH]).numpy()
        return len(images) / (time.perf_counter() - start)

    run()
    return run


ours = turns.Ours("original", BATCH)
ours.seconds("infer 2")
peers = {"Keras predict": peer("predict"), "Keras graph": peer("graph"), "Keras by XLA": peer("XLA")}
compiled = ["Keras graph", "Keras by XLA"]
turns.compare("inference of the original network", lambda: ours.speed("infer", BATCHES), peers, compiled)
