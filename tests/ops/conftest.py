"""What tests of kernels share."""

import os

import pytest
import torch


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def hostile_cases():
    """How many hostile calls an operator gets."""
    return int(os.environ.get("GRADTX_HOSTILE_CASES", "40"))
