"""Networks for tests, the comparison of their weights, and these under torchvision's names."""

import torch

from r2plus1d.model import layouts
from r2plus1d.model.network import OuterNorm, build


def trained_a_little(**arguments):
    """A network whose batch norms have seen a batch, with scales other than 0 and 1."""
    torch.manual_seed(0)
    model = build(**arguments)
    model(torch.randn(4, 3, 8, 32, 32))
    return as_trained(model, statistics=False)


def tiny_network(classes, view):
    """A small network of torchvision's family that knows its classes and its view."""
    torch.manual_seed(0)
    network = as_trained(build(depth=10, width=4, num_classes=len(classes), family="torchvision")).eval()
    network.classes, network.view = classes, view
    return network


def as_trained(model, statistics=True):
    """In eval mode, with batch norms' scales, and statistics, other than 0 and 1, as weights that were trained have."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d | OuterNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
            if statistics:
                torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def same(state, model) -> bool:
    own = model.state_dict()
    return set(state) == set(own) and all(torch.equal(state[name], own[name]) for name in own)


def to_torchvision(state):
    """The same tensors under torchvision's names, which its own networks load strictly, and IG-65M's do.

    `state` is of a network of one of those two families. A name that ours do not have stays as it is.
    """
    pairs = (*(layouts.SPLIT if "backbone.conv1.conv.conv_s.weight" in state else layouts.WHOLE), *layouts.BOTH)
    reverse = [(ours, theirs) for theirs, ours in pairs]
    return {layouts._renamed(name, reverse): tensor for name, tensor in state.items()}
