"""The only caller of the model: encodes media, prefills one row in chunks, decodes all rows together.

Knows arrays, slots and caches. Does not know sampling, scheduling or requests.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import mlx.core as mx

from vlm_models import Attention, Features, Model, Prompt

from ..cache import CacheOptions, CacheSet, VisionFeatureCache, build_caches
from ..cache.buckets import batch_bucket, capacity_bucket

Adapters = tuple[str | None, ...] | None

# graphs kept, each for a batch and a capacity; an answer of 4k tokens passes through about twenty
MOST_GRAPHS = 64

log = logging.getLogger("vlm_runtime")


@dataclass(eq=False)
class Prefill:
    """A prompt on its way into a cache of one row.

    done: tokens in the cache. features: by item, None until it is encoded. context_features: of the prompt's context.
    """

    prompt: Prompt
    caches: CacheSet
    done: int = 0
    features: list[Features | None] = field(default_factory=list)
    context_features: list[Features | None] = field(default_factory=list)
    has_context: bool = False
    logits: mx.array | None = None
    hidden: mx.array | None = None


class Runner:
    """One model and the batch that decodes with it.

    Args:
        model: evaluated, or evaluated on this thread.
        options: form of the caches.
        model_key: under which features are shared between requests.
        compiles: trace decoding into one graph per batch and capacity; None: on a GPU.
    """

    def __init__(self, model: Model, options: CacheOptions, model_key: str, *, compiles: bool | None = None) -> None:
        self.model, self.options, self.model_key = model, options, model_key
        self._compiles = mx.default_device().type == mx.DeviceType.gpu if compiles is None else compiles
        self._graphs: OrderedDict[Any, Callable[..., list[mx.array]]] = OrderedDict()
        self.specs = model.cache_spec()
        self.dtype = model.dtype
        self.caches = self._build()
        self.num_slots = 0
        self._hidden: mx.array | None = None
        self._axes = 1

    def _build(self) -> CacheSet:
        return build_caches(self.specs, self.options, dtype=self.dtype)

    # prefill ---------------------------------------------------------------------------------------------------------

    def begin(self, prompt: Prompt, found: CacheSet | None = None, done: int = 0) -> Prefill:
        """Start a prompt, `done` tokens of which are in caches found earlier."""
        caches = self._build() if found is None else found.copy()
        if found is not None:
            caches.trim(done)
        caches.reserve(1, len(prompt) + 1)  # at once: growing with the chunks would copy it again and again
        self._axes = prompt.positions.shape[0]  # the same for every prompt of a model
        context = prompt.context
        return Prefill(
            prompt,
            caches,
            done,
            [None] * len(prompt.items),
            [None] * (len(context.items) if context is not None else 0),
        )

    def encode(self, work: Prefill, cache: VisionFeatureCache, budget: int) -> bool:
        """Encode media that the rest of the prompt takes, at most about `budget` feature rows of them. True when none is left."""
        needed = sorted({span.item for span in work.prompt.spans if span.stop > work.done})
        if not self._encode(work.prompt, work.features, needed, cache, budget):
            return False
        context = work.prompt.context
        if context is None or work.has_context:
            return True
        if not self._encode(context, work.context_features, list(range(len(context.items))), cache, budget):
            return False
        self.model.encode_context(context, cast(list[Features], work.context_features), work.caches.layers)
        work.has_context = True
        return True

    def _encode(
        self,
        prompt: Prompt,
        features: list[Features | None],
        needed: Sequence[int],
        cache: VisionFeatureCache,
        budget: int,
    ) -> bool:
        group: list[int] = []
        rows = 0
        is_complete = True
        for index in needed:
            item = prompt.items[index]
            if features[index] is None and item.digest:
                features[index] = cache.get(self.model_key, item.digest)
            if features[index] is not None:
                continue
            if group and rows + item.num_tokens > budget:
                is_complete = False
                break
            group.append(index)
            rows += item.num_tokens
        if group:
            encoded = self.model.encode([prompt.items[index] for index in group])
            mx.eval([array for one in encoded for array in one.arrays()])
            for index, one in zip(group, encoded, strict=True):
                features[index] = one
                if prompt.items[index].digest:
                    cache.put(self.model_key, prompt.items[index].digest, one)
        return is_complete

    def prefill(self, work: Prefill, stop: int) -> None:
        """Run tokens [done, stop); after the last one `work.logits` [1, V] and `work.hidden` [1, 1, D] are set."""
        prompt, start = work.prompt, work.done
        length = stop - start
        spans = prompt.spans_in(start, stop)
        inputs = self.model.embed(mx.array(prompt.tokens[start:stop])[None], cast(list[Features], work.features), spans)
        plan = Attention.at(start, length, blocks=prompt.block_ids(start, stop))
        positions = mx.array(prompt.positions[:, None, start:stop])
        adapters = None if prompt.adapter is None else [prompt.adapter]
        output = self.model(
            inputs, positions, plan, work.caches.layers, select=slice(length - 1, length), adapters=adapters
        )
        work.caches.settle()
        work.done = stop
        if stop == len(prompt):
            work.logits, work.hidden = output.logits[:, -1], output.hidden[:, -1:]
            mx.eval(work.logits, work.hidden, work.caches.arrays())
        else:
            mx.eval(work.caches.arrays())

    # decode ----------------------------------------------------------------------------------------------------------

    def room_for(self, rows: int) -> None:
        """Have at least so many slots."""
        if rows > self.num_slots:
            self.num_slots = batch_bucket(rows)
            self.caches.reserve(self.num_slots, 1)
            if self._hidden is not None:
                self._hidden = mx.pad(self._hidden, [(0, self.num_slots - self._hidden.shape[0]), (0, 0), (0, 0)])

    def join(self, slot: int, work: Prefill) -> None:
        """Copy a finished prefill into a slot."""
        if work.hidden is None:
            raise ValueError("join: the prefill is not finished")
        if self.num_slots == 1:
            # nothing to copy into: the row's own caches become the batch
            self.caches, self._hidden = work.caches.copy(), work.hidden
            return
        self.caches.join(slot, work.caches, work.done)
        if self._hidden is None:
            self._hidden = mx.zeros((self.num_slots, *work.hidden.shape[1:]), work.hidden.dtype)
        self._hidden[slot : slot + 1] = work.hidden

    def keep_slots(self, slots: list[int]) -> None:
        """Keep only these slots, renumbered in this order; none: all storage is given back."""
        if not slots:
            self.caches, self.num_slots, self._hidden = self._build(), 0, None
            return
        self.caches.keep_rows(slots)
        if self._hidden is not None:
            self._hidden = mx.take(self._hidden, mx.array(slots), axis=0)
        self.num_slots = len(slots)
        bucket = batch_bucket(len(slots))
        if bucket > len(slots):
            self.room_for(bucket)

    def decode(
        self, tokens: mx.array, starts: Sequence[int], deltas: Sequence[int], adapters: Sequence[str | None]
    ) -> mx.array:
        """Run one token per slot; logits [B, V].

        tokens: int32 [B]. starts: tokens each slot's row has in the caches. deltas: position minus index of each row."""
        longest = max(starts) + 1
        self.caches.reserve(self.num_slots, longest)
        positions = self._positions(starts, deltas, 1)
        named = tuple(adapters) if any(adapters) else None
        if self._compiles:
            logits = self._decode_compiled(tokens, positions, starts, longest, named)
            if logits is not None:
                return logits
        self.caches.set_extent(longest)
        logits, self._hidden = self._step(tokens, self._hidden, positions, Attention.ragged(starts, 1), named)
        return logits

    def _step(
        self, tokens: mx.array, hidden: mx.array | None, positions: mx.array, plan: Attention, adapters: Adapters
    ) -> tuple[mx.array, mx.array]:
        inputs = self.model.feedback(cast(mx.array, hidden), tokens[:, None])
        output = self.model(inputs, positions, plan, self.caches.layers, adapters=adapters)
        self.caches.settle()
        return output.logits[:, -1], output.hidden[:, -1:]

    def _decode_compiled(
        self, tokens: mx.array, positions: mx.array, starts: Sequence[int], longest: int, adapters: Adapters
    ) -> mx.array | None:
        """One call of a traced graph, kept for the batch and the capacity; None where the model cannot be traced.

        A graph looks at as many tokens as the caches have room for, so that it serves every length until they grow."""
        extent = capacity_bucket(longest)
        self.caches.set_extent(extent)
        before = self.caches.arrays()
        key = (self.num_slots, extent, adapters, len(before))
        if key not in self._graphs:
            self._graphs[key] = mx.compile(partial(self._traced, adapters))
            if len(self._graphs) > MOST_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        try:
            logits, self._hidden, *after = self._graphs[key](
                tokens, self._hidden, positions, mx.array(list(starts), mx.int32), before
            )
        except (RuntimeError, ValueError, TypeError) as error:
            # a model that looks at values on the host while it runs; step by step it says what is wrong, if anything is
            log.warning("decoding goes step by step: %s cannot be traced: %s", type(self.model).__module__, error)
            self._compiles = False
            self.caches.load(before)
            return None
        self.caches.load(after)
        return logits

    def _traced(
        self,
        adapters: Adapters,
        tokens: mx.array,
        hidden: mx.array | None,
        positions: mx.array,
        offsets: mx.array,
        arrays: list[mx.array],
    ) -> list[mx.array]:
        self.caches.load(arrays)
        logits, hidden = self._step(tokens, hidden, positions, Attention(1, offsets), adapters)
        return [logits, hidden, *self.caches.arrays()]

    def verify(
        self, tokens: mx.array, starts: Sequence[int], deltas: Sequence[int], adapters: Sequence[str | None]
    ) -> mx.array:
        """Run tokens [B, L] of drafts at once; logits [B, L, V]. What is not accepted is overwritten by later calls."""
        length = tokens.shape[1]
        longest = max(starts) + length
        self.caches.reserve(self.num_slots, longest)
        self.caches.set_extent(longest)
        output = self.model(
            self.model.embed(tokens, (), ()),
            self._positions(starts, deltas, length),
            Attention.ragged(starts, length),
            self.caches.layers,
            adapters=adapters if any(adapters) else None,
        )
        self.caches.settle()
        return output.logits

    def _positions(self, starts: Sequence[int], deltas: Sequence[int], length: int) -> mx.array:
        first = mx.array([s + d for s, d in zip(starts, deltas, strict=True)], mx.int32)[:, None]
        line = first + mx.arange(length)[None]
        return mx.broadcast_to(line[None], (self._axes, *line.shape))

    def state(self) -> list[mx.array]:
        """Arrays that the next call depends on."""
        return self.caches.arrays()
