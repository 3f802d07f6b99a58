"""Sweeps with a made-up function that stands for training, without JAX, so that worker processes start at once."""

import math
import sys
import time
from pathlib import Path

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import Diverged, Pruned
from finetune_jax.studies.sweeps import sweep as hpo
from finetune_jax.studies.sweeps.search import Point, Search
from finetune_jax.studies.sweeps.trial_queue import TrialQueue

BASE = FinetuneConfig(dataset="digits", epochs=4)
GRID = Search(learning_rates=(0.01, 0.1), momenta=(0.0, 0.9), weight_decays=(0.0, 0.001))


def accuracy(config):
    """Best at an effective rate of 0.1; a little worse with weight decay, better with a higher seed."""
    distance = abs(math.log10(config.learning_rate / (1 - config.momentum)) + 1)
    return 0.9 - 0.1 * distance - config.weight_decay + 0.001 * config.seed


class MadeUp:
    """Training by :func:`accuracy`, halfway there after the first epoch; notes the runs."""

    def __init__(self, formula=accuracy):
        self.formula = formula
        self.names = []
        self.summaries = {}
        self.epochs = {}

    def __call__(self, jobs):
        return [self.one(job) for job in jobs]

    def one(self, job):
        self.names.append(job.name)
        score = self.formula(job.config)
        if math.isnan(score):
            return Diverged(f"{job.name} was too fast")
        try:
            for epoch in range(1, job.config.epochs + 1):
                self.epochs[job.name] = epoch
                job.after_epoch(
                    {"epoch": epoch, "validation_accuracy": score * (epoch + 3) / (job.config.epochs + 3)}
                )
        except Pruned as pruned:
            return pruned
        self.summaries[job.name] = {"validation_accuracy": score, "test_accuracy": score - 0.05}
        return self.summaries[job.name]


def queue_of(storage, search=GRID, base=BASE, seeds=(0,), **more):
    return TrialQueue(str(storage), "sweep", search, hpo.settings(base, search, seeds), **more)


def sweep(storage, train, search=GRID, base=BASE, seeds=(0,), **more):
    records = hpo.run(base, search, seeds, queue_of(storage, search, base, seeds), train, **more)
    return hpo.result(base, search, seeds, records, train.summaries.get)


def points(result, *states):
    names = Point._fields
    return {tuple(trial[name] for name in names) for trial in result["trials"] if trial["state"] in states}


def work(log, storage, stuck):
    """A worker that notes the runs it begins, and does not come back from one whose name starts with ``stuck``."""
    train = MadeUp()

    def noted(jobs):
        for job in jobs:
            with Path(log).open("a") as file:
                file.write(f"{job.name}\n")
            time.sleep(600 if job.name.startswith(stuck) else 0.02)
        return train(jobs)

    noted.summaries = train.summaries
    print(len(points(sweep(storage, noted), "complete")))


if __name__ == "__main__":
    work(*sys.argv[1:])
