"""SOAP, Shampoo, DASH and the KL family: preconditioners made of Kronecker factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

import gradtx as gx
from gradtx.core.execution import Execution
from gradtx.core.protocol import Wrapper
from gradtx.precondition import EigenbasisLeaf

from .golden import Tree
from .steppers import Checks, Extra, Meta, Steps, fields, options, per_leaf


def learning_rates(meta: Meta) -> Any:
    """Recorded learning rates by step, which these files keep in ``lr`` itself."""
    rates = meta["hyperparameters"]["lr"]
    return (lambda t: {"lr": rates[t - 1]}) if isinstance(rates, list) else None


def first_rate(h: Mapping[str, Any]) -> float:
    return h["lr"][0] if isinstance(h["lr"], list) else h["lr"]


# -- bases ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class with_bases(Wrapper):
    """A transform whose bases are recorded ones from its first call on.

    Factors are kept in coordinates of the bases, so that they are turned along.
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    bases: Mapping[str, Mapping[int, Tensor]] = field(compare=False)

    def init(self, params: Any) -> Any:
        return self.transform.init(params)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        updates, state = self.update_transform(updates, state, params, extra)
        return updates, self._placed(state, "")

    def _placed(self, node: Any, leaf: str) -> Any:
        if isinstance(node, EigenbasisLeaf):
            if node.step != 1 or leaf not in self.bases or not node.bases:
                return node
            ((olds, factors),) = zip(node.bases, node.factors, strict=True)
            news = [
                self.bases[leaf][k].to(q)
                for k, q in zip(sorted(self.bases[leaf]), olds, strict=True)
            ]
            turns = [q.mT @ new for q, new in zip(olds, news, strict=True)]
            factors = tuple(t.mT @ f @ t for t, f in zip(turns, factors, strict=True))
            return node._replace(bases=(tuple(n[None] for n in news),), factors=(factors,))
        inside = gx.tree.children(node)
        if not inside:
            return node
        new = [self._placed(x, key if key in self.bases else leaf) for key, x in inside]
        return gx.tree.rebuild(node, new)


def recorded_bases(tx: gx.GradientTransformation, extra: Extra) -> gx.GradientTransformation:
    bases: dict[str, dict[int, Tensor]] = {}
    for key, q in extra.items():
        if key.startswith("Q0/"):
            _, side, leaf = key.split("/", 2)
            bases.setdefault(leaf, {})[int(side)] = q
    return with_bases(tx, bases) if bases else tx


def factors_of(state: Any, params: Tree, sides: Callable[[str], tuple[int, ...]]) -> Checks:
    """Factors of leaves that are one block, as they are in the leaves' own coordinates.

    Args:
        state, params: of the chain.
        sides: a leaf's sides that have one.
    """
    found: Checks = {}

    def visit(node: Any, leaf: str | None) -> None:
        if isinstance(node, EigenbasisLeaf):
            if leaf is not None and len(node.bases) == 1:
                for k, q, f in zip(sides(leaf), node.bases[0], node.factors[0], strict=True):
                    found.setdefault(f"factor{k}", {})[leaf] = (q @ f @ q.mT)[0]
            return
        for key, child in gx.tree.children(node) or ():
            visit(child, key if key in params else leaf)

    visit(state, None)
    return found


def soap(meta: Meta, extra: Extra) -> Steps:
    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        (b1, b2), beta = h["betas"], h["shampoo_beta"]
        names = (
            *("eps", "weight_decay", "precondition_frequency", "max_precond_dim", "merge_dims"),
            *("precondition_1d", "normalize_grads", "data_format", "correct_bias"),
        )
        given = {name: h[name] for name in names if name in h}
        return gx.soap(first_rate(h), b1, b2, shampoo_beta=None if beta < 0 else beta, **given)

    def view(state: Any, params: Tree) -> Checks:
        every = options(meta)

        def sides(leaf: str) -> tuple[int, ...]:
            h, most = every[leaf], every[leaf]["max_precond_dim"]
            cut = gx.blocks(
                view="merge_front" if h["merge_dims"] else "keep",
                limit=most,
                channels_last=h["merge_dims"] and h["data_format"] == "channels_last",
            )
            shape = cut.plan(params[leaf].shape).view
            return gx.kronecker_factors(max_dim=most, one_dim=h["precondition_1d"]).of(shape)

        return fields(state, params, exp_avg_sq="nu") | factors_of(state, params, sides)

    return Steps(recorded_bases(per_leaf(meta, build), extra), learning_rates(meta), view=view)


# -- Distributed Shampoo -------------------------------------------------------------------------


def dtype_of(name: str) -> torch.dtype:
    return getattr(torch, name.removeprefix("torch."))


def meta_root(config: Mapping[str, Any]) -> Any:
    """How roots are computed, from a dumped configuration."""
    kind = config["class"]
    if kind == "CoupledNewtonConfig":
        return gx.inverse_roots.coupled_newton(config["max_iterations"], config["tolerance"])
    if kind == "CoupledHigherOrderConfig":
        return gx.inverse_roots.higher_order_newton(
            config.get("order", 3), config["max_iterations"], config["tolerance"]
        )
    stability = config.get("rank_deficient_stability_config", {})
    if stability.get("class") == "PseudoInverseConfig":
        return gx.inverse_roots.evd(
            "pseudo_inverse", stability.get("rank_rtol"), stability.get("rank_atol", 0.0)
        )
    before = stability.get("perturb_before_computation", True)
    return gx.inverse_roots.evd("shift" if before else "shift_then_add", dtype=None)


def meta_powers(given: Mapping[str, Any]) -> dict[int, Any]:
    return {
        int(o): {int(k): v for k, v in e.items()} if isinstance(e, Mapping) else e
        for o, e in given.items()
    }


def distributed_shampoo(meta: Meta, extra: Extra) -> Steps:
    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        (b1, b2), config = h["betas"], h["preconditioner_config"]
        graft, averaging = h["grafting_config"], h["iterate_averaging_config"]
        computed = config["amortized_computation_config"]
        form = {"RootInvKLShampooPreconditionerConfig": "kl"}.get(config["class"], "plain")
        given: dict[str, Any] = {}
        if config["class"].startswith("EigenvalueCorrected"):
            form = "qr" if computed["class"].startswith("QR") else "eigh"
            given["qr_iterations"] = computed.get("max_iterations", 1)
            given["tolerance"] = computed.get("tolerance", 0.0)
            given["one_dim"] = "shampoo"
        else:
            given["root"] = meta_root(computed)
        ignored = config.get("ignored_basis_change_dims", {})
        if graft is not None:
            name = graft["class"].removesuffix("PreconditionerConfig").lower()
            given |= {"grafting": name, "grafting_eps": graft.get("epsilon", 0.0)}
            given["grafting_b2"] = graft.get("beta2", 0.5)
        if averaging is not None:
            given |= {
                "momentum": averaging["momentum"],
                "dampening": averaging["dampening"],
                "nesterov": averaging["use_nesterov"],
            }
        if config.get("use_trace_scaling"):
            given["trace_scaling"] = config["trace_scaling_exponent"]
        target = h["distributed_config"]["target_parameter_dimensionality"]
        most = h["max_preconditioner_dim"]
        start = h["start_preconditioning_step"]
        return gx.shampoo(
            first_rate(h),
            b1,
            b2,
            beta3=None if h["beta3"] in (-1.0, b1) else h["beta3"],
            eps=h["epsilon"],
            weight_decay=h["weight_decay"],
            weight_decay_type=h["weight_decay_type"].lower(),
            peak_lr=h.get("peak_lr"),
            max_preconditioner_dim=None if most == "inf" else most,
            precondition_frequency=h["precondition_frequency"],
            start_preconditioning_step=None if start == -1 else start,
            correct_bias=h["use_bias_correction"],
            target_dims=None if target == "inf" else target,
            form=form,
            exponents=meta_powers(config["inverse_exponent_override"]),
            unturned={int(o): tuple(dims) for o, dims in ignored.items()},
            weighs_squares=not config["drop_weighting_factor_on_gsquare"],
            counts="group",
            **{"grafting": None, "one_dim": "shampoo", **given},
        )

    return Steps(per_leaf(meta, build), learning_rates(meta))


# -- DASH ----------------------------------------------------------------------------------------

RULES = {"SHAMPOO": "shift_and_add", "ABS": "abs", "ABS_ADD": "abs_add", "RELU": "relu"}


def dash_root(h: Mapping[str, Any], scaling: Any) -> Any:
    """How roots are computed, with the published rounding of scales to bfloat16."""
    dtype = dtype_of(h["matmul_dtype"])
    low = None if dtype == torch.float32 else dtype
    if h["inv_root_method"] == "EVD":
        return gx.inverse_roots.evd(RULES[h["evd_heuristic"]])
    if h["inv_root_method"] == "CN":
        return gx.inverse_roots.coupled_newton(
            h["newton_steps"], h["cn_tolerance"], scaling, low, "stack"
        )
    if h["inv_root_method"] == "NDB":
        return gx.inverse_roots.newton_db(h["newton_steps"], scaling, low)
    return gx.inverse_roots.chebyshev(
        h["cbshv_degree"], h["eps_inv_root"], scaling, matmul_dtype=low, rescale=False
    )


def dash_scaling(h: Mapping[str, Any]) -> Any:
    if h["matrix_scaling_type"] == "FRO":
        return gx.inverse_roots.frobenius(torch.bfloat16)
    multi = h["matrix_scaling_type"] == "POWER_ITER_MULTI"
    return gx.inverse_roots.power_iteration(
        h["matrix_scaling_pi_steps"],
        h["matrix_scaling_const"],
        h["eps_power_iter"],
        16 if multi else 1,
        torch.bfloat16,
    )


def shampoo_dash(meta: Meta, extra: Extra) -> Steps:
    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        names = (
            *("beta_graft", "weight_decay", "block_size", "inv_root_freq", "start_prec_step"),
            *("eps_grafting", "mu", "use_nesterov", "adamw_eps"),
        )
        return gx.dash(
            first_rate(h),
            beta_g=h["beta_G"],
            beta_lr=h["beta_LR"],
            # The published eps of polynomials is where they are fitted, not a ridge.
            eps_inv_root=0.0 if h["inv_root_method"] == "CBSHV" else h["eps_inv_root"],
            inv_root_method=dash_root(h, dash_scaling(h)),
            correct_bias=h["use_bias_correction"],
            one_dim=h["one_dim"],
            adamw_b1=h["adamw_beta1"],
            adamw_b2=h["adamw_beta2"],
            nesterov_form=FORMS.get(h["nesterov_form"], "p_plus_mu_m"),
            counts="group",
            **{name: h[name] for name in names},
        )

    return Steps(per_leaf(meta, build), learning_rates(meta))


FORMS = {"mu*P+M": "mu_p_plus_m"}


# -- the KL family -------------------------------------------------------------------------------


def kl_shampoo(h: dict[str, Any]) -> gx.GradientTransformation:
    names = ("weight_decay", "precondition_frequency", "init_factor", "clamp", "normalize_grads")
    given = {name: h[name] for name in names if name in h}
    (b1, b2), beta, eps = h["betas"], h["shampoo_beta"], h["eps"]
    beta = b2 if beta < 0 else beta
    if h["variant"] == "kl_shampoo":
        damping = {"damping": h.get("damping", False)}
        return gx.kl_shampoo(first_rate(h), b1, beta, eps, **given, **damping, vector_b2=b2)
    damping = {"damping": eps if h.get("damping", False) else 0.0}
    return gx.kl_soap(first_rate(h), b1, b2, beta, eps, **given, **damping)


def rekls(h: dict[str, Any]) -> gx.GradientTransformation:
    b1, b2 = h["betas"]
    return gx.rekls(
        first_rate(h),
        b1,
        b2,
        h["shampoo_beta"],
        h["eps"],
        h["weight_decay"],
        init_factor=0.0,
        refresh="eigh" if h["variant"] == "rekls" else "qr",
    )


def kl_soap_h(h: dict[str, Any]) -> gx.GradientTransformation:
    b1, b2 = h["betas"]
    names = ("precondition_frequency", "init_factor", "clamp")
    given = {name: h[name] for name in names if name in h}
    beta = b2 if h["shampoo_beta"] < 0 else h["shampoo_beta"]
    return gx.kl_soap_h(first_rate(h), b1, b2, beta, h["eps"], **given)


def soap_muon(h: dict[str, Any]) -> gx.GradientTransformation:
    names = ("momentum", "shampoo_beta", "weight_decay", "precondition_frequency")
    given = {name: h[name] for name in (*names, "denominator_power") if name in h}
    table = tuple(map(tuple, h["coefficient_table"]))
    return gx.soap_muon(first_rate(h), coefficients=table, ns_steps=None, **given)


VARIANTS = {
    "kl_shampoo": kl_shampoo,
    "kl_soap": kl_shampoo,
    "kl_soap_h": kl_soap_h,
    "kl_soap_realtime": rekls,
    "rekls": rekls,
    "soap_muon": soap_muon,
}


def kl_family(meta: Meta, extra: Extra) -> Steps:
    tx = per_leaf(meta, lambda h: VARIANTS[h["variant"]](h))
    return Steps(recorded_bases(tx, extra), learning_rates(meta))


SYSTEMS = {
    "distributed_shampoo": distributed_shampoo,
    "kl_shampoo": kl_family,
    "shampoo_dash": shampoo_dash,
    "soap": soap,
}
