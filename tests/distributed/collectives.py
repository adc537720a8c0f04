"""Run by torchrun in several processes: each collective, and synchronised batch-norm, checked."""

import copy
import sys

import numpy as np
import torch
from torch import nn

from looktwice import distributed, recovery
from looktwice.build import build, settle
from looktwice.checkpoint import generator_tensors
from looktwice.config import resolve
from looktwice.data import open_splits
from looktwice.models import Grouping, group_batch_norm, update_running_statistics

ROWS = 6


def check_gather_rows():
    rank, world = distributed.rank(), distributed.world_size()
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8):
        own = (torch.arange(6).reshape(3, 2) + 10 * rank).to(dtype)
        for rows in (own, own.t().contiguous().t()):  # also strided
            gathered = distributed.gather_rows(rows)
            expected = torch.cat([torch.arange(6).reshape(3, 2) + 10 * r for r in range(world)])
            assert gathered.dtype == dtype
            assert torch.equal(gathered, expected.to(dtype))
    learnt = torch.ones(2, requires_grad=True)
    assert not distributed.gather_rows(learnt).requires_grad
    part = distributed.share(4 * world)
    assert torch.equal(torch.arange(4 * world)[part], torch.arange(4) + 4 * rank)


def check_sums():
    rank, world = distributed.rank(), distributed.world_size()
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (1,), (), (5, 2, 3, 3), (7,), (2, 2), (0,), (9,)]
    kinds = [torch.float64] * 4 + [torch.float32, torch.float64, torch.int64, torch.float32]
    every = [
        [(torch.randn(s, generator=generator) * 8).to(k) for s, k in zip(shapes, kinds, strict=True)]
        for _ in range(world)
    ]  # fmt: skip
    expected = [sum(tensors[1:], tensors[0]) for tensors in zip(*every, strict=True)]
    whole = distributed.BUCKET_BYTES
    for size in (1, 100, whole):  # a tensor a bucket, some, all of a dtype
        distributed.BUCKET_BYTES = size
        own = [tensor.clone() for tensor in every[rank]]
        own[3] = own[3].contiguous(memory_format=torch.channels_last)
        distributed.sum_over_processes(own)
        for found, wanted in zip(own, expected, strict=True):
            assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
            torch.testing.assert_close(found, wanted)
        assert own[3].is_contiguous(memory_format=torch.channels_last)
    distributed.BUCKET_BYTES = whole
    distributed.sum_over_processes([])
    parameter = nn.Parameter(torch.full((2,), float(rank)))
    distributed.sum_over_processes([parameter])
    assert parameter.tolist() == [world * (world - 1) / 2] * 2


def check_values():
    rank, world = distributed.rank(), distributed.world_size()
    assert distributed.is_first() == (rank == 0)
    assert distributed.from_first({"rank": rank}) == {"rank": 0}
    assert distributed.from_first(None) is None
    assert distributed.from_all(("rank", rank)) == [("rank", r) for r in range(world)]
    assert distributed.any_process(rank == world - 1)
    assert not distributed.any_process(False)
    distributed.wait_for_first()


def check_copies():
    rank = distributed.rank()
    weight = torch.full((2, 3, 2, 2), float(rank)).contiguous(memory_format=torch.channels_last)
    tensors = [
        torch.full((3,), rank), torch.tensor(rank), torch.tensor([rank > 0]), weight,
        torch.full((4, 2), rank, dtype=torch.uint8).t(), torch.full((2,), rank, dtype=torch.double),
    ]  # fmt: skip
    distributed.copy_from_first(tensors)
    assert all(not tensor.any() for tensor in tensors)
    assert tensors[0].dtype == torch.int64
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    network[1].num_batches_tracked += rank + 5
    distributed.copy_from_first(list(network.state_dict().values()))
    assert network[1].num_batches_tracked == 5
    first = distributed.from_first(network[0].weight.detach())
    assert torch.equal(first, network[0].weight)


def batch_norm_cases():
    for shape, kind in (
        ((4,), nn.BatchNorm1d),
        ((4, 5), nn.BatchNorm1d),
        ((4, 3, 5), nn.BatchNorm2d),
    ):
        for layout in ("both", "no bias", "neither"):
            yield shape, kind, layout, False
    yield (4, 3, 5), nn.BatchNorm2d, "both", True


def check_batch_norm():
    """Against torch's layer on the concatenated batch, two steps, in fp64."""
    rank, world = distributed.rank(), distributed.world_size()
    part = distributed.share(ROWS * world)
    for shape, kind, layout, channels_last in batch_norm_cases():
        torch.manual_seed(len(shape))
        plain = kind(4, affine=layout != "neither", momentum=0.3).double()
        if layout != "neither":
            nn.init.normal_(plain.weight)
            nn.init.normal_(plain.bias)
        if layout == "no bias":
            plain.bias = None
        grouping = Grouping()
        grouping.synchronised = True
        layer = group_batch_norm(copy.deepcopy(plain), grouping)
        for _ in range(2):
            x = torch.randn(ROWS * world, *shape, dtype=torch.float64) * 3 + 5
            direction = torch.randn_like(x)
            own = x[part].clone()
            if channels_last:
                own = own.contiguous(memory_format=torch.channels_last)
            x.requires_grad_()
            own.requires_grad_()
            plain.zero_grad()
            layer.zero_grad()
            wanted = plain(x)
            (wanted * direction).sum().backward()
            found = layer(own)
            (found * direction[part]).sum().backward()
            gradients = [p.grad for p in layer.parameters()]
            distributed.sum_over_processes(gradients)
            update_running_statistics(layer)
            pairs = [(found, wanted[part]), (own.grad, x.grad[part])]
            pairs += zip(gradients, [p.grad for p in plain.parameters()], strict=True)
            pairs += [
                (layer.running_mean, plain.running_mean),
                (layer.running_var, plain.running_var),
            ]
            for a, b in pairs:
                difference = (a - b).norm() / b.norm()
                assert difference <= 1e-12, (rank, shape, layout, channels_last, difference)
            if channels_last:
                assert found.is_contiguous(memory_format=torch.channels_last)
        assert layer.num_batches_tracked == plain.num_batches_tracked == 2
        layer.eval()
        plain.eval()
        x = x.detach()
        torch.testing.assert_close(layer(x), plain(x), rtol=1e-12, atol=1e-12)


def check_random_numbers():
    """Weights begin alike; what layers draw does not; and a restart goes on where it stood."""
    rank, world = distributed.rank(), distributed.world_size()
    splits = open_splits(np.zeros((60, 12, 12, 1), np.uint8))
    flags = {"train.steps": 1, "train.batch_size": 4 * world, "train.bn_group": 4}
    training = build(settle(resolve(recipe="simclr-tiny", flags=flags, environ={}), splits), splits)
    weights = [p.double().sum().item() for p in training.method.parameters()]
    assert distributed.from_all(weights) == [weights] * world
    states = {
        f"{r}.{name}": state
        for r, own in enumerate(distributed.from_all(generator_tensors()))
        for name, state in own.items()
    }
    drawn = torch.rand(3).tolist()
    assert len({tuple(each) for each in distributed.from_all(drawn)}) == world
    recovery._load_own_generators(states)
    assert torch.rand(3).tolist() == drawn
    recovery._load_own_generators({"0.cpu": states["0.cpu"]})  # of a run of one process
    assert (torch.rand(3).tolist() == drawn) == (rank == 0)


def main():
    torch.set_num_threads(1)
    with distributed.joined("cpu"), distributed.joined("cpu"):
        assert distributed.world_size() == int(sys.argv[1])
        check_gather_rows()
        check_sums()
        check_values()
        check_copies()
        check_batch_norm()
        check_random_numbers()
        if distributed.is_first():
            print("all checks passed")


if __name__ == "__main__":
    main()
