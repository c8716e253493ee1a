"""Tokenizer, chat templates and streams against vectors made by Hugging Face's libraries."""
import json

import numpy as np
import pytest
from conftest import CHECKPOINT, DATA, TEXT

import upg


def rows(name):
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def tokenizer():
    with upg.Tokenizer.open(CHECKPOINT) as t:
        yield t


def test_golden_tokens(tokenizer):
    for row in rows("phi4_micro_tokenizer.jsonl"):
        try:
            row["text"].encode()
        except UnicodeEncodeError:
            with pytest.raises(upg.DataError):
                tokenizer.tokenize(row["text"])
            continue
        ids = tokenizer.tokenize(row["text"], special=True)
        assert ids.dtype == np.int32 and ids.tolist() == row["ids"], row["text"]
        assert tokenizer.detokenize(ids) == row["decoded"]
        assert tokenizer.detokenize(ids, skip_special=True) == row["decoded_skip"]


def test_golden_chats(tokenizer):
    own = json.loads((CHECKPOINT / "tokenizer_config.json").read_text())["chat_template"]
    chats = [c for c in json.loads((DATA / "phi4_micro_chat.json").read_text())
             if c["template"] == own]
    assert chats
    for chat in chats:
        for prompt, suffix in ((True, "gen"), (False, "nogen")):
            text = tokenizer.chat_text(chat["messages"], add_generation_prompt=prompt)
            assert text == chat["text_" + suffix]
            ids = tokenizer.chat_tokens(chat["messages"], add_generation_prompt=prompt,
                                        special=True)
            assert ids.tolist() == chat["ids_" + suffix]


def test_golden_streams(tokenizer):
    for row in rows("phi4_micro_streams.jsonl"):
        with upg.TextStream(tokenizer, show_special=True) as stream:
            pieces = [stream.push(t) for t in row["ids"]]
            assert "".join(pieces) + stream.flush() == row["decoded"]


def test_stop_strings_never_leak(tokenizer):
    ids = tokenizer.tokenize("one two three four")
    for stop in ("two three", "e t", "three four", "four"):
        with upg.TextStream(tokenizer, stop=stop) as stream:
            text = ""
            for token in ids:
                text += stream.push(token)
                assert stop[0] not in text[-1:] or "one two three four".startswith(text)
                if stream.stopped:
                    break
            assert stream.stopped and text == "one two three four".split(stop)[0]


def test_large_text_grows_its_buffers(tokenizer):
    text = "\N{PILE OF POO}" * 5000  # many tokens for a character
    assert tokenizer.detokenize(tokenizer.tokenize(text)) == text


def test_special_tokens_only_when_asked(tokenizer):
    plain, special = (tokenizer.tokenize("<|im_end|>", special=s) for s in (False, True))
    assert len(plain) > 1 and special.tolist() == [8191]
    assert len(tokenizer) >= 8192


@pytest.mark.parametrize("tokens", [[10**6], [-1], [0.5], [[1, 2]], ["a"], [2**40]])
def test_bad_tokens(tokenizer, tokens):
    with pytest.raises(upg.ArgumentError):
        tokenizer.detokenize(tokens)


def test_bad_messages(tokenizer):
    for messages in (["hi"], [{"role": "user"}], [{"role": "a\0", "content": "x"}]):
        with pytest.raises(upg.ArgumentError, match=r"messages\[0\]"):
            tokenizer.chat_tokens(messages)
    with pytest.raises(upg.ArgumentError):
        upg.TextStream(tokenizer, stop="")
    with pytest.raises(upg.DataError, match="character 1"):
        tokenizer.tokenize("a\ud800")


def test_missing_and_malformed_files(tmp_path):
    with pytest.raises(FileNotFoundError) as e:
        upg.Tokenizer.open(tmp_path / "none")
    assert e.value.code == upg.Status.NOT_FOUND and e.value.os_errno == 2
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(upg.FormatError):
        upg.Tokenizer.open(tmp_path / "tokenizer.json")
    with pytest.raises(upg.ArgumentError):
        upg.Tokenizer.open("a\0b")


def test_model_tokenizer_goes_with_the_model(compressed):
    model = upg.Model.open(compressed)
    tokenizer, stream = model.tokenizer, upg.TextStream(model.tokenizer)
    ids = tokenizer.tokenize(TEXT)
    model.close()
    model.close()
    assert model.closed and tokenizer.closed
    assert "".join(stream.push(t) for t in ids) + stream.flush() == TEXT
    with pytest.raises(upg.StateError, match="the model is closed"):
        tokenizer.tokenize(TEXT)
    tokenizer.close()
    stream.close()
    stream.close()
