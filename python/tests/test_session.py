"""Sessions, logits and steps."""
import gc

import numpy as np
import pytest
from conftest import CHECKPOINT, TEXT

import upg


def test_info(model, compressed):
    info = model.info
    assert info.architecture == "Phi3ForCausalLM" and info.device.startswith("cpu")
    assert (info.layers, info.vocab_size, info.context_tokens) == (4, 8192, 1024)
    assert info.file_bytes == compressed.stat().st_size
    assert info.bits_per_parameter == pytest.approx(8 * info.file_bytes / info.parameters)
    assert 8 * info.weight_bytes / info.parameters <= 3.2
    tensors = list(model.tensors())
    assert tensors[0].name == "model.embed_tokens.weight" and tensors[0].shape == (8192, 256)
    assert sum(int(np.prod(t.shape)) for t in tensors) == info.parameters
    assert any(t.relative_error for t in tensors)
    assert model.program.count("\n") >= 24
    assert model.is_end(8191) and not model.is_end(5)


def test_logits_equal_the_oracle(exact, oracle):
    """f32 [n][vocab] of transformers: the likeliest token of every prompt."""
    for prompt in oracle["logits_prompts"]:
        logits = exact.logits(prompt["ids"])
        assert logits.shape == (prompt["length"], 8192) and logits.dtype == np.float32
        assert logits[-1].argmax() == prompt["argmax"]


def test_prefill_writes_into_the_array(model):
    tokens = model.tokenize(TEXT)
    with model.session() as s:
        assert s.prefill(tokens[:4]) is None
        rest = s.prefill(tokens[4:], logits=True)
        assert len(s) == len(tokens)
        np.testing.assert_array_equal(s.logits, rest[-1])
        assert s.prefill([], logits=True).shape == (0, 8192)
    whole = model.logits(tokens)
    assert np.abs(whole[4:] - rest).max() < 1e-3 * np.abs(whole).max()


def test_logits_view_is_no_copy(model):
    with model.session() as s:
        with pytest.raises(upg.StateError, match="no logits"):
            s.logits
        s.prefill(model.tokenize(TEXT))
        view, kept = s.logits, s.logits.copy()
        assert not view.flags.owndata and not view.flags.writeable
        s.step()
        assert np.shares_memory(view, s.logits) and not np.array_equal(view, kept)
        last = view.copy()
    del s
    gc.collect()
    np.testing.assert_array_equal(view, last)  # the memory lives as long as the view
    with model.session(keep_logits=False) as s:
        s.prefill([1])
        with pytest.raises(upg.StateError, match="keep_logits"):
            s.logits


def test_step(model):
    with model.session() as s:
        with pytest.raises(upg.StateError, match="empty"):
            s.step()
        s.prefill(model.tokenize(TEXT))
        logits = s.logits.copy()
        step = s.step(top=3)
        assert step.token == logits.argmax() == step.top[0][0]
        want = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        assert step.logprob == pytest.approx(want[step.token], abs=1e-4)
        assert [t for t, _ in step.top] == np.argsort(-logits, kind="stable")[:3].tolist()
        mask = np.zeros(8192, bool)
        mask[[77, 4711]] = True
        assert s.step(allowed=mask).token in (77, 4711)
        mask[:] = False
        with pytest.raises(upg.ArgumentError, match="allow"):
            s.step(allowed=mask)
        with pytest.raises(upg.ArgumentError, match="bool"):
            s.step(allowed=np.zeros(8, bool))
        with pytest.raises(upg.ArgumentError, match="top_count"):
            s.step(top=9000)


def test_fork_and_rewind(model):
    tokens = model.tokenize(TEXT)
    with model.session() as s:
        s.prefill(tokens)
        with s.fork() as twin, s.fork(3) as short:
            assert len(twin) == len(tokens) and len(short) == 3
            assert [twin.step().token for _ in range(5)] == [s.step().token for _ in range(5)]
        s.rewind(3)
        assert len(s) == 3
        with pytest.raises(upg.StateError):
            s.logits
        for bad in (4, -1, 1 << 40):
            with pytest.raises(upg.ArgumentError):
                s.rewind(bad)
        with pytest.raises(upg.ArgumentError):
            s.fork(4)


def test_decode_many(model):
    """A batch gives what single sessions give; what concerns one session disturbs no other."""
    prompts = [model.tokenize(t) for t in (TEXT, "My dear", "The old house")]
    singles = []
    for p in prompts:
        with model.session() as s:
            s.prefill(p)
            singles.append([s.step().token for _ in range(4)])
    sessions = [model.session() for _ in prompts] + [model.session()]
    for s, p in zip(sessions, prompts):
        s.prefill(p)
    batches = [upg.decode(sessions) for _ in range(4)]
    for i, single in enumerate(singles):
        assert [b[i].token for b in batches] == single
    assert all(isinstance(b[3], upg.StateError) and "empty" in str(b[3]) for b in batches)
    sessions[1].cancel()
    results = upg.decode(sessions[:3])
    assert [isinstance(r, upg.CancelledError) for r in results] == [False, True, False]
    with pytest.raises(upg.ArgumentError, match="the same"):
        upg.decode([sessions[0], sessions[0]])
    with pytest.raises(upg.ArgumentError, match="masks"):
        upg.decode(sessions, allowed=[None])
    for s in sessions:
        s.close()


def test_context_is_never_cut(model):
    with model.session(context_tokens=16) as s:
        with pytest.raises(upg.ContextError, match="17"):
            s.prefill([1] * 17)
        assert len(s) == 0
        s.prefill([1] * 16)
        with pytest.raises(upg.ContextError):
            s.step()
    with model.session(context_tokens=16, shift_when_full=True) as s:
        s.prefill([1] * 16)
        s.step()
        assert len(s) == 9
    with pytest.raises(upg.ArgumentError):
        model.session(context_tokens=1 << 20)
    assert model.session_bytes(kv_int8=True) < model.session_bytes()


def test_bad_arguments(model):
    with model.session() as s:
        for tokens in ([8192], [-1], ["x"]):
            with pytest.raises(upg.ArgumentError):
                s.prefill(tokens)
    for bad in ({"temperature": -1.0}, {"top_p": 2.0}, {"top_k": -1}, {"seed": -1},
                {"biases": {9000: 1.0}}, {"biases": {1: float("nan")}}, {"temperature": "hot"}):
        with pytest.raises(upg.ArgumentError):
            model.session(sampling=upg.Sampling(**bad))


def test_order_of_closing_is_free(compressed):
    model = upg.Model.open(compressed)
    session = model.session()
    model.close()
    session.prefill([1, 2, 3])
    view = session.logits
    session.close()
    session.close()
    assert session.closed and np.isfinite(view).all()
    for call in (session.step, session.fork, session.cancel, lambda: session.logits,
                 lambda: len(session), model.session, lambda: list(model.tensors())):
        with pytest.raises(upg.StateError, match="closed"):
            call()


def test_open_errors(tmp_path, compressed):
    with pytest.raises(upg.NotFoundError):
        upg.Model.open(tmp_path / "none.upg")
    with pytest.raises(upg.DeviceError, match="tpu"):
        upg.Model.open(compressed, device="tpu")
    with pytest.raises(upg.ArgumentError, match="verify"):
        upg.Model.open(compressed, verify="maybe")
    with pytest.raises(upg.ArgumentError):
        upg.Model.open(compressed, threads=-1)
    with pytest.raises(upg.BudgetError):
        upg.Model.open(compressed, max_memory=1000)
    data = compressed.read_bytes()
    (tmp_path / "cut.upg").write_bytes(data[:100000])
    with pytest.raises(upg.UpgError) as e:
        upg.Model.open(tmp_path / "cut.upg")
    assert e.value.code in (upg.Status.FORMAT, upg.Status.CORRUPT)


def test_evaluate(model, oracle):
    ids = np.load(CHECKPOINT / "valid_ids.npy")[:4].ravel()
    seen = []
    with upg.Model.open(CHECKPOINT, device="cpu") as source:
        alone = source.evaluate(ids, progress=seen.append)
        both = model.evaluate(ids, against=source)
    assert alone.windows == 4 and alone.tokens == 4 * 511
    np.testing.assert_allclose(alone.window_nll, oracle["valid"]["window_nll"][:4], rtol=1e-3)
    assert alone.nll == pytest.approx(alone.window_nll.sum() / alone.tokens)
    assert alone.kl_mean is None and seen and seen[-1].done == seen[-1].total
    assert both.against_nll == pytest.approx(alone.nll)
    assert 0 < both.kl_mean < both.kl_p99 and 0.5 < both.top1_agreement < 1
    with pytest.raises(upg.ArgumentError):
        model.evaluate(ids[:100])


def test_synthetic():
    with upg.Model.synthetic("phi4-micro:2", device="cpu") as model:
        assert model.info.layers == 2 and model.logits([1, 2, 3]).shape == (3, 8192)
        with pytest.raises(upg.NotFoundError, match="tokenizer"):
            model.tokenize("a")
    with pytest.raises(upg.ArgumentError, match="phi4-nano"):
        upg.Model.synthetic("phi5")


def test_machine():
    machine = upg.machine()
    assert machine.cores >= 1 and machine.read_gb_s_1 > 0.1 and machine.memory_total > 1 << 28
