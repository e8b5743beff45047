"""Adapters as layers: the same numbers as the functions, frozen models, ranks, PEFT's layout."""

import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

import gradtx as gx

X = gx.adapters


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(6, 8)
        self.down = nn.Linear(8, 6, bias=False)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(11, 6), Block(), Block(), nn.LayerNorm(6), nn.Linear(6, 11))


TOKENS = torch.arange(22).reshape(2, 11) % 11


def loss_of(model):
    return nn.functional.cross_entropy(model(TOKENS).flatten(0, 1), (TOKENS * 3 % 11).flatten())


def train(model, optimizer, steps=8):
    model.train()
    for step in range(steps):
        if X.config_of(model).kind == "dylora":
            X.draw_rank(model, step)
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    return model


def trained(**options):
    model = X.wrap(network(), rank=4, targets=("up", "down"), **options)
    return train(model, gx.optim.AdamW(model.parameters(), lr=1e-2)).eval()


@pytest.mark.parametrize("kind", ["matryoshka", "lora", "dylora"])
def test_layers_and_functions_agree(kind):
    model = trained(kind=kind, alpha=2.0)
    plain = network()
    frozen = {name: p.detach() for name, p in plain.named_parameters()}
    adapters, config = X.get_adapters(model), X.config_of(model)
    for rank in (1, 2, 3, 4):
        X.set_rank(model, rank)
        params = X.apply_adapters(frozen, adapters, config, rank)
        wanted = torch.func.functional_call(plain, params, TOKENS)
        torch.testing.assert_close(model(TOKENS), wanted, rtol=1e-4, atol=1e-5)
    model.train()
    rank = X.draw_rank(model, 5) if kind == "dylora" else None
    params = X.apply_adapters(frozen, adapters, config, rank)
    wanted = torch.func.functional_call(plain, params, TOKENS)
    torch.testing.assert_close(model(TOKENS), wanted, rtol=1e-4, atol=1e-5)


def test_a_new_adapter_changes_nothing():
    plain = network()
    wanted = plain(TOKENS)
    torch.testing.assert_close(X.wrap(plain, rank=3)(TOKENS), wanted)


def test_names_of_frozen_parameters_stay():
    plain = network()
    before = plain.state_dict()
    model = X.wrap(network(), rank=4, targets="up")
    after = model.state_dict()
    assert set(after) - set(before) == {f"{i}.up.{m}" for i in (1, 2) for m in "AB"}
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(after) - set(before)
    other = X.wrap(network(1), rank=4, targets="up")
    other.load_state_dict(after)
    torch.testing.assert_close(other(TOKENS), model(TOKENS))


@pytest.mark.parametrize("name", ["AdamW", "MicroAdam", "AdamW8bit", "Lion", "LDAdamW", "SGD"])
def test_frozen_leaves_have_no_state(name):
    model = X.wrap(network(), rank=4, targets=("up", "down"))
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    make = getattr(gx.optim, name)
    options = {"momentum": 0.9} if name == "SGD" else {}
    groups = [[p for p in model.parameters() if p.requires_grad == yes] for yes in (False, True)]
    optimizer = make([{"params": group} for group in groups], lr=1e-2, **options)
    optimizer.init_state()
    assert len(optimizer.state) == len(groups[1])
    before = loss_of(model)
    train(model, optimizer)
    assert loss_of(model) < before
    named = dict(model.named_parameters())
    assert {id(p) for p in optimizer.state} == {id(p) for p in named.values() if p.requires_grad}
    assert all(torch.equal(named[n], p) for n, p in frozen.items())


def test_muon_takes_the_factors_as_matrices():
    model = X.wrap(network(), rank=4, targets=("up", "down"))
    before = loss_of(model)
    train(model, gx.optim.Muon([p for p in model.parameters() if p.requires_grad], lr=1e-2))
    assert loss_of(model) < before


def test_the_diagonal_is_float32_and_not_saved():
    model = X.wrap(network(), rank=4, targets="up").bfloat16()
    layer = model[1].up
    assert layer.A.dtype == torch.bfloat16
    assert layer.diagonal.dtype == torch.float32
    assert not any("diagonal" in name for name in model.state_dict())
    assert model(TOKENS).dtype == torch.bfloat16
    loss_of(model).backward()
    assert layer.B.grad.isfinite().all()
    twin = copy.deepcopy(model.to("meta"))
    assert twin[1].up.diagonal.device.type == "meta"
    back = twin.to_empty(device="cpu")[1].up
    assert torch.equal(back.diagonal, X.adapter_diagonal(4))


def test_autocast():
    model = X.wrap(network(), rank=4, targets="up")
    wanted = loss_of(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss_of(model)
    assert found.item() == pytest.approx(wanted.item(), rel=0.05)


def test_compiled_layers():
    model = trained(kind="matryoshka").train()
    layer = model[1].up
    x = torch.linspace(-1, 1, 60).reshape(10, 6)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


def test_targets():
    assert [n for n, _ in X.module.adapted_layers(X.wrap(network(), targets="up"))] == [
        "1.up",
        "2.up",
    ]
    model = X.wrap(network(), targets=lambda name: name.startswith("2."))
    assert [n for n, _ in X.module.adapted_layers(model)] == ["2.up", "2.down"]
    assert len(list(X.module.adapted_layers(X.wrap(network())))) == 5
    model = network()
    for targets, words in (("proj", "match none"), (("u", "1"), "match none")):
        with pytest.raises(ValueError, match=f"wrap: targets {words}"):
            X.wrap(model, targets=targets)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="the model has adapters"):
        X.wrap(X.wrap(model, targets="up"), targets="down")


def test_a_layer_in_two_places_has_one_adapter():
    shared = nn.Linear(4, 4)
    model = X.wrap(nn.Sequential(shared, nn.ReLU(), shared), rank=2)
    assert model[0] is model[2]
    assert len(X.get_adapters(model)) == 1
    plain = X.unwrap(model)
    assert plain[0] is plain[2]
    assert type(plain[0]) is nn.Linear


@pytest.mark.parametrize("rank", [None, 1, 3])
def test_unwrapped_models_do_what_they_did(rank):
    model = trained()
    X.set_rank(model, rank)
    wanted = model(TOKENS)
    plain = X.unwrap(model, rank)
    torch.testing.assert_close(plain(TOKENS), wanted, rtol=1e-4, atol=1e-5)
    assert [type(m) for m in plain.modules()] == [type(m) for m in network().modules()]
    assert all(p.requires_grad for p in plain.parameters())
    assert plain.state_dict().keys() == network().state_dict().keys()


def test_ranks_of_evaluation():
    model = trained()
    outputs = []
    for rank in (1, 2, 3, None):
        X.set_rank(model, rank)
        outputs.append(model(TOKENS))
    assert len({out.sum().item() for out in outputs}) == 4
    for bad in (0, 5):
        with pytest.raises(ValueError, match=r"set_rank: rank must be an integer in \[1, 4\]"):
            X.set_rank(model, bad)
    assert model[1].up.rank == 4
    for call in (X.set_rank, X.get_adapters, X.unwrap, X.config_of):
        with pytest.raises(ValueError, match="the model has no adapters"):
            call(network())


def test_a_rank_has_to_be_drawn():
    model = X.wrap(network(), rank=4, kind="dylora", targets=("up", "down"))
    with pytest.raises(ValueError, match="no rank has been drawn"):
        model(TOKENS)
    ranks = {X.draw_rank(model, step) for step in range(30)}
    assert ranks == {1, 2, 4}
    assert len({layer.drawn for _, layer in X.module.adapted_layers(model)}) == 1
    drawn = [X.draw_rank(model, 0, micro) for micro in range(20)]
    assert drawn == [X.dylora_rank((1, 2, 4), 0, micro) for micro in range(20)]
    # Evaluation is at its own rank, and training needs a new draw after it.
    X.draw_rank(model, next(s for s in range(99) if X.dylora_rank((1, 2, 4), s) == 1))
    full = model.eval()(TOKENS)
    X.set_rank(model, 4)
    assert torch.equal(model(TOKENS), full)
    with pytest.raises(ValueError, match="no rank has been drawn"):
        model.train()(TOKENS)
    with pytest.raises(ValueError, match="kind 'matryoshka', not 'dylora'"):
        X.draw_rank(X.wrap(network()), 0)


def test_processes_draw_the_same_ranks():
    code = (
        "import torch, random, gradtx as gx; torch.manual_seed(random.randrange(10**6)); "
        "print([gx.adapters.dylora_rank((1, 2, 4, 8), s, m) for s in range(9) for m in (0, 1)])"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    wanted = [X.dylora_rank((1, 2, 4, 8), s, m) for s in range(9) for m in (0, 1)]
    assert done.stdout.strip() == str(wanted)


def test_columns_above_the_largest_rank_stay():
    with pytest.warns(UserWarning, match="the last 2 of 6 columns get no gradient"):
        model = X.wrap(network(), rank=6, train_ranks=(2, 4), targets="up")
    first = model[1].up.A.detach().clone()
    train(model, gx.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0))
    assert torch.equal(model[1].up.A[:, 4:], first[:, 4:])
    assert not torch.equal(model[1].up.A[:, :4], first[:, :4])
    assert not model[1].up.B[4:].any()


def test_adapters_can_be_loaded():
    model, other = trained(), X.wrap(network(), rank=4, targets=("up", "down")).eval()
    X.load_adapters(other, X.get_adapters(model))
    torch.testing.assert_close(other(TOKENS), model(TOKENS))
    some = dict(list(X.get_adapters(model).items())[:2])
    with pytest.raises(ValueError, match="the model has adapters on"):
        X.load_adapters(other, some)
    smaller = {name: X.Adapter(a.A[:, :2], a.B[:2]) for name, a in X.get_adapters(model).items()}
    with pytest.raises(ValueError, match="have rank 2, config says 4"):
        X.load_adapters(other, smaller)


# -- the layout of PEFT ------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["none", "rank", "sqrt"])
@pytest.mark.parametrize("rank", [1, 3, 4])
def test_round_trip(scaling, rank, tmp_path):
    model = trained(scaling=scaling, alpha=1.5)
    X.set_rank(model, rank)
    wanted = model(TOKENS)
    X.save_peft(model, tmp_path, rank)
    adapters, config = X.from_peft(*X.peft.read_peft(tmp_path))
    assert (config.rank, config.kind) == (rank, "lora")
    assert config.scale(rank) == pytest.approx(X.config_of(model).scale(rank))
    frozen = {name: p.detach() for name, p in network().named_parameters()}
    params = X.apply_adapters(frozen, adapters, config)
    found = torch.func.functional_call(network(), params, TOKENS)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    again = X.wrap(
        network(), rank, "lora", None, ("up", "down"), config.scaling, config.alpha
    ).eval()
    X.load_peft(again, tmp_path)
    torch.testing.assert_close(again(TOKENS), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="load_peft: the file has rank"):
        X.load_peft(X.wrap(network(), 7, "lora", None, ("up", "down")), tmp_path)


def test_tensors_have_the_other_layout():
    tensors, settings = X.to_peft(X.get_adapters(trained()), X.AdapterConfig(4), 2)
    assert tensors["base_model.model.1.up.lora_A.weight"].shape == (2, 6)
    assert tensors["base_model.model.1.up.lora_B.weight"].shape == (8, 2)
    assert (settings["r"], settings["lora_alpha"], settings["use_rslora"]) == (2, 1, True)
    assert settings["target_modules"] == ["1.up", "1.down", "2.up", "2.down"]
    with pytest.raises(ValueError, match=r"to_peft: rank must be an integer in \[1, 4\]"):
        X.to_peft({}, X.AdapterConfig(4), 5)


PAIR = {"a.lora_A.weight": torch.ones(2, 3), "a.lora_B.weight": torch.ones(5, 2)}
GOOD = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}


@pytest.mark.parametrize(
    ("tensors", "settings", "words"),
    [
        (PAIR, GOOD | {"peft_type": "IA3"}, "peft_type must be 'LORA', got 'IA3'"),
        (PAIR, GOOD | {"use_dora": True}, "cannot take use_dora=True"),
        (PAIR, GOOD | {"init_lora_weights": "pissa_niter_4"}, "cannot take init_lora_weights"),
        (PAIR, GOOD | {"rank_pattern": {"a": 3}}, "cannot take rank_pattern"),
        (PAIR, GOOD | {"r": 3}, "'a' has shapes .* r is 3"),
        ({"a.lora_A.weight": torch.ones(2, 3)}, GOOD, "'a' has one factor only"),
        (
            PAIR | {"a.lora_embedding_A": torch.ones(2)},
            GOOD,
            "'a.lora_embedding_A' is no factor of a linear layer",
        ),
    ],
)
def test_what_cannot_be_read(tensors, settings, words):
    with pytest.raises(ValueError, match=f"from_peft: {words}"):
        X.from_peft(tensors, settings)


def test_of_two_files_that_is_read_which_peft_reads(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model = trained()
    X.save_peft(model, tmp_path)
    tensors, _ = X.peft.read_peft(tmp_path)
    newer = {name: 2 * x for name, x in tensors.items()}
    safetensors.save_file(newer, tmp_path / "adapter_model.safetensors")
    got, _ = X.peft.read_peft(tmp_path)
    assert all(torch.equal(got[name], newer[name]) for name in newer)
    with pytest.raises(ValueError, match=r"save_peft: .* has adapter_model.safetensors"):
        X.save_peft(model, tmp_path)


@pytest.mark.parametrize("scaling", ["none", "rank", "sqrt"])
def test_peft_gives_the_same_logits(scaling, tmp_path):
    peft = pytest.importorskip("peft")
    model = trained(scaling=scaling)
    for rank in (1, 3, 4):
        X.set_rank(model, rank)
        X.save_peft(model, tmp_path / str(rank), rank)
        theirs = peft.PeftModel.from_pretrained(network(), tmp_path / str(rank)).eval()
        torch.testing.assert_close(theirs(TOKENS), model(TOKENS), rtol=1e-4, atol=1e-5)


def test_an_adapter_of_peft_can_be_read(tmp_path):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["up", "down"], init_lora_weights=False
    )
    theirs = peft.get_peft_model(network(), settings).eval()
    theirs.save_pretrained(tmp_path)
    model = X.wrap(network(), 3, "lora", None, ("up", "down"), "rank", alpha=5.0).eval()
    X.load_peft(model, tmp_path)
    torch.testing.assert_close(model(TOKENS), theirs(TOKENS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["matryoshka", "lora"])
def test_encoder_layers_of_torch_call_their_adapters(kind):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = X.wrap(nn.TransformerEncoder(layer, 2), rank=4, kind=kind)
    for name, p in model.named_parameters():
        if name.endswith("B"):
            nn.init.normal_(p)
    x, padding = torch.randn(2, 3, 8), torch.tensor([[False, False, True], [False] * 3])
    X.set_rank(model.eval(), 2)
    plain = X.unwrap(copy.deepcopy(model), 2).eval()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(model(x), plain(x))
            got = model(x, src_key_padding_mask=padding)
            want = plain(x, src_key_padding_mask=padding)
            torch.testing.assert_close(got[~padding], want[~padding])


def test_unwrap_leaves_tied_weights_of_other_layers_alone():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.head.weight = self.tokens.weight

        def forward(self, x):
            return self.head(self.tokens(x))

    torch.manual_seed(0)
    model, x = X.wrap(Tied(), rank=2).eval(), torch.arange(5)
    nn.init.normal_(model.head.B)
    want, before = model(x), model.tokens.weight.clone()
    model = X.unwrap(model)
    torch.testing.assert_close(model(x), want)
    assert torch.equal(model.tokens.weight, before)
    assert all(p.requires_grad for p in model.parameters())


def test_computed_weights_are_not_wrapped():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    torch.nn.utils.prune.random_unstructured(model[1], "weight", 0.5)
    with pytest.raises(ValueError, match="'1' computes its weight"):
        X.wrap(model, rank=2)
    assert all(p.requires_grad for p in model.parameters())
    assert type(X.wrap(model, rank=2, targets="0")[1]) is nn.Linear


def test_bad_peft_tensors():
    settings = {"peft_type": "LORA", "r": 2}
    conv = {"c.lora_A.weight": torch.ones(2, 3, 3, 3), "c.lora_B.weight": torch.ones(4, 2, 1, 1)}
    with pytest.raises(ValueError, match="'c' has factors of shapes"):
        X.from_peft(conv, settings)
    with pytest.raises(ValueError, match="there are no tensors"):
        X.from_peft({}, settings)
    pair = {"c.lora_A.weight": torch.ones(2, 3), "c.lora_B.weight": torch.ones(4, 2)}
    with pytest.raises(ValueError, match="r is None"):
        X.from_peft(pair, {"peft_type": "LORA"})
