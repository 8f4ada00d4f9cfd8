"""How fast the demo recipe trains on MLX and on torch: the same samples in the same batches, one after the other.

`python timing.py --seconds 10 [--batch 240] [--groups 60 120]` draws a few batches, starts a process for each side,
lets both compile, times one, then the other, and prints steps and samples a second. What the device does is timed: the
batches lie ready in memory, as the drawing processes of both recipes leave them.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from vlm_train.recipes.demo import encoding, fonts, layout, samples
from vlm_train.recipes.demo.encoding import Encoded

RATE = 1e-5
WARM_STEPS = 4


def draw(number: int, size: int, faces: tuple[str, ...]) -> list[Encoded]:
    """Batch `number`, the hardness of the middle of the training, small pictures first."""
    rng = random.Random(f"timing/{number}")
    items = [encoding.encode(samples.draw(0.6, faces, rng), rng) for _ in range(size)]
    return sorted(items, key=lambda item: (max((len(p) for p in item.patches), default=0), len(item.tokens)))


def timed(step: Callable[[int], object], finish: Callable[[], object], seconds: float) -> tuple[int, float]:
    """Steps in about `seconds`, and the seconds they took; `finish` waits for the device."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step(count)
        count += 1
        finish()
    finish()
    return count, time.perf_counter() - began


def turn(folder: Path, name: str, seconds: float) -> None:
    """Say that `name` has warmed up and wait until it may time."""
    (folder / f"{name}.warm").touch()
    limit = time.time() + 20 * seconds + 300
    while not (folder / f"{name}.go").exists():
        if time.time() > limit:
            raise SystemExit(f"{name} waited in vain for its turn")
        time.sleep(0.05)


def time_mlx(folder: Path, seconds: float, group: int, faces: tuple[str, ...]) -> None:
    import mlx.core as mx

    mx.set_cache_limit(24 << 30)  # the sides warm up together, on one device
    from vlm_train.recipes.demo.trainer import Settings, Trainer, padded

    batches: list[list[Encoded]] = pickle.loads((folder / "batches").read_bytes())
    settings = Settings(steps=10**6, batch=len(batches[0]), group=group, rate=RATE)
    trainer = Trainer(settings, faces)
    began = time.perf_counter()
    ready = [padded(settings, items) for items in batches]
    padding = (time.perf_counter() - began) / len(batches)
    for number in range(WARM_STEPS):
        trainer.learn(ready[number % len(ready)])
    name = f"mlx-{group}"
    turn(folder, name, seconds)
    count, took = timed(lambda n: trainer.learn(ready[n % len(ready)]), mx.synchronize, seconds)
    patches = sum(group.pixels.shape[0] * group.pixels.shape[1] for groups in ready for group in groups) / len(ready)
    print(f"MLX {mx.__version__}, groups of {group}: padding {1000 * padding:.0f} ms a batch, {patches:.0f} patches")
    (folder / f"{name}.result").write_text(f"{count / took} {count / took * settings.batch}")


def time_torch(folder: Path, seconds: float) -> None:
    import torch
    from torch_model import Demo
    from torch_train import Learner, moved

    from vlm_train.recipes.demo import workers
    from vlm_train.recipes.demo.packing import Capacity, pack_all

    batches: list[list[Encoded]] = pickle.loads((folder / "batches").read_bytes())
    most = {
        "patches": max(sum(len(p) for item in items for p in item.patches) for items in batches),
        "tokens": max(sum(len(item.tokens) for item in items) for items in batches),
        "targets": max(sum(int((item.weights > 0).sum()) for item in items) for items in batches),
        "images": max(sum(len(item.patches) for item in items) for items in batches),
    }
    room = Capacity(
        patches=-(-most["patches"] // 256) * 256 + 256,
        tokens=most["tokens"] + most["patches"] // 4 + 1024,
        images=most["images"] + most["patches"] // 256 + 16,
        sequences=len(batches[0]) + (most["tokens"] + most["patches"]) // 128 + 64,
        targets=most["targets"] + 8,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    ready = []
    for items in batches:
        arrays = workers.allocate(room)
        pack_all(items, room, arrays)
        ready.append(moved(arrays, device))
    model = Demo(layout.config(), encoding.NUM_PATCH_CLASSES, layout.IMAGE_MEAN, layout.IMAGE_STD).to(device)
    learner = Learner(model, device, compiled=device.type == "cuda")
    finish = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for number in range(WARM_STEPS):
        learner.step(ready[number % len(ready)], RATE, 0.15)
    finish()
    turn(folder, "torch", seconds)
    count, took = timed(lambda n: learner.step(ready[n % len(ready)], RATE, 0.15), finish, seconds)
    print(f"torch {torch.__version__}: {room.patches} patches, {room.tokens} tokens packed")
    (folder / "torch.result").write_text(f"{count / took} {count / took * len(batches[0])}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=240)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--groups", type=int, nargs="*", default=[60, 120], help="samples MLX pads together")
    parser.add_argument("--fonts", nargs="+", default=list(fonts.FOLDERS))
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter that has torch")
    parser.add_argument("--mlx-python", default=sys.executable, help="interpreter that has MLX")
    parser.add_argument("--role", choices=["torch", "mlx"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    faces = fonts.find(options.fonts)
    if options.role == "mlx":
        time_mlx(options.folder, options.seconds, options.groups[0], faces)
        return
    if options.role == "torch":
        time_torch(options.folder, options.seconds)
        return
    folder = Path(tempfile.mkdtemp())
    with ProcessPoolExecutor(min(options.batches, os.cpu_count() or 1)) as pool:
        batches = list(pool.map(partial(draw, size=options.batch, faces=faces), range(options.batches)))
    (folder / "batches").write_bytes(pickle.dumps(batches))
    sides = {"torch": ("torch", options.torch_python, 0)}
    sides |= {f"mlx-{group}": ("mlx", options.mlx_python, group) for group in options.groups}
    common = ["--seconds", str(options.seconds), "--folder", str(folder), "--fonts", *options.fonts]
    processes = {
        name: subprocess.Popen([python, __file__, "--role", role, "--groups", str(group), *common])
        for name, (role, python, group) in sides.items()
    }

    def wait(name: str, suffix: str) -> bool:
        while not (folder / f"{name}.{suffix}").exists():
            if processes[name].poll() not in (None, 0):
                return False
            time.sleep(0.05)
        return True

    alive = [name for name in sides if wait(name, "warm")]  # nobody compiles while another is timed
    speeds: dict[str, tuple[float, float]] = {}
    for name in alive:
        (folder / f"{name}.go").touch()
        if wait(name, "result"):
            processes[name].wait()
            steps, items = map(float, (folder / f"{name}.result").read_text().split())
            speeds[name] = steps, items
    for name in sides:
        if name not in speeds:
            print(f"{name}: failed, see above")
            continue
        steps, items = speeds[name]
        ratio = f", torch is {speeds['torch'][1] / items:.2f} times as fast" if "torch" in speeds else ""
        print(f"{name}: {steps:.2f} steps/s, {items:.0f} samples/s{ratio}")


if __name__ == "__main__":
    main()
