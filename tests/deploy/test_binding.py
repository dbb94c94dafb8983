"""Bound buffers on the CPU: the branches that a GPU shares with it."""

import threading

import numpy as np
import pytest

pytest.importorskip("onnx")

from graphs import make_double, make_finder

from visuomotor.deploy.runtime import pinned
from visuomotor.deploy.runtime import session as session_module
from visuomotor.deploy.runtime.binding import BindingError
from visuomotor.deploy.runtime.device import DeviceError, find_obstacle
from visuomotor.deploy.runtime.session import Session, make_session
from visuomotor.deploy.runtime.tuning import Tuning


@pytest.fixture(scope="module")
def double() -> Session:
    return make_session(make_double(), "cpu")


def make_arrays(rows: int, value: float) -> dict[str, np.ndarray]:
    return {"x": np.full((rows, 3), value, np.float32), "k": np.full((rows, 3), int(value), np.int64)}


def test_bound_calls_compute_what_plain_ones_do(double: Session):
    assert double.bindable
    binding = double.bind(rows=4)
    for value in (1.0, 5.0, -2.0):
        inputs = make_arrays(4, value)
        found, expected = binding.run(inputs), double.run(inputs)
        assert found.keys() == expected.keys() == {"y", "n"}
        for name in found:
            assert found[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(found[name], expected[name])


def test_outputs_are_the_callers_own(double: Session):
    binding = double.bind(rows=2)
    first = binding.run(make_arrays(2, 1.0))
    second = binding.run(make_arrays(2, 7.0))
    assert (first["y"] == 2.0).all()  # what is held across calls stays
    assert (second["y"] == 14.0).all()
    first["y"][...] = -1.0  # and may be written to
    assert (binding.run()["y"] == 14.0).all()
    plain = double.run(make_arrays(2, 1.0))
    double.run(make_arrays(2, 7.0))
    assert (plain["y"] == 2.0).all()


def test_inputs_stay_at_their_addresses_and_can_be_written_in_place(double: Session):
    binding = double.bind(rows=2)
    addresses = {name: array.ctypes.data for name, array in binding.inputs.items()}
    given = make_arrays(2, 3.0)
    binding.run(given)
    given["x"][...] = 100.0  # the buffers hold a copy
    assert (binding.run()["y"] == 6.0).all()
    binding.inputs["x"][...] = 4.0
    assert (binding.run()["y"] == 8.0).all()
    assert {name: array.ctypes.data for name, array in binding.inputs.items()} == addresses
    assert all(address % 4096 == 0 for address in addresses.values())


def test_each_set_of_shapes_has_its_own_buffers(double: Session):
    small, large = double.bind(rows=1), double.bind(rows=5)
    assert small.run(make_arrays(1, 2.0))["y"].shape == (1, 3)
    assert large.run(make_arrays(5, 3.0))["y"].shape == (5, 3)
    assert (small.run()["y"] == 4.0).all()


def test_wrong_inputs_are_named_and_leave_the_buffers_alone(double: Session):
    binding = double.bind(rows=2)
    binding.run(make_arrays(2, 3.0))
    good = make_arrays(2, 9.0)
    for wrong, message in (
        ({"x": good["x"]}, r"inputs: expected \['k', 'x'\], got \['x'\]"),
        ({**good, "z": good["x"]}, "inputs: expected"),
        ({**good, "k": good["k"].astype(np.int32)}, r"input k: expected int64 \(2, 3\), got int32 \(2, 3\)"),
        ({**good, "k": good["k"][:1]}, r"input k: expected int64 \(2, 3\), got int64 \(1, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            binding.run(wrong)
    assert (binding.run()["y"] == 6.0).all()


@pytest.mark.parametrize(("sizes", "found"), [({}, "nothing"), ({"row": 2}, "nothing"), ({"rows": 0}, "0")])
def test_a_free_dimension_needs_a_size(double: Session, sizes: dict, found: str):
    with pytest.raises(BindingError, match=rf"expected a size of at least 1 for 'rows', got {found}"):
        double.bind(**sizes)


def test_a_shape_that_depends_on_the_data_cannot_be_bound():
    session = make_session(make_finder(), "cpu")
    assert not session.bindable
    with pytest.raises(BindingError, match=r"found: shape \[1, 'many'\]"):
        session.bind()
    assert session.run({"x": np.array([0, 1, 1], np.float32)})["found"].tolist() == [[1, 2]]


def test_a_binding_that_computes_something_else_is_refused(double: Session, monkeypatch: pytest.MonkeyPatch):
    plain = double._run_plain
    monkeypatch.setattr(double, "_run_plain", lambda inputs: {n: v + 1 for n, v in plain(inputs).items()})
    with pytest.raises(BindingError, match="y: a bound call computes something else than a plain one"):
        double.bind(rows=2)


def test_run_takes_the_buffers_that_fit_and_does_without_where_none_do(monkeypatch: pytest.MonkeyPatch):
    session = make_session(make_double(), "cpu")
    session._bindings += [session.bind(rows=2), session.bind(rows=3)]  # as bind itself does on a GPU
    taken: list[int] = []
    for binding in session._bindings:
        rows, run = len(binding.inputs["x"]), binding.run
        monkeypatch.setattr(binding, "run", lambda inputs, rows=rows, run=run: taken.append(rows) or run(inputs))
    for rows in (3, 2, 4, 3):
        assert (session.run(make_arrays(rows, 5.0))["y"] == np.full((rows, 3), 10.0)).all()
    assert taken == [3, 2, 3]


@pytest.mark.parametrize("rows", ["rows", 2])
def test_a_graph_that_is_not_captured_is_refused_unless_its_dimensions_are_free(
    rows: int | str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    real = session_module._open

    def refuse(source: bytes, device: str, threads: int, tuning: Tuning, reason: str) -> Session:
        if tuning.cuda_graph:
            raise DeviceError("device 'cuda' is not to be had: This session cannot use the graph capture feature")
        return real(source, "cpu", threads, tuning, reason)

    monkeypatch.setattr(session_module, "_open", refuse)
    monkeypatch.setattr(session_module, "check_device", lambda device: None)
    if isinstance(rows, int):
        with pytest.raises(DeviceError, match="cannot use the graph capture"):
            make_session(make_double(rows), "cuda", tuning=Tuning(cuda_graph=True))
    else:
        session = make_session(make_double(rows), "cuda", tuning=Tuning(cuda_graph=True))
        assert session.tuning == Tuning()
        assert "no CUDA graph: device 'cuda' is not to be had: This session cannot use the graph capture" in caplog.text


def test_threads_do_not_see_each_others_outputs(double: Session):
    binding, wrong = double.bind(rows=64), []

    def work(value: float) -> None:
        inputs = make_arrays(64, value)
        wrong.extend(value for _ in range(200) if not (binding.run(inputs)["y"] == 2 * value).all())

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_without_a_gpu_nothing_is_pinned_and_no_gpu_memory_is_used():
    if not find_obstacle("cuda"):
        pytest.skip("this machine has a GPU")
    array = pinned.make_buffer((2, 3), "float32")
    assert pinned.pin(array, array) is False
    assert pinned.read_gpu_memory() == 0


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_buffers_have_the_shape_asked_for_and_start_at_zero(shape: tuple):
    buffer = pinned.make_buffer(shape, "int64")
    assert buffer.shape == shape
    assert buffer.flags.writeable
    assert not buffer.any()


class Cuda:
    """Stands where libcudart stands; remembers what was locked."""

    def __init__(self, code: int) -> None:
        self.code, self.locked, self.cleared = code, set(), 0

    def cudaHostRegister(self, address, size, flags):
        if self.code == 0:
            self.locked.add(address.value)
        return self.code

    def cudaHostUnregister(self, address):
        self.locked.remove(address.value)
        return 0

    def cudaGetLastError(self):
        self.cleared += 1
        return self.code


def test_pages_are_unlocked_with_their_owner(monkeypatch: pytest.MonkeyPatch):
    class Owner:
        pass

    cuda, owner = Cuda(0), Owner()
    monkeypatch.setattr(pinned, "_find_runtime", lambda: cuda)
    array = pinned.make_buffer((8,), "float32")
    assert pinned.pin(array, owner)
    assert cuda.locked == {array.ctypes.data}
    del owner
    assert cuda.locked == set()
    refusing = Cuda(712)
    monkeypatch.setattr(pinned, "_find_runtime", lambda: refusing)
    assert not pinned.pin(array, Cuda(0))
    assert refusing.cleared == 1  # the error must not surface in ONNX Runtime's next call
