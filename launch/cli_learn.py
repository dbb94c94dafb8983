"""Sub-commands that make data, train and evaluate: thin doors to the functions that do it."""

from __future__ import annotations

import typer

from visuomotor.launch.cli_options import PLAIN

render = typer.Typer(help="Make labelled data sets from the simulator, in COCO form.", **PLAIN)
train = typer.Typer(help="Train a network and write its bundle.", **PLAIN)
evaluate = typer.Typer(help="Measure a network, or the whole graph over a suite of scenarios.", **PLAIN)
