"""The example of solutions at a tiny size: what it writes, and that its text follows its table."""

import json

import pytest

TINY = (
    *("--steps", "20", "--second-steps", "5", "--check-every", "5", "--loss", "4.6"),
    *("--layers", "1", "--width", "32", "--batch-size", "4", "--context", "32"),
    *("--seeds", "0", "1", "--optimizers", "SGD", "AdamW", "sparse"),
)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    from solutions import main

    out = tmp_path_factory.mktemp("solutions")
    main([*TINY, "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def found(out):
    return json.loads((out / "results.json").read_text())


def test_all_optimizers_and_seeds_are_measured(found):
    names = ["SGD", "AdamW", "sparse"]
    assert list(found["steps"]) == names
    assert all(0 < n <= 20 for steps in found["steps"].values() for n in steps)
    assert {"sharpness", "forgetting", "exact zeros", "4-bit error"} < set(found["values"])
    for measure, values in found["values"].items():
        assert [len(values[name]) for name in names] == [2, 2, 2] or "barrier" in measure


def test_the_sparse_chain_makes_zeros(found):
    zeros = found["values"]["exact zeros"]
    assert min(zeros["sparse"]) > max(zeros["AdamW"]) == 0


def test_the_text_follows_from_the_numbers(found, out):
    from solutions import QUESTIONS

    text = (out / "report.txt").read_text()
    for measure, (low, high) in QUESTIONS.items():
        if measure not in found["values"]:
            continue
        line = next(x for x in found["findings"] if x.startswith(f"  {low} ... {high}: "))
        assert line in text
        order = line.partition(": ")[2].split()
        values = found["values"][measure]
        means = [sum(values[name]) / 2 for name in order[::2]]
        assert means == sorted(means)
        for a, sign, b in zip(order[::2], order[1::2], order[2::2], strict=False):
            assert (sign == "<") == (max(values[a]) < min(values[b]))


def test_the_picture(out):
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
