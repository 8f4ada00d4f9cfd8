"""Ask transformers what the demo checkpoint answers, on held-out items of the recipe or on independent pictures.

`python judge.py CHECKPOINT --items 300 [--independent] [--fonts DIR...]` prints the table of answers and the wrong ones.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import environment

environment.prepare()

import independent  # noqa: E402  (environment comes first)
import torch  # noqa: E402  (environment comes first)
from PIL import Image  # noqa: E402  (environment comes first)
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration  # noqa: E402  (environment comes first)

from vlm_train.recipes.demo import encoding, evaluation, fonts, layout, preprocessing  # noqa: E402  (environment comes first)
from vlm_train.recipes.demo.evaluation import Score  # noqa: E402  (environment comes first)


@dataclass(frozen=True)
class Question:
    """Pictures, the questions about them and their answers; the last question is the one to judge."""

    task: str
    images: list[Image.Image]
    asked: list[str]
    answers: list[str]
    thinking: bool = False
    is_bare: bool = False


def questions(options: argparse.Namespace) -> list[Question]:
    """What to ask."""
    if options.independent:
        made = independent.items(options.items, options.seed, options.fonts, options.tasks)
        return [Question(*item) for item in made]
    faces = fonts.find(options.fonts)
    asked = []
    for task in options.tasks or evaluation.TARGETS:
        rng = random.Random(f"{options.seed}/{task}")
        for _ in range(options.items):
            sample = evaluation.draw(task, faces, rng)
            exchanges = sample.exchanges
            texts = [e.question for e in exchanges], [e.answer for e in exchanges]
            asked.append(Question(task, list(sample.images), *texts, sample.thinking, sample.is_bare))
    return asked


class Judge:
    def __init__(self, checkpoint: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.model = Qwen2VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.mean = torch.tensor(layout.IMAGE_MEAN).repeat_interleave(196)
        self.std = torch.tensor(layout.IMAGE_STD).repeat_interleave(196)

    def pixels(self, images: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        """pixel_values and image_grid_thw."""
        rows, grids = [], []
        for image in images:
            resized = preprocessing.resize(image.convert("RGB"))
            flat = (torch.from_numpy(preprocessing.patches(resized)).float() / 255 - self.mean) / self.std
            rows.append(flat.view(len(flat), 3, 1, 196).expand(-1, -1, 2, -1).reshape(len(flat), -1))
            grids.append([1, resized.shape[0] // 14, resized.shape[1] // 14])
        return torch.cat(rows), torch.tensor(grids)

    @torch.no_grad()
    def ask(self, question: Question) -> str:
        """The answer to the last question, the earlier ones having been answered rightly."""
        images, messages = question.images, []
        for index, text in enumerate(question.asked):
            media = [{"type": "image"} for _ in images] if index == 0 else []
            messages.append({"role": "user", "content": [*media, {"type": "text", "text": text}]})
            if index + 1 < len(question.asked):
                messages.append({"role": "assistant", "content": question.answers[index]})
        prompt = question.asked[0]
        if not question.is_bare:
            prompt = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=question.thinking
            )
        media = {}
        if images:
            values, grid = self.pixels(images)
            for rows, columns in grid[:, 1:].tolist():
                prompt = prompt.replace("<|image_pad|>", "<|slot|>" * (rows * columns // 4), 1)
            prompt = prompt.replace("<|slot|>", "<|image_pad|>")
            media = {"pixel_values": values, "image_grid_thw": grid}
        ids = torch.tensor([self.tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        if images:
            media["mm_token_type_ids"] = (ids == encoding.IMAGE_ID).long()
        out = self.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=220, do_sample=False, **media
        )
        return self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--independent", action="store_true")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--fonts", nargs="+", default=list(fonts.FOLDERS))
    parser.add_argument("--same", type=Path, help="answers that the evaluation command wrote for the same items")
    parser.add_argument("--wrong", type=Path, help="write the wrong answers here, one JSON object a line")
    options = parser.parse_args()
    judge = Judge(options.checkpoint)
    tally: dict[str, list[int]] = {}
    wrong = []
    theirs = iter(options.same.read_text(encoding="utf-8").splitlines()) if options.same else None
    equal = asked_in_all = 0
    for question in questions(options):
        task, expected = question.task, question.answers[-1]
        said = judge.ask(question)
        if theirs is not None:
            other = json.loads(next(theirs))
            asked_in_all += 1
            equal += other == {"task": task, "said": said}
            if other["said"] != said:
                print(f"differs: {task}: transformers {said!r}, runtime {other['said']!r}")
        right = (
            expected in said.lower()
            if options.independent and task == "describe"
            else evaluation.is_right(said, expected)
        )
        edits = evaluation.distance(evaluation.answer(said), expected)
        counts = tally.setdefault(task, [0, 0, 0, 0, 0])
        for index, value in enumerate((int(right), 1, edits, len(expected), int(evaluation.is_json(said)))):
            counts[index] += value
        if not right:
            wrong.append(
                {
                    "task": task,
                    "question": question.asked[-1],
                    "expected": expected,
                    "said": said,
                    "sizes": [i.size for i in question.images],
                }
            )
            if len(wrong) <= 40 and question.images and options.wrong:
                question.images[0].save(options.wrong.with_suffix(f".{len(wrong)}.png"))
    scores = [
        Score(
            task,
            right,
            total,
            edits / length if task in ("line", "lines") or task.startswith("read") else None,
            valid if task == "receipt" else None,
        )
        for task, (right, total, edits, length, valid) in tally.items()
    ]
    print(evaluation.table(scores))
    if theirs is not None:
        print(f"{equal} of {asked_in_all} answers are the same")
    if options.wrong:
        options.wrong.write_text("".join(json.dumps(record) + "\n" for record in wrong), encoding="utf-8")


if __name__ == "__main__":
    main()
