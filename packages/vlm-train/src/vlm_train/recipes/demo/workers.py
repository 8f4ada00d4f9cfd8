"""Drawing on many cores: processes fill batches in shared memory, in a fixed order whatever their number."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np

from vlm_train.recipes.demo import encoding, samples
from vlm_train.recipes.demo.encoding import Encoded
from vlm_train.recipes.demo.packing import Arrays, Capacity, pack


def fill(arrays: Arrays, capacity: Capacity, step: int, progress: float, seed: int, faces: Sequence[str]) -> None:
    """Fill `arrays` with the batch of a step; the same arguments give the same batch."""
    rng = random.Random(f"{seed}/{step}")

    def draw(rng: random.Random) -> Encoded:
        return encoding.encode(samples.draw(progress, faces, rng), rng)

    pack(draw, capacity, rng, arrays)


def allocate(capacity: Capacity, buffer: mmap.mmap | None = None) -> Arrays:
    """Arrays of a batch, in `buffer` if given, else in memory of their own."""
    arrays, offset = {}, 0
    for name, (shape, dtype) in capacity.layout().items():
        if buffer is None:
            arrays[name] = np.zeros(shape, dtype)
        else:
            count = int(np.prod(shape))
            arrays[name] = np.frombuffer(buffer, dtype, count, offset).reshape(shape)
            offset += -(-count * np.dtype(dtype).itemsize // 64) * 64
    return arrays


def num_bytes(capacity: Capacity) -> int:
    """Bytes of one batch."""
    return sum(
        -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 64) * 64 for shape, dtype in capacity.layout().values()
    )


class Workers:
    """A ring of batches that forked processes keep full.

    Start it before any GPU is touched. Iterating gives the batches of `steps` in order; the arrays of one stay valid
    until the next is asked for.
    """

    def __init__(
        self,
        steps: range,
        total: int,
        capacity: Capacity,
        faces: Sequence[str],
        *,
        seed: int,
        num_processes: int,
        num_slots: int | None = None,
    ) -> None:
        context = multiprocessing.get_context("fork")
        self.steps, self.total, self.capacity, self.seed, self.faces = steps, total, capacity, seed, faces
        num_slots = num_slots or 2 * num_processes
        self._buffers = [mmap.mmap(-1, num_bytes(capacity)) for _ in range(num_slots)]
        self._slots = [allocate(capacity, buffer) for buffer in self._buffers]
        self._free = [context.Semaphore(1) for _ in self._slots]
        self._full = [context.Semaphore(0) for _ in self._slots]
        self._processes = [
            context.Process(target=self._work, args=(index, num_processes), daemon=True)
            for index in range(num_processes)
        ]
        for process in self._processes:
            process.start()

    def _work(self, index: int, stride: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.nice(5)
        for number in range(index, len(self.steps), stride):
            step, slot = self.steps[number], number % len(self._slots)
            self._free[slot].acquire()
            fill(self._slots[slot], self.capacity, step, step / self.total, self.seed, self.faces)
            self._full[slot].release()

    def __iter__(self) -> Iterator[Arrays]:
        for number in range(len(self.steps)):
            slot = number % len(self._slots)
            while not self._full[slot].acquire(timeout=5):
                if any(process.exitcode not in (None, 0) for process in self._processes):
                    raise RuntimeError("expected every drawing process to live, one has ended; see its error above")
            yield self._slots[slot]
            self._free[slot].release()

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
