"""The example of solutions at a tiny size: what it writes, and that its text follows its table."""

import json

TINY = (
    *("--steps", "20", "--second-steps", "5", "--check-every", "5", "--loss", "4.6"),
    *("--layers", "1", "--width", "32", "--batch-size", "4", "--context", "32"),
    *("--seeds", "0", "1", "--optimizers", "SGD", "AdamW", "sparse"),
)


def test_what_is_written(tmp_path):
    from solutions import main

    main([*TINY, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "results.json").read_text())
    all_optimizers_and_seeds_are_measured(found)
    the_sparse_chain_makes_zeros(found)
    the_text_follows_from_the_numbers(found, (tmp_path / "report.txt").read_text())
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def all_optimizers_and_seeds_are_measured(found):
    names = ["SGD", "AdamW", "sparse"]
    assert list(found["steps"]) == names
    assert all(0 < n <= 20 for steps in found["steps"].values() for n in steps)
    assert {"sharpness", "forgetting", "exact zeros", "4-bit error"} < set(found["values"])
    for measure, values in found["values"].items():
        assert [len(values[name]) for name in names] == [2, 2, 2] or "barrier" in measure


def the_sparse_chain_makes_zeros(found):
    zeros = found["values"]["exact zeros"]
    assert min(zeros["sparse"]) > max(zeros["AdamW"]) == 0


def the_text_follows_from_the_numbers(found, text):
    from solutions import QUESTIONS

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
