"""`python -m export.demo_model`: draw scenes, train, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from export.demo_model.scenes.scenes import HELD_OUT_SEED, PLAY_SEED, write_scenes


@click.group()
def main() -> None:
    """Draw scenes, train the demo model and evaluate it."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--count", default=20, show_default=True, help="Number of scenes.")
@click.option("--seed", default=PLAY_SEED, show_default=True, help="Seed of the first scene.")
def scenes(folder: Path, count: int, seed: int) -> None:
    """Write garage scenes: a JPG and a JSON each."""
    click.echo(f"{len(write_scenes(folder, seed, count))} scenes in {folder}")


@main.command()
@click.option("--out", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder.")
@click.option("--minutes", default=90.0, show_default=True, help="Time for the training.")
@click.option("--init", "initial", type=click.Path(path_type=Path, exists=True), help="Checkpoint to start from.")
@click.option("--scenes", "count", default=9000, show_default=True, help="Number of training scenes.")
@click.option("--seed", default=0, show_default=True, help="Seed of the weights, the scenes and the batches.")
@click.option("--rate", default=7e-4, show_default=True, help="Highest learning rate.")
@click.option("--pictures", default=8, show_default=True, help="Pictures in the batch of a process.")
@click.option("--processes", default=2, show_default=True, help="Processes of one thread each.")
def train(folder: Path, initial: Path | None, count: int, seed: int, processes: int, **schedule: Any) -> None:
    """Train from a seed or a checkpoint; resume from the state in the folder."""
    from export.demo_model.architecture import DemoConfig
    from export.demo_model.scenes.dataset import CacheOptions, render_cache
    from export.demo_model.training.learner import LearnerOptions
    from export.demo_model.training.training import FROM_CHECKPOINT, FROM_SEED, TrainingOptions
    from export.demo_model.training.training import train as run

    click.echo(f"Drawing {count} scenes")
    render_cache(folder / "cache", CacheOptions(scenes=count, seed=seed, shards=processes))
    options = TrainingOptions(
        folder=folder,
        cache=folder / "cache",
        learner=LearnerOptions(config=DemoConfig(), seed=seed, initial=initial),
        **schedule,
        stages=FROM_CHECKPOINT if initial else FROM_SEED,
        processes=processes,
    )
    click.echo(f"Training for {schedule['minutes']:g} minutes; losses are written to {folder / 'log.jsonl'}")
    click.echo(f"Checkpoint: {run(options)}")


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--count", default=200, show_default=True, help="Number of scenes.")
@click.option("--seed", default=HELD_OUT_SEED, show_default=True, help="Seed of the first scene.")
def evaluate(checkpoint: Path, count: int, seed: int) -> None:
    """Print the accuracy of CHECKPOINT: a Markdown table, then one line of JSON."""
    from export.demo_model.evaluation import EvaluationOptions
    from export.demo_model.evaluation import evaluate as run

    figures = run(checkpoint, EvaluationOptions(scenes=count, seed=seed))
    click.echo(figures.as_markdown())
    click.echo(figures.as_json())


if __name__ == "__main__":
    main()
