"""Folders as evaluate and tune leave them, with numbers of our choice."""

import copy
import json
from pathlib import Path

SETTINGS = {
    "protocol": {"name": "p3", "average": "columns", "metrics": ["accuracy"]},
    "parameters": {"downstream": "frozen", "hypermodel": "trained"},
    "variant": {"adaptation": "prefix"},
    "data": {"mixture": "eval", "split": "test", "digest": "d", "support": "eval/test"},
    "tasks": [],
    "limit": None,
    "rows": {
        "lengths": {"hyper_inputs": 1024, "inputs": 384, "targets": 128},
        "max_shots": 16,
        "context": "hypermodel",
    },
    "decoding": {"beams": 1},
    "frozen_dtype": "bfloat16",
    "versions": {"jax": "0.10.2"},
}
TRAINING = "TrainRun.model_dir = %MODEL_DIR\nMODEL_DIR = 'runs/{seed}'\nSEED = {seed}\n"
P3 = ("ANLI", "HSwag", "CB", "COPA", "RTE", "WiC", "WSC", "WGD")


def numbers(draws):
    """As evaluate writes a number; one draw or several."""
    draws = list(draws) if isinstance(draws, list | tuple) else [draws]
    return {"mean": sum(draws) / len(draws), "sd": None, "draws": draws}


def p3_context(*scores, groups=()):
    """P3's columns in order (all eight, or by name), AVG where all are there."""
    columns = scores[0] if isinstance(scores[0], dict) else dict(zip(P3, scores))
    table = {name: numbers(value) for name, value in columns.items()}
    found = {"mean": table, "tables": [{"missing_groups": list(groups)}]}
    if len(columns) == len(P3):
        draws = [numbers(v)["draws"] for v in columns.values()]
        table["AVG"] = numbers([sum(d) / 8 for d in zip(*draws)])
        found["headline"] = table["AVG"]
    return found


def write_result(
    folder,
    system="HyperT5-Prefix",
    context=None,
    table="table_1",
    column="",
    steps=None,
    config="",
    contexts=None,
    **settings,
):
    """One results.json; `settings` override parts of about.settings, nested by __."""
    decides = copy.deepcopy(SETTINGS)
    for path, value in settings.items():
        *parents, last = path.split("__")
        node = decides
        for parent in parents:
            node = node[parent]
        node[last] = value
    context = (
        {"headline": numbers(context)} if not isinstance(context, dict) else context
    )
    recipe = {"name": f"x/{system}", "table": table, "system": system}
    recipe |= {"column": column, "hyperpretrained": steps}
    results = {
        "protocol": decides["protocol"]["name"],
        "recipe": recipe,
        "contexts": {"real": context, **(contexts or {})},
        "about": {"checkpoint": None, "settings": decides, "config": config},
    }
    file = Path(folder) / "results.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(results))
    return file


PLAN = {
    "recipe": {"name": "peft/tune_large", "table": "small_tune"},
    "protocol": "p3",
    "methods": ["LoRA"],
    "starts": ["Rand", "Hyper"],
    "tasks": ["rte", "cb"],
    "learning_rates": [1e-3, 1e-4],
    "seeds": [0, 1],
    "steps": 20,
}


def run_line(task="rte", start="Rand", rate=1e-3, seed=0, scores=(10.0, 20.0), **more):
    """One line of cells.jsonl as a dict."""
    return {
        "method": "LoRA",
        "start": start,
        "task": task,
        "column": task.upper(),
        "learning_rate": rate,
        "seed": seed,
        "metric": "accuracy",
        "steps": list(range(0, 10 * len(scores), 10)),
        "scores": list(scores),
        "losses": [None] * len(scores),
        "source_score": None if start == "Rand" else scores[0],
        "seconds": 1.0,
        **more,
    }


def write_sweep(folder, lines, torn="", **plan):
    """settings.json and cells.jsonl."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps(PLAN | plan))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "cells.jsonl").write_text(text + torn)
    return folder / "cells.jsonl"
