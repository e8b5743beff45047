"""What all tests share: one thread, reproducible examples."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("gradtx", max_examples=25, deadline=None, derandomize=True)
settings.load_profile("gradtx")
