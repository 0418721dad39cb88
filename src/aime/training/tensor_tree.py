"""Optimizer and balancer states as flat, named tensors for safetensors, and back.

A parameter's optimizer state is filed under the parameter's name, never its position, so that it finds its way back
after the order of the layers changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

SEPARATOR = "/"


def split_tree(tree: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Take a nested state apart: ({path: tensor}, {path: JSON value}), with paths like "model/encoder.bias"."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}

    def visit(branch: Mapping[str, Any], prefix: str) -> None:
        for key, value in branch.items():
            if isinstance(value, Tensor):
                tensors[prefix + key] = value.detach()
            elif isinstance(value, Mapping):
                visit(value, prefix + key + SEPARATOR)
            else:
                plain[prefix + key] = value

    visit(tree, "")
    return tensors, plain


def join_tree(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `split_tree`."""
    tree: dict[str, Any] = {}
    for path, value in (*plain.items(), *tensors.items()):
        *branches, leaf = path.split(SEPARATOR)
        branch = tree
        for name in branches:
            branch = branch.setdefault(name, {})
        branch[leaf] = value
    return tree


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """An optimizer's state as {"parameter's name/exp_avg": tensor, …}; the learning rates are the schedule's."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}{SEPARATOR}{key}": torch.as_tensor(value).detach()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer the state that `optimizer_tensors` took, on the devices of its parameters."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    saved = join_tree(tensors, {})
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    state = {index: saved[name] for index, name in enumerate(ordered) if name in saved}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
