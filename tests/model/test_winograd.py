"""The 3 x 3 convolution with fewer multiplications."""

import pytest
import torch
from torch.nn import functional

from r2plus1d.model import lowered, winograd
from r2plus1d.model.lowered import for_inference
from r2plus1d.model.network import build


@pytest.fixture(params=["pinned", "own"])
def arithmetic(request, monkeypatch):
    """Both ways to multiply matrices, whatever MKL really computes with."""
    monkeypatch.setenv("MKL_CBWR", {"pinned": "COMPATIBLE", "own": "AUTO"}[request.param])


@pytest.mark.parametrize(("count", "h", "w"), [(1, 14, 14), (5, 16, 16), (3, 17, 30), (2, 64, 19), (1, 100, 104)])
def test_convolution_in_tiles_is_the_plain_one(arithmetic, count, h, w):
    torch.manual_seed(0)
    x, bias = torch.randn(count, 64, h, w), torch.randn(70)
    weight = torch.randn(70, 64, 3, 3) / 24
    expected = functional.conv2d(x.double(), weight.double(), bias.double(), padding=1).relu()
    with torch.inference_mode():
        given = winograd.Winograd(weight, bias)(x.permute(0, 2, 3, 1).contiguous())
    assert given.is_contiguous()
    torch.testing.assert_close(given.permute(0, 3, 1, 2).double(), expected, rtol=0, atol=5e-5)


def test_frames_come_out_the_same_in_parts(arithmetic, monkeypatch):
    torch.manual_seed(0)
    layer, x = winograd.Winograd(torch.randn(8, 64, 3, 3), torch.randn(8)), torch.randn(7, 16, 16, 64)
    with torch.inference_mode():
        whole = layer(x)
        monkeypatch.setattr(winograd, "TILES", 3 * 16)
        torch.testing.assert_close(layer(x), whole, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(2**21, [(8, 28, 29, 64), (8, 28, 29, 64), (4, 14, 15, 128)]), (1, [(4, 28, 29, 64), (4, 28, 29, 64)] * 2)],
)
def test_wide_network_computes_the_same_and_in_tiles(arithmetic, monkeypatch, limit, expected):
    torch.manual_seed(0)
    model, x = build(depth=10, num_classes=5).eval(), torch.randn(2, 3, 4, 112, 116)
    planes, forward = [], winograd.Winograd.forward
    monkeypatch.setattr(winograd.Winograd, "forward", lambda self, x: planes.append(x.shape) or forward(self, x))
    monkeypatch.setattr(lowered, "PIXELS_AT_ONCE", limit)
    with torch.inference_mode():
        logits = for_inference(model, torch.device("cpu"))(x)
        torch.testing.assert_close(logits, model(x), rtol=1e-4, atol=1e-5)
    assert planes == expected


def test_planes_are_computed_in_tiles_where_it_is_faster():
    def wins(channels: int, frames: int, side: int, kernel: int = 3) -> bool:
        return winograd.wins(torch.Size((2 * channels, channels, kernel, kernel)), frames, side, side)

    assert wins(64, 8, 28)
    assert wins(128, 4, 14)
    assert wins(256, 2, 16)
    assert not wins(64, 240, 16)
    assert not wins(128, 1, 14)
    assert not wins(512, 60, 14)
    assert not wins(32, 60, 64)
    assert not wins(64, 60, 64, kernel=1)
