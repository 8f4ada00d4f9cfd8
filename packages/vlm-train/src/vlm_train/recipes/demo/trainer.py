"""The training loop on MLX: draw, learn, note, save; a resumed run equals an uninterrupted one."""

from __future__ import annotations

import json
import math
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

from vlm_models import load
from vlm_train.errors import ResumeError
from vlm_train.recipes.demo import encoding, layout, samples
from vlm_train.recipes.demo.encoding import Encoded
from vlm_train.recipes.demo.network import Batch, Network, checkpoint, collate, losses
from vlm_train.recipes.demo.optimizer import Optimizer
from vlm_train.recipes.demo.parameters import added, cast_to, named, tree_of

STATE = "state.safetensors"
LOG = "log.jsonl"


@dataclass(frozen=True)
class Settings:
    """What decides the outcome of a run; a resumed run must have the same."""

    steps: int = 9000
    batch: int = 480  # samples a step
    group: int = 120  # samples that go through the model together, alike in size
    rate: float = 2e-3
    warm: float = 0.01  # share of the steps in which the rate rises
    tail: float = 0.45  # share of the steps in which it falls to zero
    seed: int = 1
    dtype: str = "bfloat16"
    minutes: float = 0.0  # end here even if `steps` are not done, the rate falling in time; 0: no such end
    start: float = 0.0  # how far through the curriculum to start, 0 to 1


def progress(settings: Settings, step: float, elapsed: float = 0.0) -> float:
    """How much of the run is over (0 to 1) before a step, `elapsed` seconds of training after its start."""
    return max(step / settings.steps, elapsed / 60 / settings.minutes if settings.minutes else 0.0)


def schedule(settings: Settings, step: int, elapsed: float = 0.0) -> float:
    """The rate of a step, counted from 0."""
    done = progress(settings, step + 0.5, elapsed)
    warmed = (step + 0.5) / settings.steps / settings.warm
    return settings.rate * max(0.0, min(1.0, warmed, (1 - done) / settings.tail))


def draw_batch(settings: Settings, step: int, faces: tuple[str, ...]) -> list[Encoded]:
    """The samples of a step, small pictures first; the same arguments give the same samples."""
    rng = random.Random(f"{settings.seed}/{step}")
    hardness = settings.start + (1 - settings.start) * step / settings.steps
    drawn = [samples.draw(hardness, faces, rng) for _ in range(settings.batch)]
    encoded = [encoding.encode(sample, rng) for sample in drawn]
    return sorted(encoded, key=lambda item: (max((len(p) for p in item.patches), default=0), len(item.tokens)))


def padded(settings: Settings, items: list[Encoded]) -> list[Batch]:
    """The samples of a step in groups that go through the model together."""
    return [collate(items[start : start + settings.group]) for start in range(0, len(items), settings.group)]


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
        self.step, self.elapsed = 0, 0.0
        self._dtype = {"bfloat16": mx.bfloat16, "float32": mx.float32}[settings.dtype]

    def start_from(self, folder: Path | str) -> None:
        """Take the weights of a checkpoint folder; the patch head, which no checkpoint has, stays new.

        Raises:
            VlmError: the checkpoint cannot be loaded or is of another architecture.
        """
        loaded = load(folder, dtype=mx.float32)
        own = {name: value.shape for name, value in named(self.network.model.parameters())}
        if {name: value.shape for name, value in named(loaded.model.parameters())} != own:
            raise ResumeError(f"expected a checkpoint of the demo's architecture, {folder} has another")
        self.network.model.update(loaded.model.parameters())

    def learn(self, groups: list[Batch]) -> dict[str, float]:
        """One step on the samples of a batch, padded in groups; its losses."""
        weight, count = sum(group.total_weight for group in groups), sum(group.num_samples for group in groups)
        hardness = self.settings.start + (1 - self.settings.start) * self.step / self.settings.steps
        patch_share = 0.5 if hardness < 0.3 else 0.15
        master = self.network.trainable_parameters()

        def objective(parameters: Any, group: Batch) -> tuple[mx.array, tuple[mx.array, mx.array]]:
            self.network.update(parameters)
            answers, _, patches, patch_weight = losses(self.network, group, self._dtype)
            shown = patches / patch_weight * (group.num_samples / count)
            return answers / weight + patch_share * shown, (answers / weight, shown)

        total, loss, shown_loss = None, mx.array(0.0), mx.array(0.0)
        low = cast_to(master, self._dtype)
        for group in groups:
            (_, parts), gradients = mx.value_and_grad(objective)(low, group)
            gradients = cast_to(gradients, mx.float32)
            total = gradients if total is None else added(total, gradients)
            loss, shown_loss = loss + parts[0], shown_loss + parts[1]
            mx.async_eval(total, loss, shown_loss)
        rate = schedule(self.settings, self.step, self.elapsed)
        self.network.update(self.optimizer.update(master, total, rate))
        mx.eval(self.network.parameters(), self.optimizer.state)
        self.step += 1
        return {"loss": float(loss), "patch_loss": float(shown_loss)}

    def run(
        self,
        out: Path,
        *,
        until: int | None = None,
        processes: int = 0,
        note_every: int = 50,
        save_every: int = 1000,
        save_seconds: float = math.inf,
    ) -> None:
        """Train up to step `until` (default: the end), noting losses in `log.jsonl` and saving the state in `out`.

        Args:
            save_every, save_seconds: save after so many steps, and when so much time has passed since the last time.
        """
        out.mkdir(parents=True, exist_ok=True)
        last = self.settings.steps if until is None else min(until, self.settings.steps)
        began, sums, count = time.perf_counter(), {"loss": 0.0, "patch_loss": 0.0}, 0
        started, saved = began - self.elapsed, began
        with (out / LOG).open("a", encoding="utf-8") as log:
            source = batches(self.settings, self.step, self.faces, processes)
            while self.step < last and progress(self.settings, self.step, self.elapsed) < 1:
                for name, value in self.learn(padded(self.settings, next(source))).items():
                    sums[name] += value
                count += 1
                self.elapsed = time.perf_counter() - started
                is_last = self.step == last or progress(self.settings, self.step, self.elapsed) >= 1
                if self.step % note_every == 0 or is_last:
                    took = time.perf_counter() - began
                    record = {"step": self.step, **{name: value / count for name, value in sums.items()}}
                    record["samples_per_second"] = round(count * self.settings.batch / took, 1)
                    record["seconds"] = round(self.elapsed, 1)
                    log.write(json.dumps(record) + "\n")
                    log.flush()
                    began, sums, count = time.perf_counter(), dict.fromkeys(sums, 0.0), 0
                if self.step % save_every == 0 or is_last or time.perf_counter() - saved > save_seconds:
                    self.save(out)
                    saved = time.perf_counter()
            source.close()

    def save(self, out: Path) -> None:
        """Write the state to continue from and the checkpoint folder."""
        state = {f"weight/{name}": value for name, value in named(self.network.parameters())}
        metadata = {"step": str(self.step), "elapsed": str(self.elapsed), "settings": json.dumps(asdict(self.settings))}
        temporary = out / f"new-{STATE}"
        mx.save_safetensors(str(temporary), {**state, **self.optimizer.state}, metadata)
        temporary.replace(out / STATE)
        layout.write(out / "checkpoint")
        weights = checkpoint(self.network, mx.bfloat16)
        mx.save_safetensors(str(out / "new-model.safetensors"), weights, {"format": "pt"})
        (out / "new-model.safetensors").replace(out / "checkpoint" / "model.safetensors")

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
        self.elapsed = float(metadata["elapsed"])


def num_parameters(network: Network) -> int:
    """Parameters of the checkpoint, the training-only head left out."""
    return int(sum(np.prod(value.shape) for _, value in named(network.model.parameters())))
