#!/usr/bin/env python3
"""Perplexity of an exported model through transformers, beside that of the .upg file itself by the
exact backend (fp32, no int8 inputs). They must agree to one part in a thousand: the way out of the
format loses nothing but the rounding to bf16.

usage: export_perplexity.py UPG FILE.upg IDS.npy [WINDOWS]

Needs torch and transformers (pip install torch 'transformers<4.50' numpy). UPG is the program; IDS
holds windows of token ids, [windows][window]."""
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers


def nll_of_transformers(folder, ids):
    """Mean over all but the first token of each window, as `upg eval` scores."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, torch_dtype=torch.float32, attn_implementation="eager").eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for window in torch.from_numpy(ids.astype(np.int64)):
            logits = model(window[None]).logits[0, :-1].double()
            scores = torch.log_softmax(logits, -1).gather(1, window[1:, None])
            total -= float(scores.sum())
            count += len(scores)
    return total / count


def main():
    program, path, ids_path = sys.argv[1:4]
    n_windows = int(sys.argv[4]) if len(sys.argv) > 4 else 16
    ids = np.load(ids_path)[:n_windows]
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "exported"
        subprocess.run([program, "export", path, exported, "--quiet"], check=True)
        theirs = nll_of_transformers(exported, ids)
    done = subprocess.run([program, "eval", path, "--ids", ids_path, "--windows", str(len(ids)),
                           "--device", "ref", "--json", "--quiet"],
                          check=True, capture_output=True, text=True)
    ours = json.loads(done.stdout)["nll"]
    ratio = math.exp(theirs - ours)
    print(f"{Path(path).name}, {len(ids)} windows of {ids.shape[1]} tokens; "
          f"transformers {transformers.__version__}, torch {torch.__version__}")
    print(f"perplexity of the file, exact backend       {math.exp(ours):.5f}")
    print(f"perplexity of its export, transformers fp32 {math.exp(theirs):.5f}")
    print(f"ratio                                       {ratio:.6f}")
    return 0 if abs(ratio - 1) <= 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
