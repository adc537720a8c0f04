"""Mistakes that others shipped, planted on purpose, and the processes that run with them.

Each function plants one with a pytest.MonkeyPatch; `control` plants nothing.
"""

import contextlib
import importlib.util
import multiprocessing
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from looktwice import distributed, equivalence, large_batch
from looktwice.equivalence import Case
from looktwice.methods import MoCo, MoCoV3, SimCLR
from looktwice.models import ResNetTiny, build_head

STEPS = 3


class Instead:
    """A module with some of its functions replaced."""

    def __init__(self, module, **functions):
        self._module = module
        self.__dict__ |= functions

    def __getattr__(self, name):
        return getattr(self._module, name)


def control(patch):
    pass


def no_gather(patch):
    """Each process contrasts its own pictures alone; gradients are averaged, as by DDP."""
    patch.setattr(large_batch, "distributed", Instead(
        distributed, gather_rows=lambda rows: rows.detach(), share=slice, sum_over_processes=mean,
    ))  # fmt: skip


def gather_without_gradient(patch):
    """Each process takes its own pictures' loss; what came from others is constant."""
    plain = SimCLR.loss

    def loss(method, batch):
        own = distributed.share(len(batch.online))
        n = len(batch.online)
        z = F.normalize(batch.online.transpose(0, 1).flatten(0, 1), dim=1)
        logits = (z @ z.T / 0.2).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
        partners = torch.arange(2 * n).roll(n)
        rows = [r + n * view for view in (0, 1) for r in range(own.start, own.stop)]
        mine = F.cross_entropy(logits[rows], partners[rows])
        return plain(method, batch).detach() + mine - mine.detach()

    patch.setattr(SimCLR, "loss", loss)
    patch.setattr(large_batch, "distributed", Instead(distributed, sum_over_processes=mean))


def gradient_off_by_the_world_size(patch):
    """The whole loss in every process, and its gradients averaged instead of summed."""
    patch.setattr(large_batch, "distributed", Instead(distributed, sum_over_processes=mean))


def labels_without_rank_offset(patch):
    """The k-th query of any process looks for the first process's k-th key."""

    def loss(method, batch):
        labels = torch.arange(len(batch.online)) % (len(batch.online) // distributed.world_size())
        terms = [
            F.cross_entropy(F.normalize(batch.online[:, q], dim=1)
                            @ F.normalize(batch.target[:, k], dim=1).T / 0.2, labels)
            for q, k in ((0, 1), (1, 0))
        ]  # fmt: skip
        return 2 * 0.2 * sum(terms)

    patch.setattr(MoCoV3, "loss", loss)


def positives_mispaired(patch):
    """cat(z_i, z_j) of each process is gathered as a block, then cut in the middle."""
    plain = SimCLR.loss

    def loss(method, batch):
        blocks = batch.online.unflatten(0, (distributed.world_size(), -1)).transpose(1, 2)
        halves = torch.stack(blocks.flatten(0, 2).chunk(2), dim=1)
        return plain(method, type(batch)(halves))

    patch.setattr(SimCLR, "loss", loss)


def own_keys_among_the_negatives(patch):
    """Keys enter the queue before the logits are taken."""
    plain = MoCo.loss

    def loss(method, batch):
        end = int(method.queue_end)
        places = (end + torch.arange(len(batch.target))) % len(method.queue)
        method.queue[places] = batch.target[:, 0]
        return plain(method, batch)

    patch.setattr(MoCo, "loss", loss)


def queue_not_restored(patch):
    """A resumed run begins with a new queue."""
    plain = MoCo.load_state_dict

    def load_state_dict(method, state, *arguments):
        fresh = F.normalize(torch.randn_like(state["queue"]), dim=1)
        return plain(method, {**state, "queue": fresh}, *arguments)

    patch.setattr(MoCo, "load_state_dict", load_state_dict)


def statistics_updated_in_both_passes(patch):
    """The pass without gradient records, and moves running statistics, too."""
    plain = large_batch.LargeBatch._first_pass

    def first_pass(self, parts):
        online = plain(self, parts)
        if len(parts) > 1:
            large_batch.update_running_statistics(self._method)
        return online

    patch.setattr(large_batch.LargeBatch, "_unrecorded", lambda self: contextlib.nullcontext())
    patch.setattr(large_batch.LargeBatch, "_first_pass", first_pass)


IN_PROCESSES = {
    no_gather: "simclr",
    gather_without_gradient: "simclr",
    gradient_off_by_the_world_size: "simclr",
    labels_without_rank_offset: "moco-v3",
    positives_mispaired: "simclr",
}
"""Mistakes that show between processes, and the method they are planted in."""


def mean(tensors):
    tensors = list(tensors)
    distributed.sum_over_processes(tensors)
    for tensor in tensors:
        tensor /= distributed.world_size()


def case(method):
    return Case(method, "sgd", equivalence.BN_GROUP, torch.float64)


def byol():
    """Load examples/byol.py."""
    if "byol" not in sys.modules:
        path = Path(__file__).parents[2] / "examples" / "byol.py"
        spec = importlib.util.spec_from_file_location("byol", path)
        sys.modules["byol"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["byol"])
    return sys.modules["byol"]


def byol_instead(patch):
    """Let the check of equivalence train BYOL, whatever the case says."""

    def build(case):
        backbone = ResNetTiny(3, small_stem=False, widths=(4, 8, 16))
        head = build_head(
            "mlp", num_features=backbone.num_features, num_layers=2, width=32, embedding_dim=16
        )
        return byol().BYOL(backbone, head, embedding_dim=16).to(case.dtype).train()

    patch.setattr(equivalence, "build", build)


def run(target, processes, folder):
    """Run a function of (rank, processes, port, folder) in new processes."""
    context = multiprocessing.get_context("spawn")
    port = equivalence._free_port()
    started = [
        context.Process(target=target, args=(rank, processes, port, folder))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert not any(process.exitcode for process in started)


def work_byol(rank, processes, port, folder):
    """Run as one of several processes: BYOL's steps in pieces."""
    torch.set_num_threads(1)
    with (
        equivalence._environment(rank, processes, port),
        distributed.joined("cpu"),
        pytest.MonkeyPatch.context() as patch,
    ):
        byol_instead(patch)
        for pieces in (1, 2, 4):
            result = equivalence.take_steps(case("byol"), pieces, STEPS)
            if rank == 0:
                torch.save(result, folder / f"byol-{pieces}.pt")


def work(rank, processes, port, folder):
    """Run as one of several processes: each mistake's steps, and the control's of each method."""
    torch.set_num_threads(1)
    with equivalence._environment(rank, processes, port), distributed.joined("cpu"):
        wanted = [*IN_PROCESSES.items(), *((control, m) for m in ("simclr", "moco-v3"))]
        for plant, method in wanted:
            with pytest.MonkeyPatch.context() as patch:
                plant(patch)
                result = equivalence.take_steps(case(method), 1, STEPS)
            if rank == 0:
                torch.save(result, folder / f"{plant.__name__}-{method}.pt")
