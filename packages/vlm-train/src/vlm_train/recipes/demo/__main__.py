"""`python -m vlm_train.recipes.demo --out DIR` trains the demo model; `... evaluate CHECKPOINT` prints its table."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from vlm_kernels import VlmError
from vlm_train.recipes.demo import evaluation, fonts
from vlm_train.recipes.demo.fonts import FontError


def train(arguments: Sequence[str]) -> None:
    """Train, from nothing or from the state in --out."""
    from vlm_train.recipes.demo.trainer import STATE, Settings, Trainer  # MLX, which evaluation's help does not need

    parser = argparse.ArgumentParser("python -m vlm_train.recipes.demo", description="Train the demo model on MLX.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the state, the checkpoint and log.jsonl")
    parser.add_argument("--resume", action="store_true", help="continue from the state in --out")
    parser.add_argument("--start-from", help="a checkpoint folder whose weights to begin with")
    parser.add_argument("--until", type=int, help="stop after this step, to be resumed later")
    parser.add_argument(
        "--fonts", nargs="+", default=list(fonts.FOLDERS), help="folders with DejaVu or Liberation fonts"
    )
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="that draw; 0: none")
    parser.add_argument("--note-every", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=1000, help="steps")
    parser.add_argument("--save-seconds", type=float, default=math.inf, help="save as often as that, too")
    defaults = Settings()
    for field in fields(Settings):
        value = getattr(defaults, field.name)
        parser.add_argument(f"--{field.name}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    trainer = Trainer(settings, fonts.find(options.fonts))
    if options.start_from:
        trainer.start_from(options.start_from)
    if options.resume:
        trainer.resume(options.out / STATE)
    trainer.run(
        options.out,
        until=options.until,
        processes=options.processes,
        note_every=options.note_every,
        save_every=options.save_every,
        save_seconds=options.save_seconds,
    )


def evaluate(arguments: Sequence[str]) -> None:
    """Print the table of a checkpoint."""
    from vlm_train.recipes.demo.answers import evaluate as score  # as above

    parser = argparse.ArgumentParser("python -m vlm_train.recipes.demo evaluate", description="Score a checkpoint.")
    parser.add_argument("checkpoint", help="a folder, or `demo` for the embedded model")
    parser.add_argument("--items", type=int, default=300, help="per task")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--tasks", nargs="+", choices=list(evaluation.TARGETS), metavar="TASK")
    parser.add_argument("--fonts", nargs="+", default=list(fonts.FOLDERS))
    parser.add_argument("--answers", type=Path, help="write every answer here, one JSON object a line")
    options = parser.parse_args(arguments)
    said_by_task: dict[str, list[str]] = {}
    right: Counter[str] = Counter()

    def watch(task: str, said: str, is_right: bool) -> None:
        said_by_task.setdefault(task, []).append(said)
        right[task] += is_right
        if len(said_by_task[task]) == options.items:
            sys.stderr.write(f"{task}: {right[task]}/{options.items}\n")

    scores = score(
        options.checkpoint,
        fonts.find(options.fonts),
        items=options.items,
        seed=options.seed,
        tasks=options.tasks,
        watch=watch,
    )
    if options.answers is not None:
        records = [{"task": task, "said": said} for task, answers in said_by_task.items() for said in answers]
        options.answers.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    sys.stdout.write(evaluation.table(scores) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 2 for an error the user can act on."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments and arguments[0] == "evaluate":
            evaluate(arguments[1:])
        else:
            train(arguments)
    except (VlmError, FontError) as error:  # fonts know nothing of MLX, on which VlmError's package depends
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
