"""The rates of a machine are measured once and kept; a cache that is no use is no error."""

import json

import numpy as np
import pytest

from pullback.backends import BACKENDS
from pullback.costs import rates

CPU = BACKENDS[np.ndarray]


@pytest.fixture(autouse=True)
def _quick_rates(tmp_path, monkeypatch):
    """Small measurements, kept in a folder of this test's own."""
    monkeypatch.setenv("PULLBACK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(rates, "SIDES", {"cpu": 256})
    monkeypatch.setattr(rates, "BYTES", {"cpu": 1 << 16})
    monkeypatch.setattr(rates, "_found", {})


def test_rates_are_measured_once_and_kept(tmp_path, monkeypatch):
    first = rates.matmul_rate(CPU, "float32")
    files = list((tmp_path / "cache").iterdir())
    assert first.amount > 0
    assert "float32" in first.of
    assert len(files) == 1
    monkeypatch.setattr(rates, "_measured_matmul", lambda *_: pytest.fail("measured again"))
    assert rates.matmul_rate(CPU, "float32") is first
    rates._found.clear()  # as in another process
    assert rates.matmul_rate(CPU, "float32") == first


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rate": {"amount": -1, "of": ""}, "facts": {}}', "\0" * 99])
def test_a_corrupt_cache_is_measured_anew(tmp_path, content):
    rates.copy_rate(CPU)
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_text()
    file.write_text(content)
    rates._found.clear()
    assert rates.copy_rate(CPU).amount > 0
    assert json.loads(file.read_text()).keys() == json.loads(whole).keys()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PULLBACK_CACHE_DIR", str(tmp_path / "file" / "folder"))
    assert rates.copy_rate(CPU).amount > 0


def test_rates_depend_on_device_library_and_threads(monkeypatch):
    facts = rates._facts(CPU)
    assert facts.keys() == {"library", "device", "blas", "threads"}
    assert facts["library"] == f"numpy {np.__version__}"


def test_a_device_without_memory_has_no_rate(monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(rates, "_measured_copy", full)
    assert rates.copy_rate(CPU) is None


def test_the_users_cache_folder_is_used_where_none_is_set(tmp_path, monkeypatch):
    monkeypatch.delenv("PULLBACK_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    rates.copy_rate(CPU)
    assert len(list((tmp_path / "user" / "pullback" / "rates").iterdir())) == 1


def test_the_best_of_several_calls_counts(monkeypatch):
    seconds = iter([3.0, 1.0, 2.0, 5.0, 4.0])
    monkeypatch.setattr(type(CPU), "seconds_between", lambda *_: next(seconds))
    assert rates.copy_rate(CPU).amount == 2 * (1 << 16) / 1.0
