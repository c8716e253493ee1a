"""Text: generate and chat."""
import json
import logging
import shutil
import threading

import pytest
from conftest import CHECKPOINT, TEXT

import upg


def test_greedy_equals_the_oracle(exact, oracle):
    for golden in oracle["greedy"]:
        generation = exact.generate(golden["prompt"], max_tokens=len(golden["ids"]))
        text = "".join(generation)
        assert generation.tokens == golden["ids"] and text == golden["text"]
        assert generation.finish_reason == "length"
        assert generation.prompt_tokens == len(golden["prompt_ids"])


def test_pieces(model):
    with model.generate(TEXT, max_tokens=20) as generation:
        pieces = list(generation)
        assert all(pieces) and len(pieces) > 10
        assert "".join(pieces) == model.detokenize(generation.tokens)
        assert next(generation, None) is None


def test_tokens_as_prompt(model):
    prompt = model.tokenize(TEXT)
    for same in (prompt, prompt.tolist(), tuple(prompt.tolist())):
        assert "".join(model.generate(same, max_tokens=8)) == "".join(
            model.generate(TEXT, max_tokens=8))


def test_stop(model):
    whole = "".join(model.generate(TEXT, max_tokens=40))
    stop = whole[len(whole) // 2:][:7]
    generation = model.generate(TEXT, max_tokens=40, stop=["never met", stop])
    assert "".join(generation) == whole.split(stop)[0]
    assert generation.finish_reason == "stop"


def test_seed(model):
    def write(**options):
        generation = model.generate(TEXT, max_tokens=24, temperature=1.0, top_p=0.95, **options)
        return "".join(generation), generation.sampling.seed

    assert write(seed=3) == write(seed=3)
    assert write(seed=3)[0] != write(seed=4)[0]
    text, seed = write()
    assert seed != write()[1] and write(seed=seed)[0] == text


def test_options_reach_the_sampler(model):
    first = model.generate(TEXT, max_tokens=1)
    list(first)
    other = model.generate(TEXT, max_tokens=1, biases={first.tokens[0]: float("-inf")})
    list(other)
    assert other.tokens != first.tokens
    many = model.generate(TEXT, max_tokens=60)
    few = model.generate(TEXT, max_tokens=60, repetition_penalty=1.5)
    assert len("".join(few).split()) and len(set(few.tokens)) > len(set(list(many) and many.tokens))


def test_generation_config_is_the_default(tmp_path):
    folder = tmp_path / "sampled"
    shutil.copytree(CHECKPOINT, folder)
    config = json.loads((folder / "generation_config.json").read_text())
    config.update(do_sample=True, temperature=0.5, top_k=7, top_p=0.25)
    (folder / "generation_config.json").write_text(json.dumps(config))
    with upg.Model.open(folder) as model:
        assert model.sampling == upg.Sampling(temperature=0.5, top_k=7, top_p=0.25)
        sampling = model.generate("a", top_k=0, seed=1).sampling
        assert sampling == upg.Sampling(temperature=0.5, top_k=0, top_p=0.25, seed=1)
        assert list(model.generate(TEXT, temperature=0.0, max_tokens=4)) == list(
            model.generate(TEXT, temperature=0.0, max_tokens=4))


def test_chat(model):
    messages = [{"role": "system", "content": "Answer briefly."},
                {"role": "user", "content": "Who are you?"}]
    generation = model.chat(messages, max_tokens=200)
    text = "".join(generation)
    assert text and "<|im_" not in text
    assert generation.finish_reason == "end" and model.is_end(generation.tokens[-1])
    assert "".join(model.chat("Hello!", max_tokens=5)) == "".join(
        model.chat([{"role": "user", "content": "Hello!"}], max_tokens=5))


def test_control_tokens_in_messages_are_text(model):
    plain = model.chat("<|im_end|>", max_tokens=1)
    trusted = model.chat("<|im_end|>", max_tokens=1, special=True)
    assert plain.prompt_tokens > trusted.prompt_tokens


def test_refused_before_anything_runs(model):
    with pytest.raises(upg.ContextError, match="1024 tokens, the context holds 1024"):
        model.generate([1] * 1024)
    with pytest.raises(upg.DataError, match="empty"):
        model.generate("")
    for bad in ({"top_p": 3.0}, {"max_tokens": -1}, {"stop": ""}, {"context_tokens": -1}):
        with pytest.raises(upg.ArgumentError):
            model.generate(TEXT, **bad)
    with pytest.raises(upg.ArgumentError):
        model.generate([9000])
    with pytest.raises(TypeError):
        model.chat("a", temprature=1.0)


def test_full_context_ends_it(model):
    generation = model.generate([1] * 10, max_tokens=None, context_tokens=16)
    text = "".join(generation)
    assert generation.finish_reason == "context" and len(generation.tokens) == 6
    assert text == model.detokenize(generation.tokens)
    shifted = model.generate([1] * 10, max_tokens=20, context_tokens=16, shift_when_full=True)
    assert list(shifted) and len(shifted.tokens) == 20


def test_cancel_and_close(model):
    generation = model.generate(TEXT, max_tokens=None)
    next(generation)
    generation.cancel()
    assert next(generation, None) is None and generation.finish_reason == "cancelled"
    generation.cancel()
    unused = model.generate(TEXT)
    unused.close()
    assert list(unused) == [] and unused.finish_reason == "cancelled"
    for text in model.generate(TEXT):
        assert text
        break


def test_cancel_from_another_thread(model):
    generation = model.generate(TEXT, max_tokens=None, shift_when_full=True)
    begun = threading.Event()

    def cancel():
        begun.wait()
        generation.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    for _ in generation:
        begun.set()
    thread.join()
    assert generation.finish_reason == "cancelled"


def test_threads_share_a_model(model):
    want = "".join(model.generate(TEXT, max_tokens=16))
    got = [None] * 4

    def write(i):
        got[i] = "".join(model.generate(TEXT, max_tokens=16))

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == [want] * 4


def test_the_device_is_logged(compressed, caplog):
    with caplog.at_level(logging.INFO, "upg"), upg.Model.open(compressed):
        pass
    assert any("runs on cpu" in message for message in caplog.messages)
