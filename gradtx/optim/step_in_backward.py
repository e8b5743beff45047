"""Steps inside the backward pass: a gradient is used and freed as soon as it is there."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils.hooks import RemovableHandle

from ..core.plain import plain
from .leafwise import Leafwise, check_leafwise
from .optimizer import Optimizer
from .wrappers import data_parallel_of, is_data_parallel

_WHO = "step_in_backward"


class _EndOfPass:
    """What the engine calls at the end of a backward pass; it alone holds this object.

    If the pass fails the engine drops it uncalled, which the weak reference of ``StepInBackward``
    shows.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def __call__(self) -> None:
        self._call()


class StepInBackward:
    """The hooks that ``step_in_backward`` has set; also a context manager that removes them.

    >>> import torch, gradtx as gx
    >>> p = torch.nn.Parameter(torch.ones(2))
    >>> with gx.optim.step_in_backward(gx.optim.SGD([p], lr=0.5)):
    ...     p.sum().backward()
    >>> p.data, p.grad
    (tensor([0.5000, 0.5000]), None)
    """

    def __init__(self, optimizer: Optimizer, every: int) -> None:
        self._optimizer = optimizer
        self._every = every
        self._passes = 0
        self._leafwise = Leafwise(optimizer)
        self._end: weakref.ref[_EndOfPass] | None = None
        self._stepping = False
        self._lock = threading.Lock()
        self._hooks: dict[Tensor, RemovableHandle] = {}
        self._step_hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        self._wrapping = _refuse_wrappers(weakref.ref(self))
        weakref.finalize(self, self._wrapping.remove)
        # A GradScaler then comes to step(), which refuses it, with gradients or without.
        vars(optimizer)["_step_supports_amp_scaling"] = True
        self._attach()

    def remove(self) -> None:
        """Take the hooks away; gradients stay in ``.grad`` again and ``step`` uses them."""
        for hook in (*self._hooks.values(), *self._step_hooks, self._wrapping):
            hook.remove()
        self._hooks.clear()
        vars(self._optimizer).pop("_step_supports_amp_scaling", None)
        self._close()

    def __enter__(self) -> StepInBackward:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    # -- during a backward pass ----------------------------------------------------------------

    def _attach(self) -> None:
        """Set hooks on the parameters that have none yet; frozen ones cannot have one."""
        for group in self._optimizer.param_groups:
            for p in group["params"]:
                if p.requires_grad and p not in self._hooks:
                    hook = p.register_post_accumulate_grad_hook(self._on_gradient)
                    self._hooks[p] = hook

    @torch._disable_dynamo
    def _on_gradient(self, p: Tensor) -> None:
        """A parameter's gradient of this backward pass is complete."""
        with self._lock:
            if self._end is None or self._end() is None:
                self._open()
            if self._stepping and p.grad is not None:
                self._leafwise.step(p)
                p.grad = None

    def _open(self) -> None:
        """The first gradient of a backward pass."""
        self._close()
        steps = self._passes + 1 == self._every
        if steps:
            self._leafwise.begin(_WHO)
        self._stepping = steps
        end = _EndOfPass(self._end_of_pass)
        torch.autograd.Variable._execution_engine.queue_callback(end)
        self._end = weakref.ref(end)

    def _end_of_pass(self) -> None:
        """All gradients of a backward pass are there."""
        with self._lock:
            if self._end is None:  # removed during the pass
                return
            self._passes += 1
            if self._stepping:
                for p in self._leafwise.rest():  # from earlier passes of the window, or unfrozen
                    self._leafwise.step(p)
                    p.grad = None
            self._close()
            self._attach()

    def _close(self) -> None:
        """Nothing more comes from the last backward pass, which may have failed."""
        self._end = None
        if self._stepping:
            self._stepping = False
            self._passes = 0
            self._leafwise.finish()
            self._optimizer._opt_called = True  # type: ignore[attr-defined]  # for schedulers

    # -- around optimizer.step() ---------------------------------------------------------------

    def _before_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if hasattr(optimizer, "grad_scale"):
            del optimizer.grad_scale, optimizer.found_inf
            raise RuntimeError(
                f"{_WHO}: gradients are used before a GradScaler can unscale them; train without it"
            )
        if any(x is not None for x in (*args[1:], *kwargs.values())):
            raise RuntimeError(f"{_WHO}: the optimizer steps in backward and takes no closure")
        if self._end is not None and self._end() is not None:
            raise RuntimeError(f"{_WHO}: optimizer.step() was called inside a backward pass")
        self._close()

    def _after_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._passes = 0


def _check_not_averaged(optimizer: Optimizer, wrapper: nn.Module, module: nn.Module) -> None:
    """Raise if a data parallel wrapper averages gradients of an optimizer's parameters.

    Raises:
        ValueError: names the wrapper's class and the parameter.
    """
    own = set(module.parameters())
    for p, name in optimizer._names().items():
        if p in own:
            raise ValueError(
                f"{_WHO}: parameter {name!r} of this {type(optimizer).__name__} is in a "
                f"{type(wrapper).__name__} module, which averages gradients over processes only "
                "after they would have been used; remove() the hooks before wrapping, and call "
                "optimizer.step() after backward()"
            )


def _refuse_wrappers(handle: weakref.ref[StepInBackward]) -> RemovableHandle:
    """Let data parallel modules raise when they take in parameters that step in backward."""

    def check(parent: nn.Module, name: str, module: nn.Module | None) -> None:
        own = handle()
        if own is not None and module is not None and is_data_parallel(parent):
            _check_not_averaged(own._optimizer, parent, module)

    return register_module_module_registration_hook(check)


def steps_in_backward(optimizer: Optimizer) -> bool:
    """Whether an optimizer has such hooks."""
    hooks = optimizer._optimizer_step_pre_hooks.values()
    return any(isinstance(getattr(hook, "__self__", None), StepInBackward) for hook in hooks)


def step_in_backward(optimizer: Optimizer, every: int = 1) -> StepInBackward:
    """Update each parameter as soon as its gradient is there, and free the gradient.

    No more than a few gradients exist at any time, instead of one for every parameter. The numbers
    are those of ``optimizer.step()``, whatever the order of the gradients; what could be fused with
    other leaves differs by rounding at most. Training loops stay as they are: ``step()`` then finds
    no gradients (with ``every`` > 1 it ends an incomplete window), and schedulers work.

    A hook must find a final gradient: do not use it with gradient scalers (which raise at their
    ``step``), clipping by a norm over all parameters, data parallel wrappers that average gradients
    later, or closures. Checkpoint with ``use_reentrant=False``. Step hooks of the optimizer run
    with ``step()`` only, not here.

    Args:
        optimizer: an optimizer of ``gx.optim``.
        every: backward passes per step; gradients add up in between.

    Returns:
        A handle: ``remove()``, or leaving it as a context manager, restores ordinary steps.

    Raises:
        TypeError: not a gradtx optimizer.
        ValueError: a member needs all gradients at once (names it), ``every`` < 1, an optimizer
            that is differentiable or steps in backward already, or parameters in a module that
            averages gradients later, as ``DistributedDataParallel``. Wrapping them afterwards
            raises the same error there.

    >>> import torch, gradtx as gx
    >>> model = torch.nn.Linear(3, 1)
    >>> handle = gx.optim.step_in_backward(gx.optim.AdamW(model.parameters(), lr=1e-2))
    >>> model(torch.ones(1, 3)).sum().backward()
    >>> [p.grad for p in model.parameters()]
    [None, None]
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{_WHO}: needs a gradtx optimizer, got {type(optimizer).__name__}")
    every = plain(every)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"{_WHO}: every must be an integer >= 1, got {every!r}")
    for group in optimizer.param_groups:
        check_leafwise(_WHO, optimizer.transform_of(group))
        if group["differentiable"]:
            raise ValueError(f"{_WHO}: a differentiable step cannot run inside backward")
    if steps_in_backward(optimizer):
        raise ValueError(f"{_WHO}: this {type(optimizer).__name__} steps in backward already")
    wrapper = data_parallel_of(optimizer._names())
    if wrapper is not None:
        _check_not_averaged(optimizer, wrapper, wrapper)
    return StepInBackward(optimizer, every)
