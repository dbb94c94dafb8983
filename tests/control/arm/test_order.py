import numpy as np
import pytest

from visuomotor.control.arm.config import CLASS_NAMES
from visuomotor.control.arm.order import ALL, OrderLine, format_order, parse_order, to_arrays


def test_lines_have_class_count_and_bins_by_turns():
    assert parse_order("red cube, 2 blue cylinders,duck") == (
        OrderLine(class_id=0, count=ALL, bin_index=0),
        OrderLine(class_id=1, count=2, bin_index=1),
        OrderLine(class_id=4, count=ALL, bin_index=0),
    )


@pytest.mark.parametrize("class_id", range(len(CLASS_NAMES)))
@pytest.mark.parametrize("form", ["{}", "{}s", "1 {}", "99 {}s", "  3   {}  "])
def test_every_class_in_every_form_and_case(class_id: int, form: str):
    name = form.format(CLASS_NAMES[class_id])
    for text in (name, name.upper()):
        (line,) = parse_order(text)
        assert line.class_id == class_id
        assert line.count == int(form.split()[0]) if form.strip()[0].isdigit() else line.count == ALL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("green cat", r"unknown part 'green cat'; expected one of red cube, blue cylinder, .*brick"),
        ("red", "unknown part 'red'"),
        ("red cube, 2 red cubes", "'red cube' is named twice"),
        ("0 duck", r"'0 duck': expected a count of 1 to 99, got 0"),
        ("-1 duck", "got -1"),
        ("100 ducks", "got 100"),
        ("1.5 ducks", "expected 'CLASS' or 'COUNT CLASS'"),
        ("2x duck", "expected 'CLASS' or 'COUNT CLASS'"),
        ("7", "expected 'CLASS' or 'COUNT CLASS' separated by commas, got '7'"),
        ("", "expected 'CLASS' or 'COUNT CLASS' separated by commas, got ''"),
        ("duck,, brick", "got '' in 'duck,, brick'"),
    ],
)
def test_a_wrong_order_is_refused_with_what_is_wrong(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_order(text)


def test_arrays_and_text_of_an_order():
    lines = parse_order("2 brick, yellow ball")
    wanted, bin_index = to_arrays(lines)
    assert wanted.dtype == bin_index.dtype == np.int32
    assert wanted.tolist() == [0, 0, 0, ALL, 0, 2]
    assert bin_index.tolist() == [-1, -1, -1, 1, -1, 0]
    assert format_order(lines) == "2 brick, yellow ball"
    assert parse_order(format_order(lines)) == lines
