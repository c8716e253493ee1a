"""Ctrl-C, exceptions in callbacks, and the GIL during calls. No test waits for a clock: signals are
sent from inside the calls that they interrupt."""
import os
import signal
import sys
import threading

import numpy as np
import pytest
from conftest import CHECKPOINT, TEXT

import upg
import upg.session

LONG = [1 + i % 5000 for i in range(1000)]


class Proxy:
    """The library, with something done around one of its functions."""

    def __init__(self, lib, name, function):
        self.lib, self.name, self.function = lib, name, function

    def __getattr__(self, name):
        return self.function if name == self.name else getattr(self.lib, name)


@pytest.fixture(autouse=True)
def python_handles_interrupts():
    """A shell starts background jobs with SIGINT ignored, and Python then leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_prefill_is_cut_short(exact, monkeypatch):
    lib = upg.session.lib

    def prefill(*args):
        interrupt()
        return lib.upg_prefill(*args)

    with exact.session() as s:
        s.prefill(LONG[:3])
        with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
            m.setattr(upg.session, "lib", Proxy(lib, "upg_prefill", prefill))
            s.prefill(LONG[3:])
        assert len(s) < len(LONG)
        s.rewind(3)
        s.prefill(LONG[3:8])
        np.testing.assert_allclose(s.logits, exact.logits(LONG[:8])[-1], rtol=0, atol=1e-4)


def test_interrupt_that_came_too_late(model, monkeypatch):
    """The request to cancel finds the call done: it must not hit the next call."""
    lib = upg.session.lib

    def prefill(*args):
        status = lib.upg_prefill(*args)
        interrupt()
        threading.Event().wait(0.3)  # until the main thread has asked to cancel
        return status

    for again in ("prefill", "step"):
        with model.session() as s:
            with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
                m.setattr(upg.session, "lib", Proxy(lib, "upg_prefill", prefill))
                s.prefill(LONG[:5])
            assert len(s) == 5
            if again == "prefill":
                s.prefill(LONG[5:8])
                assert len(s) == 8
            else:
                s.step()
                assert len(s) == 6


def test_generation_ends(exact, monkeypatch):
    lib = upg.session.lib

    def prefill(*args):
        interrupt()
        return lib.upg_prefill(*args)

    generation = exact.generate(LONG)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(upg.session, "lib", Proxy(lib, "upg_prefill", prefill))
        next(generation)
    assert generation.finish_reason == "cancelled" and list(generation) == []


def test_compress_leaves_nothing(tmp_path):
    def progress(now):
        if now.stage == "encode":
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        upg.compress(CHECKPOINT, tmp_path / "a.upg", calibration="", progress=progress)
    assert list(tmp_path.iterdir()) == []


def test_operations_without_a_callback_are_interrupted(compressed, tmp_path, monkeypatch):
    """The signal comes while the library works; its own progress calls let Python see it."""
    def later():
        begun.wait()
        interrupt()

    begun = threading.Event()
    thread = threading.Thread(target=later)
    thread.start()
    report = upg._hooks.Hooks._on_progress

    def on_progress(self, user, now):
        begun.set()
        thread.join()  # the signal has been sent: the main thread raises it right here
        return report(self, user, now)

    monkeypatch.setattr(upg._hooks.Hooks, "_on_progress", on_progress)
    with pytest.raises(KeyboardInterrupt):
        upg.compress(CHECKPOINT, tmp_path / "a.upg", calibration="")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("operation", ["compress", "verify", "open", "evaluate"])
def test_exceptions_of_callbacks_come_out(operation, compressed, model, tmp_path):
    class Mine(Exception):
        pass

    def progress(now):
        raise Mine(now.stage)

    with pytest.raises(Mine):
        if operation == "compress":
            upg.compress(CHECKPOINT, tmp_path / "a.upg", calibration="", progress=progress)
        elif operation == "verify":
            upg.verify(compressed, progress=progress)
        elif operation == "open":
            upg.Model.open(compressed, verify="now", progress=progress)
        else:
            model.evaluate(LONG[:600], progress=progress)
    assert list(tmp_path.iterdir()) == []


def test_the_gil_is_released(exact):
    """Threads switch only where one gives the GIL up: so this one sees a busy session, and gets to
    cancel, only if a running prefill has given it up."""
    begun, outcome = threading.Event(), []
    session = exact.session()

    def work():
        begun.set()
        try:
            session.prefill(LONG)
        except upg.CancelledError as e:
            outcome.append(e)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        begun.wait()
        busy = False
        while not busy:
            try:
                session.step()
                break  # the prefill is over, and nothing else ran meanwhile
            except upg.StateError:
                pass  # not begun
            except upg.BusyError:
                busy = True
        session.cancel()
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert busy and len(outcome) == 1 and len(session) < len(LONG)
    session.close()


def test_closing_in_the_middle_of_a_call(exact):
    session = exact.session()
    begun = threading.Event()
    failures = []

    def work():
        begun.set()
        try:
            session.prefill(LONG[:50])
        except upg.UpgError as e:
            failures.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    session.close()
    thread.join()
    assert session.closed and all(isinstance(e, upg.StateError) for e in failures)
    assert "".join(exact.generate(TEXT, max_tokens=3))
