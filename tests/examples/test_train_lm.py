import json
import math
import os
import runpy
import subprocess
import sys

import pytest
import torch

from tests.examples.conftest import EXAMPLES

STEPS = 20
TINY = (
    *("--steps", str(STEPS), "--layers", "1", "--width", "32", "--heads", "2"),
    *("--batch-size", "4", "--context", "32", "--threads", "1"),
)


def train(out, *options):
    from train_lm import main

    main([*TINY, "--out", str(out), *options])
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("train_lm")


@pytest.fixture(scope="module")
def results(out):
    return train(out)


def test_the_default_optimizers_run_in_order(results):
    names = [run["optimizer"] for run in results["runs"]]
    assert names == ["torch-adamw", "gx-adamw", "composed", "factored", "muon"]


def test_environment_and_settings_are_recorded(results):
    environment = results["environment"]
    assert set(environment) == {"python", "torch", "gradtx", "threads", "platform"}
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == 1
    assert results["settings"]["steps"] == STEPS
    assert results["settings"]["seed"] == 0


def test_every_run_has_curves_and_totals(results):
    for run in results["runs"]:
        assert len(run["train_loss"]) == STEPS
        assert run["validation_step"] == list(range(0, STEPS + 1, STEPS // 10))
        assert len(run["validation_loss"]) == len(run["validation_step"])
        assert run["final_train_loss"] == pytest.approx(sum(run["train_loss"][-2:]) / 2)
        assert 0 < run["model_ms"] < 1e3 * run["total_seconds"]
        assert 0 < run["optimizer_ms"] < 1e3 * run["total_seconds"]


def test_losses_are_finite_and_fall(results):
    for run in results["runs"]:
        assert all(map(math.isfinite, run["train_loss"] + run["validation_loss"]))
        assert run["train_loss"][0] == pytest.approx(math.log(256), rel=0.1)
        assert run["validation_loss"][-1] < run["validation_loss"][0] - 0.5


def test_gradtx_adamw_follows_torch_adamw(results):
    reference, ours, composed = results["runs"][:3]
    assert ours["train_loss"] == pytest.approx(reference["train_loss"], abs=1e-3)
    assert ours["validation_loss"] == pytest.approx(reference["validation_loss"], abs=1e-3)
    # The comparison means something only if another optimizer fails it.
    assert composed["train_loss"] != pytest.approx(reference["train_loss"], abs=1e-3)


def test_two_float32_moments_are_counted_as_eight_bytes(results):
    for run in results["runs"][:3]:
        assert run["bytes_per_parameter"] == pytest.approx(8, rel=0.02)


def test_the_others_keep_less(results):
    factored, muon = results["runs"][3:]
    assert factored["bytes_per_parameter"] < muon["bytes_per_parameter"] < 7


def test_the_figure_is_a_png_of_readable_size(results, out):
    from matplotlib.image import imread

    height, width, _ = imread(out / "curves.png").shape
    assert width > 1000
    assert height > 400


def test_the_seed_decides_the_run(results, tmp_path):
    same = train(tmp_path, "--optimizers", "torch-adamw")
    other = train(tmp_path, "--optimizers", "torch-adamw", "--seed", "1")
    reference = results["runs"][0]["train_loss"]
    assert same["runs"][0]["train_loss"] == reference
    assert other["runs"][0]["train_loss"] != reference


def test_any_class_of_gradtx_optim_by_name(tmp_path, capsys):
    results = train(tmp_path, "--optimizers", "gx:AdamW", "--lr", "2e-3")
    assert [run["optimizer"] for run in results["runs"]] == ["gx:AdamW"]
    header, rule, row = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert len(header) == len(rule) == len(row)
    assert row.startswith("gx:AdamW ")


@pytest.mark.parametrize("name", ["adamw", "gx:Missing", "gx:from_transform"])
def test_an_unknown_optimizer_is_refused_before_training(tmp_path, capsys, name):
    with pytest.raises(SystemExit):
        train(tmp_path, "--optimizers", "torch-adamw", name)
    captured = capsys.readouterr()
    assert (
        f"{name!r} is none of torch-adamw, gx-adamw, composed, factored, muon and gx:CLASS"
        in captured.err
    )
    assert captured.out == ""


@pytest.mark.parametrize("missing", ["tqdm", "matplotlib"])
def test_a_missing_extra_says_what_to_install(monkeypatch, missing):
    class Missing:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == missing:
                raise ModuleNotFoundError(f"No module named {name!r}")

    for name in list(sys.modules):
        if name.partition(".")[0] in ("lm", missing):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing, *sys.meta_path])
    said = f"No module named '{missing}': run pip install 'gradtx\\[examples]' first"
    with pytest.raises(SystemExit, match=said):
        runpy.run_path(str(EXAMPLES / "train_lm.py"), run_name="__main__")


def test_output_without_a_terminal_is_plain_lines(tmp_path):
    options = (*TINY, "--optimizers", "torch-adamw", "--out", tmp_path)
    done = subprocess.run(
        [sys.executable, EXAMPLES / "train_lm.py", *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert "\r" not in done.stdout
    assert done.stdout.startswith(f"torch-adamw: {STEPS} steps in ")


def test_a_run_without_a_terminal_says_how_far_it_is(capsys):
    from lm.progress import progress

    assert list(progress(range(4), "name", seconds=0.0)) == list(range(4))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"name: step {n} of 4" for n in (1, 2, 3)]
    assert list(progress(range(4), "name", seconds=60.0)) == list(range(4))
    assert capsys.readouterr().out == ""


def test_threads_sleep_and_are_as_many_as_free_cores(monkeypatch):
    code = "import lm.threads, os; print(os.environ['OMP_WAIT_POLICY'])"
    for policy, expected in ((None, "passive"), ("active", "active")):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        environment |= {"PYTHONPATH": str(EXAMPLES)} | (
            {"OMP_WAIT_POLICY": policy} if policy else {}
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected
    import lm.threads

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for load, free in ((0.0, 8), (2.6, 5), (50.0, 1)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert lm.threads.free_cores() == free


def test_labels_of_near_points_do_not_overlap(tmp_path, monkeypatch):
    import itertools

    from lm import figure
    from lm.training import Run

    runs = [
        Run(name, [2.0, 1.5], [0, 2], [2.0, loss], bytes_per_parameter=size)
        for name, loss, size in (
            *(("AdamW", 1.5, 8.0), ("LDAdam", 1.501, 7.5), ("a long name", 1.499, 7.8)),
            *(("Muon", 1.5, 8.2), ("factored", 1.4, 0.2), ("factored, too", 1.4, 0.21)),
        )
    ]
    kept = []
    monkeypatch.setattr(figure.plt, "close", kept.append)
    figure.save_tradeoff(runs, tmp_path / "tradeoff.png")
    kept[0].canvas.draw()
    axes = kept[0].axes[1]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(runs)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(kept[0].bbox.containsx(b.x0) and kept[0].bbox.containsx(b.x1) for b in boxes)
