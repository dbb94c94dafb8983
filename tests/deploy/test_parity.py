import numpy as np
import pytest

from visuomotor.deploy.export.parity import ParityError, check_parity
from visuomotor.deploy.runtime.session import Session, make_session

onnx = pytest.importorskip("onnx")
EDGES = [0.0, -1.0, 1.0, 1e-30, 1e6, -1e6]


@pytest.fixture(scope="module")
def session() -> Session:
    """y = 2 x, n = number of rows (int64)."""
    helper, tensor = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "x"], ["y"]),
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Gather", ["s", "zero"], ["n"]),
        ],
        "double",
        [helper.make_tensor_value_info("x", tensor.FLOAT, ["A", 2])],
        [
            helper.make_tensor_value_info("y", tensor.FLOAT, ["A", 2]),
            helper.make_tensor_value_info("n", tensor.INT64, []),
        ],
        [onnx.numpy_helper.from_array(np.int64(0), "zero")],
    )
    return make_session(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString(), "cpu"
    )


def make_cases() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    cases = [{"x": rng.normal(size=(rows, 2)).astype(np.float32)} for rows in (0, 1, 7)]
    return [*cases, *({"x": np.full((2, 2), value, np.float32)} for value in EDGES)]


def test_equal_functions_pass(session: Session) -> None:
    result = check_parity(lambda c: {"y": 2 * c["x"], "n": np.int64(len(c["x"]))}, session, make_cases())
    assert result.passed
    assert result.cases == 9
    assert result.max_abs_error == 0.0
    assert result.to_meta()["outputs"]["y"]["spread"] == pytest.approx(4e6)


@pytest.mark.parametrize(
    ("y", "n"),
    [
        (lambda x: 2 * x + 0.01 * (np.abs(x) > 0.9), lambda x: len(x)),  # wrong only away from zero
        (lambda x: np.where(x == 1e6, np.nan, 2 * x), lambda x: len(x)),
        (lambda x: 2 * x[:1], lambda x: len(x)),
        (lambda x: 2 * x, lambda x: len(x) + (len(x) == 7)),  # one count off by one in one case
    ],
)
def test_any_disagreement_fails_and_is_named(session: Session, y: object, n: object) -> None:
    result = check_parity(
        lambda c: {"y": y(c["x"]).astype(np.float32), "n": np.int64(n(c["x"]))},  # type: ignore[operator]
        session,
        make_cases(),
    )
    assert not result.passed
    with pytest.raises(ParityError, match=r"export differs from its original over 9 cases: (y|n): max"):
        result.raise_if_failed()


def test_a_graph_that_ignores_its_input_does_not_pass(session: Session) -> None:
    zeros = [{"x": np.zeros((2, 2), np.float32)}] * 3
    result = check_parity(lambda c: {"y": 2 * c["x"], "n": np.int64(2)}, session, zeros)
    assert result.max_abs_error == 0.0
    assert not result.passed


def test_only_a_named_output_may_be_constant(session: Session) -> None:
    zeros = [{"x": np.zeros((2, 2), np.float32)}] * 3
    for free, passed in (((), False), (("n",), False), (("n", "y"), True)):
        result = check_parity(lambda c: {"y": 2 * c["x"], "n": np.int64(2)}, session, zeros, may_be_constant=free)
        assert result.passed == passed
    wrong = check_parity(lambda c: {"y": 2 * c["x"], "n": np.int64(3)}, session, zeros, may_be_constant=("n", "y"))
    assert not wrong.passed


def test_other_output_names_are_refused(session: Session) -> None:
    with pytest.raises(ParityError, match=r"outputs: expected \['z'\], got \['n', 'y'\]"):
        check_parity(lambda c: {"z": c["x"]}, session, make_cases())
