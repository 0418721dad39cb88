"""Shared set-up: every shape annotation in aime is checked while the tests run."""

import torch
from jaxtyping import install_import_hook

install_import_hook("aime", "beartype.beartype")

# Two workers share two cores; one thread each is faster than two threads that fight, and results do not depend on it.
torch.set_num_threads(1)
