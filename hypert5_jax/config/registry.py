"""What gin may name: the library's frozen dataclasses, which know nothing of gin."""

import dataclasses
import functools
from collections.abc import Mapping

import gin

from hypert5_jax.checkpoints.store import CheckpointConfig
from hypert5_jax.config.data import DataConfig
from hypert5_jax.config.evaluate_run import EvaluateRun, EvaluationData
from hypert5_jax.config.recipe import Recipe
from hypert5_jax.config.train_run import TrainRun
from hypert5_jax.config.train_sweep import TrainSweep
from hypert5_jax.config.tune_run import Starts, TuneRun
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import HeadConfig, Variant
from hypert5_jax.inference.decoding import Decoding
from hypert5_jax.parallel.mesh import MeshConfig
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec
from hypert5_jax.t5.config import T5Config
from hypert5_jax.training.initial import InitialConfig
from hypert5_jax.training.optimisers import OptimiserConfig
from hypert5_jax.training.schedules import ScheduleConfig
from hypert5_jax.training.settings import TrainConfig

CONFIGURABLES: Mapping[str, type] = {
    cls.__name__: cls
    for cls in (
        CheckpointConfig,
        DataConfig,
        Decoding,
        EvaluateRun,
        EvaluationData,
        HeadConfig,
        InitialConfig,
        LoRASpec,
        MeshConfig,
        OptimiserConfig,
        PrefixSpec,
        Recipe,
        RowFormat,
        ScheduleConfig,
        Starts,
        System,
        T5Config,
        TrainConfig,
        TrainRun,
        TrainSweep,
        TuneRun,
        Variant,
    )
}


@functools.cache
def register() -> None:
    """Makes CONFIGURABLES known to gin under their class names; once per process."""
    for name, cls in CONFIGURABLES.items():
        gin.external_configurable(cls, name, module="hypert5_jax")


def add(cls: type) -> None:
    """Makes one more dataclass known, for front doors with settings of their own."""
    if cls.__name__ not in _ADDED:
        register()
        gin.external_configurable(cls, cls.__name__, module="hypert5_jax")
        _ADDED[cls.__name__] = cls


_ADDED: dict[str, type] = {}


def known() -> dict[str, type]:
    """{name: class} of everything registered."""
    return {**CONFIGURABLES, **_ADDED}


def fields_of(name: str) -> list[str]:
    """The settings of a configurable, none if it is unknown."""
    cls = known().get(name)
    return [] if cls is None else [field.name for field in dataclasses.fields(cls)]
