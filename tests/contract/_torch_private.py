"""The one place that imports torch's private tables of optimizer inputs."""

from __future__ import annotations

import pytest

try:
    from torch.testing._internal import common_optimizers as tables
except ImportError as error:  # private: it may move, or need packages of torch's own test suite
    pytest.skip(f"torch's optimizer tables are not importable: {error}", allow_module_level=True)

ErrorOptimizerInput = tables.ErrorOptimizerInput
OptimizerErrorEnum = tables.OptimizerErrorEnum
OptimizerInfo = tables.OptimizerInfo
OptimizerInput = tables.OptimizerInput
get_error_inputs_for_all_optims = tables.get_error_inputs_for_all_optims
optim_db = tables.optim_db
