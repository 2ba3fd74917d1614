"""Ours: `trunkline.tune` from JSON Lines files to a saved branch. Options: depth, method, test, and every field of Settings.

The clock counts the report too: intervals, baselines, and encoding the test rows, which the peers do off the clock. `measure` among the
stages says what of it comes after training. With test=after the test rows are encoded and measured off the clock, as the peers' are.
"""

from job import Job, begin

from trunkline import choices
from trunkline.data.read import read
from trunkline.data.split import split
from trunkline.evaluation.evaluate import evaluate
from trunkline.train.settings import Settings
from trunkline.train.tune import tune
from trunkline.types import Rows


def main() -> None:
    job = begin("depth", "method", "test", *(field.name for field in choices.settable(Settings)))
    told = dict(job.options)
    method, depth, after = told.pop("method", "full"), told.pop("depth", "2"), told.pop("test", "") == "after"
    told["task_options"] = ":".join(filter(None, [f"max_tokens={job.max_tokens}", told.get("task_options")]))
    same = {"epochs": job.epochs, "patience": job.patience, "batch_size": job.batch_size, "seed": job.seed, "threads": job.threads}
    settings = choices.build(Settings, {**same, **told}, "setting")
    with job.timed("read"):
        parts = split(rows(job, "train"), validation=rows(job, "validation"), test=0.0 if after else rows(job, "test"))
    with job.timed("all"):
        branch = tune(parts, job.model, method=method, depth=int(depth) if depth.isdigit() else depth, settings=settings, out=job.out)
    job.saved()
    report = branch.report
    stages = report.cost["seconds"]
    rest = job.seconds.pop("all") - sum(stages.values())
    job.seconds |= {**stages, "read": job.seconds["read"] + stages.get("read", 0.0), "save": rest}
    history = report.history[0]
    job.report(
        test=(evaluate(branch, rows(job, "test")) if after else report).results[-1]["metrics"]["accuracy"]["value"],
        validation=max((entry["metrics"]["accuracy"] for entry in history), default=None),
        epochs=len(history),
        steps=history[-1]["step"] if history else 0,
        cost=report.cost,
        model=report.model,
    )


def rows(job: Job, part: str) -> Rows:
    return read(job.files[part], text="text", label="label")


if __name__ == "__main__":
    main()
