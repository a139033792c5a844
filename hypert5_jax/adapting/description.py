"""model.json: what a folder's parameters are, so that it can be used without its config.

    model.json         system, rows, vocabulary; of a folder to carry also its files
    vocabulary.model   the SentencePiece model, for that kind of vocabulary

A training run writes both at its start, `Model.save` beside the arrays.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from hypert5_jax.checkpoints.whole_files import write_whole
from hypert5_jax.core import field_types
from hypert5_jax.core.errors import UserError
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.vocabulary import MODEL_FILE, Vocabulary, fingerprint
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import HeadConfig, Variant
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec
from hypert5_jax.t5.config import T5Config

FORMAT = "hypert5_jax.model"
VERSION = 1
FILE = "model.json"


@dataclasses.dataclass(frozen=True)
class Description:
    """What model.json says.

    Attributes:
      system: models and variant.
      row: what a row holds and how long it may be.
      vocabulary: of all ids.
      frozen_dtype: what the run held its frozen groups in.
      base_model: fingerprint of the downstream T5, of a folder to carry; "" of a run,
        whose checkpoint tells.
      stored: {group: fingerprint of the arrays in its file}, of a folder to carry.
    """

    system: System
    row: RowFormat
    vocabulary: Vocabulary
    frozen_dtype: str = "float32"
    base_model: str = ""
    stored: Mapping[str, str] = dataclasses.field(default_factory=dict)


def write(folder: epath.Path, description: Description) -> None:
    """Writes the vocabulary's model, then model.json, each whole.

    Raises:
      UserError: the folder cannot be written, or the vocabulary's model is missing.
    """
    vocabulary = description.vocabulary
    if vocabulary.kind == "sentencepiece":
        _copy_model(vocabulary, folder / MODEL_FILE)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "system": dataclasses.asdict(description.system),
        "row_format": dataclasses.asdict(description.row),
        "vocabulary": vocabulary.to_json(),
        "frozen_dtype": description.frozen_dtype,
    }
    if description.stored:
        content["base_model"] = description.base_model
        content["stored"] = dict(description.stored)
    write_whole(folder / FILE, json.dumps(content, indent=1) + "\n")


def read(folder: epath.Path) -> Description:
    """What the model.json of a folder says.

    Raises:
      UserError: it is damaged, or of another format or version.
    """
    file = folder / FILE
    try:
        content = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise UserError(
            f"{file} is not whole ({error}); restore it, or write it again with the "
            "command that made the folder"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{file} does not describe a model (format {FORMAT!r})")
    if content.get("version") != VERSION:
        raise UserError(
            f"{file} has version {content.get('version')}, this program reads version "
            f"{VERSION}; update hypert5_jax"
        )
    try:
        description = Description(
            system=_system(content["system"]),
            row=RowFormat(**content["row_format"]),
            vocabulary=Vocabulary.from_json(content["vocabulary"], folder),
            frozen_dtype=content["frozen_dtype"],
            base_model=content.get("base_model", ""),
            stored=dict(content.get("stored", {})),
        )
        field_types.check(description)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{file} is not what this release writes ({error}); update hypert5_jax, or "
            "undo what was edited"
        ) from error
    _check_model(description.vocabulary, folder / MODEL_FILE)
    return description


def _check_model(vocabulary: Vocabulary, file: epath.Path) -> None:
    """Refuses a folder whose SentencePiece model is missing or another one."""
    if vocabulary.kind != "sentencepiece":
        return
    if not file.exists():
        raise UserError(f"{file} is missing: the folder is half a model; copy it whole")
    digest = fingerprint(vocabulary.kind, file.read_bytes(), vocabulary.extra_ids)
    if digest != vocabulary.fingerprint:
        raise UserError(
            f"{file} is not the vocabulary that the model was trained with; copy the "
            "folder again, or take the file from where its data were prepared"
        )


def _system(fields: Mapping[str, Any]) -> System:
    variant = dict(fields["variant"])
    lora = dict(variant["lora"])
    lora["maps"] = tuple(lora["maps"])
    variant["lora"] = LoRASpec(**lora)
    variant["prefix"] = PrefixSpec(**variant["prefix"])
    variant["head"] = HeadConfig(**variant["head"])
    other = fields["hypermodel"]
    return System(
        downstream=T5Config(**fields["downstream"]),
        variant=Variant(**variant),
        hypermodel=None if other is None else T5Config(**other),
    )


def _copy_model(vocabulary: Vocabulary, target: epath.Path) -> None:
    source = epath.Path(vocabulary.model_path or "")
    if not vocabulary.model_path or not source.exists():
        raise UserError(
            f"the vocabulary model {vocabulary.model_path} is missing; prepare the "
            "mixture again, or restore the file from where it was prepared"
        )
    model = source.read_bytes()
    if not target.exists() or target.read_bytes() != model:
        write_whole(target, model)
