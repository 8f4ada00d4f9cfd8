"""The training loop on MLX: draw, learn, note, save; a resumed run equals an uninterrupted one."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np

from vlm_train.errors import ResumeError
from vlm_train.recipes.demo import encoding, layout, samples
from vlm_train.recipes.demo.encoding import Encoded
from vlm_train.recipes.demo.network import Network, checkpoint, collate, losses
from vlm_train.recipes.demo.optimizer import Optimizer
from vlm_train.recipes.demo.parameters import added, cast_to, named, tree_of

STATE = "state.safetensors"
LOG = "log.jsonl"


@dataclass(frozen=True)
class Settings:
    """What decides the outcome of a run; a resumed run must have the same."""

    steps: int = 9000
    batch: int = 480  # samples a step
    group: int = 60  # samples that go through the model together, alike in size
    rate: float = 2e-3
    warm: float = 0.01  # share of the steps in which the rate rises
    tail: float = 0.45  # share of the steps in which it falls to zero
    seed: int = 1
    dtype: str = "bfloat16"


def schedule(settings: Settings, step: int) -> float:
    """The rate of a step, counted from 0."""
    progress = (step + 0.5) / settings.steps
    return settings.rate * max(0.0, min(1.0, progress / settings.warm, (1 - progress) / settings.tail))


def draw_batch(settings: Settings, step: int, faces: tuple[str, ...]) -> list[Encoded]:
    """The samples of a step, small pictures first; the same arguments give the same samples."""
    rng = random.Random(f"{settings.seed}/{step}")
    drawn = [samples.draw(step / settings.steps, faces, rng) for _ in range(settings.batch)]
    encoded = [encoding.encode(sample, rng) for sample in drawn]
    return sorted(encoded, key=lambda item: (max((len(p) for p in item.patches), default=0), len(item.tokens)))


def batches(settings: Settings, first: int, faces: tuple[str, ...], processes: int) -> Generator[list[Encoded]]:
    """The samples of every step from `first`, drawn ahead by `processes` (0: here, when asked for)."""
    if processes == 0:
        for step in range(first, settings.steps):
            yield draw_batch(settings, step, faces)
        return
    # spawned, not forked: a fork of a process that holds a GPU is not safe
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        ahead: list[Future[list[Encoded]]] = []
        upcoming = iter(range(first, settings.steps))
        for _ in range(first, settings.steps):
            while len(ahead) < 2 * processes and (coming := next(upcoming, None)) is not None:
                ahead.append(pool.submit(draw_batch, settings, coming, faces))
            yield ahead.pop(0).result()


class Trainer:
    """A network, its optimizer, and how far they are.

    Args:
        config: config.json of the architecture; the demo's own unless a test wants a smaller one.
    """

    def __init__(self, settings: Settings, faces: tuple[str, ...], config: dict[str, Any] | None = None) -> None:
        self.settings, self.faces = settings, faces
        self.network = Network(config or layout.config(), settings.seed)
        self.optimizer = Optimizer(self.network.trainable_parameters())
        self.step = 0
        self._dtype = {"bfloat16": mx.bfloat16, "float32": mx.float32}[settings.dtype]

    def learn(self, items: list[Encoded]) -> dict[str, float]:
        """One step on the samples of a batch; its losses."""
        weight = float(sum(item.weights.sum() for item in items))
        patch_share = 0.5 if self.step / self.settings.steps < 0.3 else 0.15
        master = self.network.trainable_parameters()

        def objective(parameters: Any, group: list[Encoded]) -> tuple[mx.array, tuple[mx.array, mx.array]]:
            self.network.update(parameters)
            answers, _, patches, patch_weight = losses(self.network, collate(group), self._dtype)
            shown = patches / patch_weight * (len(group) / len(items))
            return answers / weight + patch_share * shown, (answers / weight, shown)

        total, loss, shown_loss = None, 0.0, 0.0
        low = cast_to(master, self._dtype)
        for start in range(0, len(items), self.settings.group):
            group = items[start : start + self.settings.group]
            (_, parts), gradients = mx.value_and_grad(objective)(low, group)
            gradients = cast_to(gradients, mx.float32)
            total = gradients if total is None else added(total, gradients)
            mx.eval(total, parts)
            loss, shown_loss = loss + float(parts[0]), shown_loss + float(parts[1])
        self.network.update(self.optimizer.update(master, total, schedule(self.settings, self.step)))
        mx.eval(self.network.parameters(), self.optimizer.state)
        self.step += 1
        return {"loss": loss, "patch_loss": shown_loss}

    def run(
        self, out: Path, *, until: int | None = None, processes: int = 0, note_every: int = 50, save_every: int = 1000
    ) -> None:
        """Train up to step `until` (default: the end), noting losses in `log.jsonl` and saving the state in `out`."""
        out.mkdir(parents=True, exist_ok=True)
        last = self.settings.steps if until is None else min(until, self.settings.steps)
        began, sums, count = time.perf_counter(), {"loss": 0.0, "patch_loss": 0.0}, 0
        with (out / LOG).open("a", encoding="utf-8") as log:
            source = batches(self.settings, self.step, self.faces, processes)
            while self.step < last:
                for name, value in self.learn(next(source)).items():
                    sums[name] += value
                count += 1
                if self.step % note_every == 0 or self.step == last:
                    took = time.perf_counter() - began
                    record = {"step": self.step, **{name: value / count for name, value in sums.items()}}
                    record["samples_per_second"] = round(count * self.settings.batch / took, 1)
                    log.write(json.dumps(record) + "\n")
                    log.flush()
                    began, sums, count = time.perf_counter(), dict.fromkeys(sums, 0.0), 0
                if self.step % save_every == 0 or self.step == last:
                    self.save(out)
            source.close()

    def save(self, out: Path) -> None:
        """Write the state to continue from and the checkpoint folder."""
        state = {f"weight/{name}": value for name, value in named(self.network.parameters())}
        metadata = {"step": str(self.step), "settings": json.dumps(asdict(self.settings))}
        temporary = out / f"new-{STATE}"
        mx.save_safetensors(str(temporary), {**state, **self.optimizer.state}, metadata)
        temporary.replace(out / STATE)
        layout.write(out / "checkpoint")
        weights = checkpoint(self.network, mx.bfloat16)
        mx.save_safetensors(str(out / "checkpoint" / "model.safetensors"), weights, {"format": "pt"})

    def resume(self, path: Path) -> None:
        """Continue from a saved state.

        Raises:
            ResumeError: the file is missing or of other settings or another architecture.
        """
        if not path.is_file():
            raise ResumeError(f"expected a saved state, found no file {path}; start without --resume")
        arrays, metadata = cast(tuple[dict[str, mx.array], dict[str, str]], mx.load(str(path), return_metadata=True))
        saved = json.loads(metadata.get("settings", "{}"))
        for field in fields(self.settings):
            if saved.get(field.name) != getattr(self.settings, field.name):
                raise ResumeError(
                    f"expected a state of {field.name} = {getattr(self.settings, field.name)}, "
                    f"{path.name} has {saved.get(field.name)}; resume with the settings it was saved with"
                )
        weights = {name.removeprefix("weight/"): value for name, value in arrays.items() if name.startswith("weight/")}
        own = {name: value.shape for name, value in named(self.network.parameters())}
        if {name: value.shape for name, value in weights.items()} != own:
            raise ResumeError(f"expected the weights of this architecture, {path.name} holds others")
        self.network.update(tree_of(weights.items()))
        self.optimizer.state = {name: arrays[name] for name in self.optimizer.state}
        self.step = self.optimizer.step_number = int(metadata["step"])


def num_parameters(network: Network) -> int:
    """Parameters of the checkpoint, the training-only head left out."""
    return int(sum(np.prod(value.shape) for _, value in named(network.model.parameters())))
