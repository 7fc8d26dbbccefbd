"""Hugging Face Trainer: a tiny, randomly initialized GPT-2 learns to count; one callback keeps noise out of files.

python examples/with_trainer.py
"""

import argparse
import os
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed
from transformers.utils import logging

from nvrm_fast import NVRMAdamW
from nvrm_fast.integrations.transformers import CleanWeights

logging.set_verbosity_error()
logging.disable_progress_bar()
NUMBERS = 20


def counting(count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Sequences that count up by 1, 2 or 3 from anywhere, modulo NUMBERS: two numbers tell all that follow."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(0, NUMBERS, (count, 1), generator=generator)
    stride = torch.randint(1, 4, (count, 1), generator=generator)
    ids = (start + stride * torch.arange(8)) % NUMBERS
    return [dict(input_ids=row, labels=row) for row in ids]


def make(folder: str, steps: int) -> Trainer:
    set_seed(0)
    config = GPT2Config(
        vocab_size=NUMBERS, n_positions=8, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    arguments = TrainingArguments(
        output_dir=folder, max_steps=steps, per_device_train_batch_size=32, per_device_eval_batch_size=200,
        eval_strategy="steps", eval_steps=steps // 4, save_strategy="steps", save_steps=steps // 2,
        logging_strategy="no", use_cpu=True, report_to=[], disable_tqdm=True, lr_scheduler_type="cosine",
    )  # fmt: skip
    return Trainer(
        model, arguments, train_dataset=counting(2000, seed=1), eval_dataset=counting(200, seed=2),
        optimizers=(NVRMAdamW(model.named_parameters(), lr=0.01, variability=0.01), None),
        callbacks=[CleanWeights()],  # the last of the callbacks
        compute_metrics=accuracy, preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
    )  # fmt: skip


def accuracy(prediction) -> dict[str, float]:
    """Of the numbers that can be known: from the third on."""
    guesses, ids = prediction.predictions[:, 1:-1], prediction.label_ids[:, 2:]
    return {"accuracy": float((guesses == ids).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--folder", help="for checkpoints; several processes need one that they share")
    arguments = parser.parse_args()
    steps = arguments.steps
    with nullcontext(arguments.folder) if arguments.folder else TemporaryDirectory() as folder:
        trainer = make(folder, steps)
        trainer.train()
        score = trainer.evaluate()["eval_accuracy"]

        path = Path(folder) / f"checkpoint-{steps}"
        saved = GPT2LMHeadModel.from_pretrained(path)  # clean, for whoever uses it
        same = all(torch.equal(p, q) for p, q in zip(saved.parameters(), trainer.model.parameters()))
        print(f"last checkpoint equal to the weights that were evaluated: {same}")

        resumed = make(folder, steps)
        resumed.train(resume_from_checkpoint=str(Path(folder) / f"checkpoint-{steps // 2}"))
        equal = all(torch.equal(p, q) for p, q in zip(resumed.model.parameters(), trainer.model.parameters()))
    print(f"resumed run equal to the uninterrupted one, bit for bit: {equal}")
    print(f"accuracy on clean weights {score:.3f}")


if __name__ == "__main__":
    main()
