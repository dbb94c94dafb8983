"""The shipped networks on a real NVIDIA GPU: nothing falls back, bound and captured calls compute what the CPU does.

Skipped as a whole where there is none; ``benchmarks/gpu.sh`` measures what these tests hold to be right.
"""

import threading

import numpy as np
import pytest

from visuomotor.deploy.runtime.bench_worker import make_inputs
from visuomotor.deploy.runtime.bundle import Bundle, load_bundle
from visuomotor.deploy.runtime.device import PROVIDERS, find_obstacle
from visuomotor.deploy.runtime.session import Session, make_session
from visuomotor.deploy.runtime.tuning import Tuning

pytestmark = pytest.mark.skipif(bool(find_obstacle("cuda")), reason=f"no GPU: {find_obstacle('cuda')}")

BUNDLES = (
    "drive-detector-front",
    "drive-detector-side",
    "drive-forecaster",
    "drive-policy",
    "pick-detector",
    "pick-forecaster",
    "pick-policy",
)
RELATIVE, ABSOLUTE = 2e-3, 2e-3  # float32 without TF32 in both, other orders of summation


def make_cases(bundle: Bundle, count: int) -> list[dict[str, np.ndarray]]:
    first = make_inputs(bundle.meta.inputs, rows=1)
    rng = np.random.default_rng(1)
    cases = [first]
    for _ in range(count - 1):
        cases.append({n: rng.permutation(a.reshape(-1)).reshape(a.shape) for n, a in cases[-1].items()})
    return cases


def check_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        np.testing.assert_allclose(found[name], value, RELATIVE, ABSOLUTE, err_msg=name)


@pytest.fixture(params=BUNDLES)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return load_bundle(request.param)


@pytest.mark.parametrize("graph", [False, True], ids=["launches", "graph"])
def test_a_network_computes_on_the_gpu_what_it_does_on_the_cpu(bundle: Bundle, graph: bool):
    cpu = make_session(bundle, "cpu")
    gpu = make_session(bundle, "cuda", tuning=Tuning(cuda_graph=graph))
    assert gpu.provider == PROVIDERS["cuda"]
    assert sum(gpu.placement[PROVIDERS["cuda"]].values()) > 0
    for case in make_cases(bundle, 4):  # a stale replay would repeat the first
        check_equal(gpu.run(case), cpu.run(case))


def test_auto_takes_the_gpu(bundle: Bundle):
    session = make_session(bundle, "auto")
    assert (session.device, session.provider) == ("cuda", PROVIDERS["cuda"])
    assert "a CUDA device answers" in session.reason


def test_buffers_are_page_locked_and_outputs_are_the_callers_own():
    bundle = load_bundle("drive-policy")
    session = make_session(bundle, "cuda", tuning=Tuning(cuda_graph=True))
    first, second = make_cases(bundle, 2)
    binding = session.bind(**dict.fromkeys(session.free_dimensions, 1))
    assert binding.pinned
    held = binding.run(first)
    copies = {name: value.copy() for name, value in held.items()}
    binding.run(second)
    for name, value in held.items():
        np.testing.assert_array_equal(value, copies[name])


def test_threads_that_share_a_captured_graph_get_their_own_results():
    bundle = load_bundle("drive-policy")
    gpu: Session = make_session(bundle, "cuda", tuning=Tuning(cuda_graph=True))
    cpu = make_session(bundle, "cpu")
    cases = make_cases(bundle, 4)
    expected = [cpu.run(case) for case in cases]
    found: list[list[dict[str, np.ndarray]]] = [[] for _ in cases]
    together = threading.Barrier(len(cases))

    def work(index: int) -> None:
        together.wait()
        found[index] = [gpu.run(cases[index]) for _ in range(50)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, value in zip(found, expected, strict=True):
        assert len(results) == 50
        for result in results:
            check_equal(result, value)
