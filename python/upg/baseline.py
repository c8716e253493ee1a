"""A decoder layer in NumPy, as a plain Python user would write it: decode a matrix of the .upg file
to dense f32, multiply, next matrix. What upg's own speed is compared with, and a model's whole
forward pass to check it against.

    file = reference.read("model.upg")
    baseline.logits(file, tokens)              # f32 [n][vocab_size]

As a script, it measures one layer while one token is decoded:
    python -m upg.baseline FILE [--layer N] [--repeat N] [--json]
    python -m upg.baseline --phi4              a layer of Phi-4's shape with random codes

Weights are used in the rotated basis, where decoding is cheapest, and the inputs are rotated."""
from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from . import reference

F32 = npt.NDArray[np.float32]
MATRICES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
hadamard = functools.lru_cache(maxsize=4)(reference.hadamard)
signs = functools.lru_cache(maxsize=64)(reference.signs)


@dataclass(frozen=True)
class Shape:
    """The fields of config.json that the mathematics needs."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    rotary_dims: int
    rope_theta: float
    norm_eps: float

    @classmethod
    def of(cls, config: dict[str, Any]) -> Shape:
        """ValueError for what this baseline leaves out: longrope, sliding windows."""
        if config.get("rope_scaling") or config.get("sliding_window"):
            raise ValueError("the baseline knows neither longrope nor sliding windows")
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        head_dim = config.get("head_dim") or hidden // heads
        return cls(hidden, heads, config.get("num_key_value_heads") or heads, head_dim,
                   int(head_dim * config.get("partial_rotary_factor", 1.0)),
                   config.get("rope_theta", 10000.0), config["rms_norm_eps"])


class Source(Protocol):
    """Where a layer's weights come from."""

    def matrix(self, name: str) -> F32:
        """[rows][columns] in the rotated basis."""

    def rotate(self, name: str, x: F32) -> F32:
        """Inputs [n][columns] of that matrix in the rotated basis."""

    def outliers(self, name: str) -> F32 | None:
        """What is added to that matrix in the original basis, [rows][columns]."""

    def dense(self, name: str) -> F32:
        """A norm's weights."""


class Decoding:
    """The layer's matrices, decoded by upg.reference each time they are used."""

    def __init__(self, file: reference.File, prefix: str) -> None:
        self.file = file
        self.prefix = prefix

    def matrix(self, name: str) -> F32:
        return self.file.matrix(f"{self.prefix}{name}.weight", rotated=True)

    def rotate(self, name: str, x: F32) -> F32:
        entry = self.file.entry(f"{self.prefix}{name}.weight")
        return rotate(x, int(entry["seed"], 16), entry["block"])

    def outliers(self, name: str) -> F32 | None:
        added = self.file.outliers(f"{self.prefix}{name}.weight")
        return None if added is None else added.astype(np.float32)

    def dense(self, name: str) -> F32:
        return self.file.dense(f"{self.prefix}{name}.weight")


class Kept:
    """The matrices of another source, decoded once."""

    def __init__(self, source: Source) -> None:
        self.rotate, self.dense = source.rotate, source.dense
        self.kept = {name: source.matrix(name) for name in MATRICES}
        self.added = {name: source.outliers(name) for name in MATRICES}

    def matrix(self, name: str) -> F32:
        return self.kept[name]

    def outliers(self, name: str) -> F32 | None:
        return self.added[name]


class Random:
    """Phi-4's shape with random codes at the rates of its benchmark mix."""

    shape = Shape(5120, 40, 10, 128, 128, 250000.0, 1e-5)
    codes = [
        {"k0": 3, "k1": 3, "length": 12, "gain": 0.005368,
         "taps": [-79, 101, 47, 31, 23, 29, -61, 11, -43, -83, -89, 47]},
        {"k0": 3, "k1": 4, "length": 12, "gain": 0.005451,
         "taps": [79, -103, -47, 31, 11, 37, -67, 53, 67, -89, -53, -31]},
    ]
    sizes = {"self_attn.q_proj": (5120, 5120, 0), "self_attn.k_proj": (1280, 5120, 0),
             "self_attn.v_proj": (1280, 5120, 0), "self_attn.o_proj": (5120, 5120, 1),
             "mlp.gate_proj": (17920, 5120, 0), "mlp.up_proj": (17920, 5120, 0),
             "mlp.down_proj": (5120, 17920, 1)}

    def __init__(self) -> None:
        random = np.random.default_rng(1)
        self.words = {}
        for name, (rows, columns, code) in self.sizes.items():
            n_binary = int(reference.newest(self.codes[code], rows)[-1]) + 1
            n = columns // 32 * -(-n_binary // 16) * 16
            self.words[name] = random.integers(0, 1 << 32, n, np.uint32)

    def matrix(self, name: str) -> F32:
        rows, columns, code = self.sizes[name]
        scales = np.full(rows, 0.02, np.float16)
        return reference.decode([[0, rows, code]], self.codes, self.words[name], scales, columns)

    def rotate(self, name: str, x: F32) -> F32:
        return rotate(x, 7, 512 if name == "mlp.down_proj" else 1024)

    def outliers(self, name: str) -> F32 | None:
        return None

    def dense(self, name: str) -> F32:
        return np.ones(self.shape.hidden, np.float32)


# ---- mathematics --------------------------------------------------------------------------------
def rotate(x: F32, seed: int, block: int) -> F32:
    """x' = H D x / sqrt(B) of docs/FORMAT.md, for each row."""
    signed = x * signs(seed, x.shape[1])
    return (signed.reshape(-1, block) @ hadamard(block)).reshape(x.shape)


def rms_norm(x: F32, weight: F32, eps: float) -> F32:
    return (x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps))) * weight


def turn(x: F32, positions: npt.NDArray[Any], shape: Shape) -> F32:
    """Rotary position embedding of [heads][n][head_dim]."""
    half = shape.rotary_dims // 2
    frequency = shape.rope_theta ** (-np.arange(half) / half)
    angle = positions[:, None] * frequency
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    a, b, rest = np.split(x, [half, 2 * half], axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


class Cache:
    """Keys and values of one layer: f32 [kv_heads][n][head_dim]."""

    def __init__(self, shape: Shape) -> None:
        self.k = self.v = np.zeros((shape.kv_heads, 0, shape.head_dim), np.float32)


def attention(q: F32, cache: Cache, shape: Shape) -> F32:
    """Causal attention of the last n positions: [n][heads * head_dim]."""
    group, n, total = shape.heads // shape.kv_heads, q.shape[1], cache.k.shape[1]
    k, v = np.repeat(cache.k, group, axis=0), np.repeat(cache.v, group, axis=0)
    scores = q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(shape.head_dim))
    later = np.arange(total) > (total - n + np.arange(n))[:, None]
    scores = np.where(later, np.float32(-np.inf), scores)
    weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weight /= weight.sum(axis=-1, keepdims=True)
    return (weight @ v).transpose(1, 0, 2).reshape(n, -1)


def layer(x: F32, source: Source, cache: Cache, shape: Shape) -> F32:
    """One decoder layer on the next n positions: f32 [n][hidden]."""
    def project(name: str, x: F32) -> F32:
        y = source.rotate(name, x) @ source.matrix(name).T
        added = source.outliers(name)
        return y if added is None else y + x @ added.T

    def heads(x: F32, n_heads: int) -> F32:
        return x.reshape(len(x), n_heads, shape.head_dim).transpose(1, 0, 2)

    positions = cache.k.shape[1] + np.arange(len(x))
    normed = rms_norm(x, source.dense("input_layernorm"), shape.norm_eps)
    q = turn(heads(project("self_attn.q_proj", normed), shape.heads), positions, shape)
    k = turn(heads(project("self_attn.k_proj", normed), shape.kv_heads), positions, shape)
    v = heads(project("self_attn.v_proj", normed), shape.kv_heads)
    cache.k = np.concatenate([cache.k, k], axis=1)
    cache.v = np.concatenate([cache.v, v], axis=1)
    x = x + project("self_attn.o_proj", attention(q, cache, shape))
    normed = rms_norm(x, source.dense("post_attention_layernorm"), shape.norm_eps)
    gate, up = project("mlp.gate_proj", normed), project("mlp.up_proj", normed)
    return x + project("mlp.down_proj", gate / (1 + np.exp(-gate)) * up)


def logits(file: reference.File, tokens: npt.NDArray[Any]) -> F32:
    """A whole model on i32 [n] tokens: f32 [n][vocab_size]; row i predicts what follows tokens[i].
    The plain transformer of Phi-3's kind, computed in fp32."""
    config = json.loads(file.part("config"))
    shape = Shape.of(config)
    embedding = file.matrix("model.embed_tokens.weight")
    x = embedding[tokens]
    for i in range(config["num_hidden_layers"]):
        x = layer(x, Decoding(file, f"model.layers.{i}."), Cache(shape), shape)
    x = rms_norm(x, file.dense("model.norm.weight"), shape.norm_eps)
    if config.get("tie_word_embeddings"):
        return x @ embedding.T
    return x @ file.matrix("lm_head.weight").T


# ---- measuring ----------------------------------------------------------------------------------
def median_seconds(call: Callable[[], object], repeat: int) -> float:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def measure(source: Source, shape: Shape, repeat: int = 3) -> dict[str, Any]:
    """Medians in seconds, for one token through one layer:

    python_s        the layer, every matrix decoded by NumPy and multiplied
    decode_s        decoding the seven matrices alone
    dense_s         the layer with dense f32 matrices at hand
    matmul_s        the seven products with dense f32 matrices alone
    parameters      of the seven matrices"""
    kept, random = Kept(source), np.random.default_rng(1)
    x = random.standard_normal((1, shape.hidden), np.float32)
    inputs = {name: random.standard_normal((1, w.shape[1]), np.float32)
              for name, w in kept.kept.items()}
    return {
        "python_s": median_seconds(lambda: layer(x, source, Cache(shape), shape), repeat),
        "decode_s": median_seconds(lambda: [source.matrix(name) for name in MATRICES], repeat),
        "dense_s": median_seconds(lambda: layer(x, kept, Cache(shape), shape), 5 * repeat),
        "matmul_s": median_seconds(
            lambda: [inputs[name] @ w.T for name, w in kept.kept.items()], 5 * repeat),
        "parameters": sum(w.size for w in kept.kept.values()),
        "repeat": repeat,
        "numpy": np.__version__,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="upg.baseline", description="Times a layer in NumPy.")
    parser.add_argument("file", nargs="?", help="a .upg file")
    parser.add_argument("--phi4", action="store_true", help="Phi-4's shape, random codes")
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    args = parser.parse_args()
    if bool(args.file) == args.phi4:
        parser.error("give one of FILE and --phi4")
    if args.phi4:
        result = measure(Random(), Random.shape, args.repeat)
    else:
        file = reference.read(args.file)
        shape = Shape.of(json.loads(file.part("config")))
        result = measure(Decoding(file, f"model.layers.{args.layer}."), shape, args.repeat)
    if args.json:
        json.dump(result, sys.stdout)
        print()
    else:
        for name in ("python", "decode", "dense", "matmul"):
            print(f"{name:8}{1e3 * result[name + '_s']:12.3f} ms")


if __name__ == "__main__":
    main()
