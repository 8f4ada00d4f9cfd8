"""Train the demo model with torch, the recipe of `vlm_train.recipes.demo` on packed batches.

One process per GPU: `torchrun --nproc-per-node N torch_train.py --out DIR --minutes 12`. Needs torch with CUDA,
safetensors, tokenizers, Pillow and the source of vlm-train on the path; draws on all cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch_model import Demo, checkpoint, restore

from vlm_train.recipes.demo import encoding, evaluation, fonts, layout, workers
from vlm_train.recipes.demo.encoding import NUM_PATCH_CLASSES
from vlm_train.recipes.demo.packing import Arrays, Capacity, pack

EMPTY_PATCH_WEIGHT = (0.2, 0.2, 0.05, 0.05)
CLOCK_EVERY = 25  # steps between looks at the clock
WARM_STEPS = 100  # in which the rate rises
PATCH_SHARE = 4  # one patch in so many is asked what it shows


class Muon:
    """Orthogonalised momentum (Jordan, 2024) for the matrices of the blocks, scaled to AdamW's update size."""

    def __init__(self, matrices: list[tuple[Tensor, int]], momentum: float = 0.95, decay: float = 0.05) -> None:
        """matrices: parameters and how many matrices each holds one above the other (3 for query, key and value)."""
        self.momentum, self.decay = momentum, decay
        self.groups: dict[tuple[int, int], list[tuple[Tensor, int]]] = {}
        for weight, parts in matrices:
            self.groups.setdefault((weight.shape[0] // parts, weight.shape[1]), []).append((weight, parts))
        self.velocity = {
            shape: torch.zeros(sum(parts for _, parts in group), *shape, device=group[0][0].device)
            for shape, group in self.groups.items()
        }

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for shape, group in self.groups.items():
            gradient = torch.cat([weight.grad.view(parts, *shape) for weight, parts in group])
            velocity = self.velocity[shape].lerp_(gradient, 1 - self.momentum)
            update = orthogonalise(gradient.lerp_(velocity, self.momentum)) * (0.2 * math.sqrt(max(shape)))
            pieces = update.split([parts for _, parts in group])
            weights = [weight for weight, _ in group]
            torch._foreach_mul_(weights, 1 - rate * self.decay)
            torch._foreach_add_(weights, [p.reshape(w.shape).float() for p, w in zip(pieces, weights)], alpha=-rate)


def orthogonalise(x: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: five Newton-Schulz steps. x: `[n, rows, columns]`."""
    x = x.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def objective(model: Demo, batch: dict[str, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of the answers, loss of what the patches show, and whether each target is the most likely token."""
    logits, shown, _ = model(batch, dtype, PATCH_SHARE)
    target = batch["target"].long()
    weight = batch["weight"]
    answers = (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
    classes = batch["patch_classes"][: len(shown)].long()
    empty = torch.tensor(EMPTY_PATCH_WEIGHT, device=classes.device)
    patch_weight = torch.where(classes == 0, empty, 1.0)
    losses = F.cross_entropy(shown.float().flatten(0, 1), classes.flatten(), reduction="none").view_as(patch_weight)
    return answers, (losses * patch_weight).sum() / patch_weight.sum(), logits.detach().argmax(-1) == target


class Learner:
    """The model with its optimizers; a step on a batch."""

    def __init__(self, model: Demo, device: torch.device, *, compiled: bool, world: int = 1) -> None:
        self.model, self.device, self.world = model, device, world
        matrices, self.others = [], []
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and ("visual.blocks" in name or "visual.merger" in name or "model.layers" in name):
                matrices.append((weight, 3 if "qkv" in name else 1))
            else:
                self.others.append(weight)
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(self.others, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.parameters = list(model.parameters())
        self._objective = torch.compile(objective, dynamic=False) if compiled else objective

    def losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """See `objective`."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return self._objective(self.model, batch, torch.bfloat16)

    def step(self, batch: dict[str, Tensor], rate: float, patch_share: float) -> tuple[Tensor, Tensor, Tensor]:
        """Learn from a batch, the losses of the patches counting `patch_share`; see `objective` for what is given."""
        answers, patches, correct = self.losses(batch)
        (answers + patch_share * patches).backward()
        if self.world > 1:
            gradients = [weight.grad for weight in self.parameters]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat, op=dist.ReduceOp.AVG)
            pieces = flat.split([gradient.numel() for gradient in gradients])
            torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(pieces, gradients)])
        torch.nn.utils.clip_grad_norm_(self.others, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        self.muon.step(rate)
        for weight in self.parameters:
            weight.grad = None
        return answers, patches, correct


def schedule(warmed: float, progress: float, tail: float) -> float:
    """Share of the peak rate: up while `warmed` is below 1, flat, down to zero over the last `tail` of the whole."""
    return max(0.0, min(1.0, warmed, (1 - progress) / tail))


def moved(arrays: Arrays, device: torch.device) -> dict[str, Tensor]:
    """A batch on the device, in memory of its own."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if device.type == "cpu":
        return {name: tensor.clone() for name, tensor in tensors.items()}
    return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in tensors.items()}


def to_device(
    batches: Iterator[Arrays], device: torch.device, reuse: int, pool_size: int = 128
) -> Iterator[tuple[dict[str, Tensor], int]]:
    """Batches on the device, copied ahead by a thread, with the number of samples that are new in them.

    Where no new batch is ready, one of the last `pool_size` comes again, each up to `reuse` times, so that the device
    never waits for drawing if `reuse` allows.
    """
    ready: queue.Queue = queue.Queue(maxsize=3)
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def copy() -> None:
        for arrays in batches:
            count = int(arrays["num_samples"][0])
            with torch.cuda.stream(stream):
                tensors = moved(arrays, device)
            if stream is not None:
                stream.synchronize()
            ready.put((tensors, count))
        ready.put(None)

    threading.Thread(target=copy, daemon=True).start()
    pool: deque[list] = deque(maxlen=pool_size)  # [tensors, times left]
    rng = random.Random(0)
    while True:
        if reuse and len(pool) >= min(16, pool_size) and ready.empty():
            place = rng.randrange(len(pool))
            entry = pool[place]
            entry[1] -= 1
            if entry[1] == 0:
                del pool[place]
            yield entry[0], 0
            continue
        item = ready.get()
        if item is None:
            return
        if stream is not None:
            for tensor in item[0].values():
                tensor.record_stream(torch.cuda.current_stream(device))
        if reuse:
            pool.append([item[0], reuse])
        yield item


def held_out(task: str, capacity: Capacity, faces: tuple[str, ...]) -> Arrays:
    """One packed batch of a task's held-out items."""
    arrays = workers.allocate(capacity)
    rng = random.Random(f"held out/{task}")
    pack(lambda r: encoding.encode(evaluation.draw(task, faces, r), r), capacity, rng, arrays)
    return arrays


def exact(batch: dict[str, Tensor], correct: Tensor, limit: int = 400) -> tuple[int, int]:
    """Samples whose targets are all right (what greedy decoding would answer exactly), and samples."""
    count = min(limit, int(batch["num_samples"]))
    wrong = torch.zeros(len(correct) + 1, device=correct.device)
    wrong.index_add_(0, batch["target_sample"].long(), (~correct & (batch["weight"] > 0)).float())
    return int((wrong[:count] == 0).sum()), count


def save(model: Demo, folder: Path) -> None:
    """Write the state to continue from (float32) and the checkpoint (bfloat16)."""
    state = {n: w.float().contiguous() for n, w in model.state_dict().items() if n.startswith("patch_head")}
    state |= checkpoint(model, torch.float32)
    safetensors.torch.save_file(state, str(folder / "state.tmp"))
    os.replace(folder / "state.tmp", folder / "state.safetensors")
    layout.write(folder / "checkpoint")
    weights = checkpoint(model, torch.bfloat16)
    safetensors.torch.save_file(weights, str(folder / "model.tmp"), metadata={"format": "pt"})
    os.replace(folder / "model.tmp", folder / "checkpoint/model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=24000)
    parser.add_argument("--minutes", type=float, help="end the schedule here even if --steps are not done")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--tail", type=float, default=0.35)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=float, default=0.0, help="how far through the curriculum to start, 0 to 1")
    parser.add_argument("--patches", type=int, default=65536)
    parser.add_argument("--fonts", nargs="+", default=list(fonts.FOLDERS))
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument(
        "--resume", type=Path, nargs="+", help="a state.safetensors, or a checkpoint's weights and more"
    )
    parser.add_argument("--reuse", type=int, default=0, help="how often a batch may come again while none is drawn")
    parser.add_argument("--save-seconds", type=float, default=90.0)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--evaluate-every", type=int, default=1000)
    parser.add_argument("--log-every", type=int, default=100)
    options = parser.parse_args()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    scale = options.patches / 65536
    capacity = Capacity(*(int(size * scale) // 4 * 4 for size in (65536, 27648, 704, 832, 5632)))
    faces = fonts.find(options.fonts)
    began = time.time()
    total = options.steps * world
    for number in range(2):  # fills the caches of glyphs and masks that the processes below inherit
        workers.fill(workers.allocate(capacity), capacity, number, 0.3 + 0.4 * number, options.seed + 1000, faces)
    mine = workers.Workers(
        range(rank + int(options.start * total) // world * world, total, world),
        total,
        capacity,
        faces,
        seed=options.seed,
        num_processes=options.processes or max(1, os.cpu_count() // world - 1),
    )
    tests: list[Arrays] = []
    if rank == 0 and options.evaluate_every:
        with get_context("fork").Pool(len(evaluation.TARGETS)) as pool:
            tests = pool.map(partial(held_out, capacity=capacity, faces=faces), list(evaluation.TARGETS))

    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(options.seed)
    model = Demo(layout.config(), NUM_PATCH_CLASSES, layout.IMAGE_MEAN, layout.IMAGE_STD)
    if options.resume:
        weights = {n: w.float() for file in options.resume for n, w in safetensors.torch.load_file(str(file)).items()}
        restore(model, weights)
    model.to(device)
    learner = Learner(model, device, compiled=not options.no_compile, world=world)

    options.out.mkdir(parents=True, exist_ok=True)
    log = (options.out / f"log-{rank}.jsonl").open("a")

    def note(**record: object) -> None:
        if rank == 0:
            line = json.dumps({"seconds": round(time.time() - began, 1), **record})
            print(line, flush=True)
            print(line, file=log, flush=True)

    def evaluate(step: int) -> None:
        scores = {}
        for task, arrays in zip(evaluation.TARGETS, tests):
            batch = {n: torch.from_numpy(a).to(device) for n, a in arrays.items()}
            right, count = exact(batch, learner.losses(batch)[2])
            scores[task] = round(100 * right / count, 1)
        note(step=step, exact=scores)

    note(parameters=sum(w.numel() for w in model.parameters()), world=world, capacity=str(capacity), faces=len(faces))
    first = step = int(options.start * options.steps)
    seen, new, clock, saved, waited, late = 0, 0, time.time(), time.time(), 0.0, 0.0
    sums = torch.zeros(4, device=device)
    offset, asked = step / options.steps, time.time()
    for batch, count in to_device(iter(mine), device, options.reuse):
        waited += time.time() - asked
        if options.minutes and (step - first) % CLOCK_EVERY == 0 and step > first:
            late = offset + (1 - offset) * (time.time() - began) / 60 / options.minutes
            if world > 1:  # every rank follows the first one's clock
                shared = torch.tensor(late, device=device)
                dist.broadcast(shared, 0)
                late = float(shared)
            if rank == 0 and time.time() - saved > options.save_seconds:
                save(model, options.out)
                saved = time.time()
        progress = max(step / options.steps, late)
        if progress >= 1:
            break
        rate = options.rate * schedule((step - first + 1) / WARM_STEPS, progress, options.tail)
        answers, patches, correct = learner.step(batch, rate, 0.5 if progress < 0.3 else 0.15)
        known = batch["weight"] > 0
        sums += torch.stack(
            (answers.detach(), patches.detach(), (correct & known).sum() / known.sum(), known.sum() * 0.0)
        )
        step, seen, new = step + 1, seen + count * world, new + (count > 0)
        if step % options.log_every == 0:
            loss, shown, right, _ = (sums / options.log_every).tolist()
            now = time.time()
            note(
                step=step,
                progress=round(progress, 4),
                rate=round(rate, 6),
                loss=round(loss, 4),
                patch_loss=round(shown, 4),
                tokens_right=round(right, 4),
                samples=seen,
                new_batches=new,
                steps_per_second=round(options.log_every / (now - clock), 2),
                waited=round(waited, 2),
            )
            if not math.isfinite(loss):
                raise SystemExit("the loss is not finite")
            sums.zero_()
            clock, waited = now, 0.0
        if options.evaluate_every and step % options.evaluate_every == 0:
            if rank == 0:
                evaluate(step)
                save(model, options.out)
                saved = time.time()
            clock = time.time()
        asked = time.time()
    if rank == 0:
        if tests:
            evaluate(step)
        save(model, options.out)
        note(step=step, done=True, samples=seen)
    mine.close()
    os._exit(0)


if __name__ == "__main__":
    main()
