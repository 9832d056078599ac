"""Writes the models of Keras beside this file, and expected.json with the values that Keras itself has in them.

    python3 -m venv build/keras3 && build/keras3/bin/pip install keras==3.15.1 jax==0.10.2 h5py==3.16.0
    build/keras3/bin/python test/tools/keras/generate.py
    python3 -m venv build/keras && build/keras/bin/pip install tensorflow-cpu==2.21.0 tf_keras==2.21.0
    CUDA_VISIBLE_DEVICES= build/keras/bin/python test/tools/keras/generate.py

The first run makes files of Keras 3, and what other programs make of them: compressed, or with the newest structures of
HDF5. The second run makes files of Keras 2. A run replaces its own files in expected.json, and keeps the others.
"""

import io
import json
import os
import pathlib
import zipfile

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import numpy as np

try:
    import tf_keras as keras  # Keras 2

    VERSION = "keras2"
except ImportError:
    import keras

    VERSION = "keras3"

FOLDER = pathlib.Path(__file__).parent
layers = keras.layers


def network():
    """Batch norms in models and in a wrapper, two of one name, on another axis, with one of gamma and beta, behind an activation."""
    norm = layers.BatchNormalization
    functional_input = layers.Input([6], name="inside")
    functional = keras.Model(functional_input, norm(name="bn", epsilon=0.2)(functional_input), name="functional_part")
    chain = keras.Sequential(
        [layers.Input([6]), layers.Dense(4, name="dense"), norm(name="of_dense", momentum=0.9)], name="chain"
    )
    x = inputs = layers.Input([8, 6], name="images")
    x = layers.Conv1D(6, 3, padding="same", use_bias=False, name="block/conv" if VERSION == "keras2" else "conv")(x)
    x = norm(name="block/bn" if VERSION == "keras2" else "folds", scale=False)(x)
    x = layers.Conv1D(6, 1, activation="relu", name="pointwise")(x)
    x = norm(axis=1, name="rows")(x)
    x = layers.TimeDistributed(norm(name="wrapped", center=False), name="steps")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    x = functional(x)
    x = norm(name="bn")(x)
    model = keras.Model(inputs, chain(x), name="network")
    random = np.random.default_rng(1)
    for layer in batch_norms(model):
        layer.set_weights([random.uniform(0.5, 2, w.shape).astype(w.dtype) for w in layer.get_weights()])
    return model


def batch_norms(model):
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from batch_norms(layer)
        inner = getattr(layer, "layer", layer)
        if isinstance(inner, layers.BatchNormalization):
            yield inner


def held(layer):
    """The values and options that Keras has in a batch norm."""
    values = {
        name: [float(v) for v in np.asarray(getattr(layer, name)).ravel()]
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
        if getattr(layer, name, None) is not None
    }
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    return {"name": layer.name, "epsilon": layer.epsilon, "momentum": layer.momentum, "axis": axis, **values}


def copied(source, target, **options):
    """Copies a file of HDF5, with other options for datasets that have elements."""

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            extra = options if item.ndim else {}
            if "chunks" in extra:
                # chunks that reach beyond the ends
                extra = {**extra, "chunks": tuple(max(1, (size + 1) // 2) for size in item.shape)}
            made = target.create_dataset(name, data=item[()], **extra)
        else:
            made = target.require_group(name)
        made.attrs.update(item.attrs)

    target.attrs.update(source.attrs)
    source.visititems(visit)


model = network()
path = FOLDER / "expected.json"
expected = json.loads(path.read_text()) if path.exists() else {}
expected[VERSION] = [held(layer) for layer in batch_norms(model)]
if VERSION == "keras2":
    model.save(FOLDER / "keras2.h5")
    model.save_weights(FOLDER / "keras2-weights.h5")
    model.save(FOLDER / "keras2.keras")
else:
    model.save(FOLDER / "keras3.keras")
    model.save(FOLDER / "keras3.h5")
    model.save_weights(FOLDER / "keras3.weights.h5")
    with h5py.File(FOLDER / "keras3.h5") as source:
        with h5py.File(FOLDER / "keras3-gzip.h5", "w") as target:
            copied(source, target, chunks=True, compression="gzip", shuffle=True, fletcher32=True)
    with zipfile.ZipFile(FOLDER / "keras3.keras") as source:
        with zipfile.ZipFile(FOLDER / "keras3-deflated.keras", "w", zipfile.ZIP_DEFLATED) as target:
            for name in source.namelist():
                target.writestr(name, source.read(name))
    small = keras.Sequential(
        [
            layers.Input([3]),
            layers.BatchNormalization(name="half", dtype="float16"),
            layers.BatchNormalization(name="brain", dtype="bfloat16"),
            layers.BatchNormalization(name="double", dtype="float64"),
        ],
        name="types",
    )
    random = np.random.default_rng(2)
    for layer in small.layers:
        layer.set_weights([random.uniform(0.5, 2, w.shape).astype(w.dtype) for w in layer.get_weights()])
    small.save(FOLDER / "types.keras")
    expected["types"] = [held(layer) for layer in batch_norms(small)]
    with zipfile.ZipFile(FOLDER / "types.keras") as archive:
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as source:
            with h5py.File(FOLDER / "types-latest.weights.h5", "w", libver="latest") as target:
                copied(source, target)
    # from nine links on, the newest structures are a heap and a tree
    with h5py.File(FOLDER / "heap.h5", "w", libver="latest") as target:
        for i in range(9):
            target.create_group(f"layer{i}")
path.write_text("{" + ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in expected.items()) + "}\n")
